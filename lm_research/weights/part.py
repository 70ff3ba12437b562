"""Train some parameters and hold the rest."""

import dataclasses
from typing import Any

import jax

from lm_research import tree
from lm_research.errors import UserError

Tree = Any


@dataclasses.dataclass(frozen=True)
class Part:
    """Trains the parameters in whose names a pattern is found; the rest has no moments.

    Attributes:
      pattern: a regular expression over names such as `stack/blocks/attention/query/kernel`.
    """

    pattern: str

    def split(self, params: Tree, key: jax.Array) -> tuple[Tree, Tree]:
        """Two trees of the same shape, each with None where the other has a leaf.

        Raises:
          UserError: the pattern is found in no name, or in all.
        """
        del key
        chosen = tree.matching(self.pattern, params)
        found = jax.tree.leaves(chosen)
        if not any(found) or all(found):
            which = "all" if all(found) else "none"
            raise UserError(
                f"weights.pattern {self.pattern!r} is found in {which} of the {len(found)} "
                f"parameters; their names are like {next(iter(tree.named_leaves(params)))!r}"
            )
        keep = lambda on: tree.map_named(lambda _, p, c: p if c == on else None, params, chosen)
        return keep(True), keep(False)

    def join(self, trained: Tree, held: Tree) -> Tree:
        """Each leaf from the tree that has it."""
        return jax.tree.map(
            lambda t, h: h if t is None else t, trained, held, is_leaf=lambda leaf: leaf is None
        )
