"""Train some parameters and hold the rest."""

import dataclasses
from typing import Any

import jax

from lm_research import tree
from lm_research.errors import UserError

Tree = Any


@dataclasses.dataclass(frozen=True)
class Part:
    r"""Trains the parameters in whose names a pattern is found; the rest has no moments.

    Attributes:
      pattern: a regular expression over names such as `stack/blocks/attention/query/kernel`.
      held: those of them in whose names this is found are not trained: `\bembedding/table` alone
        trains everything but a frozen embedding.
    """

    pattern: str = ""
    held: str | None = None

    def split(self, params: Tree, key: jax.Array) -> tuple[Tree, Tree]:
        """Two trees of the same shape, each with None where the other has a leaf.

        Raises:
          UserError: a pattern is found in no name, or in all.
        """
        del key
        chosen = selected("pattern", self.pattern, params)
        if self.held is not None:
            held = selected("held", self.held, params)
            chosen = jax.tree.map(lambda one, other: one and not other, chosen, held)
        found = jax.tree.leaves(chosen)
        if not any(found) or all(found):
            which = "all" if all(found) else "none"
            raise UserError(
                f"weights.pattern {self.pattern!r} trains {which} of the {len(found)} parameters; "
                f"their names are like {next(iter(tree.named_leaves(params)))!r}"
            )
        return where(chosen, params, True), where(chosen, params, False)

    def join(self, trained: Tree, held: Tree) -> Tree:
        """Each leaf from the tree that has it."""
        return united(trained, held)


def selected(field: str, pattern: str, params: Tree) -> Tree:
    """True at each parameter in whose name `pattern` is found.

    Raises:
      UserError: it is found in none; names the field of `weights`.
    """
    chosen = tree.matching(pattern, params)
    if not any(found := jax.tree.leaves(chosen)):
        raise UserError(
            f"weights.{field} {pattern!r} is found in none of the {len(found)} parameters; "
            f"their names are like {next(iter(tree.named_leaves(params)))!r}"
        )
    return chosen


def where(chosen: Tree, params: Tree, on: bool) -> Tree:
    """The parameters at which `chosen` is `on`, and None elsewhere."""
    return tree.map_named(lambda _, p, c: p if c == on else None, params, chosen)


def united(one: Tree, other: Tree) -> Tree:
    """What `one` has, and where it has None, what `other` has."""
    leaf = lambda x: x is None or tree.boxed(x)
    return jax.tree.map(lambda a, b: b if a is None else a, one, other, is_leaf=leaf)
