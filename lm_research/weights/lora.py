"""LoRA (Hu et al., 2022): train a low-rank difference to matrices that are held."""

import dataclasses
import itertools
import math
import zlib
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_research import tree
from lm_research.errors import UserError
from lm_research.weights.part import where

Tree = Any


@dataclasses.dataclass(frozen=True)
class LoRA:
    """W + scale / rank * A B, with A [..., in, r] and B [..., r, out] trained.

    A takes the axes of W that its equation contracts, B those that it keeps: of a kernel `NHD`, A
      has N and H.

    Attributes:
      rank: r.
      scale: "alpha" in the paper.
      pattern: matrices in whose names this regular expression is found get a difference.
      besides: parameters in whose names this is found are trained themselves; by default the head
        of a classifier, which nothing has trained yet.
      stabilized: whether the scale is divided by the root of the rank instead (Kalajdzievski,
        2023).
      adapter: a directory of PEFT's from whose factors the run begins; it tells the other fields.
    """

    rank: int = 8
    scale: float = 16.0
    pattern: str = r"attention/.*kernel"
    besides: str = r"^(dense/)?(kernel|bias)$"
    stabilized: bool = False
    adapter: str | None = None
    apart: ClassVar[bool] = True

    def __post_init__(self):
        if self.rank < 1:
            raise ValueError(f"rank is {self.rank}; it takes a number from 1 on")

    @property
    def scaling(self) -> float:
        """What the product of the factors is multiplied with."""
        return self.scale / (math.sqrt(self.rank) if self.stabilized else self.rank)

    def split(self, params: Tree, key: jax.Array) -> tuple[Tree, Tree]:
        """Factors that add up to nothing yet beside what is trained itself; and what is not.

        Raises:
          UserError: the pattern is found in no matrix's name.
        """

        whole = tree.matching(self.besides, params)
        named = tree.matching(self.pattern, params)

        def factors(name: str, box: nn.LogicallyPartitioned, itself: bool, found: bool):
            if itself:
                return box
            layer, inner, outer = split_axes(box.names)
            if not found or not inner or not outer:
                return None
            sizes = dict(zip(box.names, box.value.shape))
            shape = lambda letters: tuple(sizes[letter] for letter in letters)
            # crc32, not hash(): the latter differs between processes.
            here = jax.random.fold_in(key, zlib.crc32(name.encode()))
            uniform = jax.nn.initializers.he_uniform(range(len(layer), len(layer + inner)), -1)
            a = uniform(here, (*shape(layer + inner), self.rank), jnp.float32)
            b = jnp.zeros((*shape(layer), self.rank, *shape(outer)), jnp.float32)
            return {
                "a": box.replace(value=a, names=(*layer, *inner, None)),
                "b": box.replace(value=b, names=(*layer, None, *outer)),
            }

        trained = tree.map_named(factors, params, whole, named)
        if not any(map(is_pair, jax.tree.leaves(trained, is_leaf=is_pair))):
            raise UserError(f"weights.pattern {self.pattern!r} is found in the name of no matrix")
        return trained, where(whole, params, False)

    def join(self, trained: Tree, held: Tree) -> Tree:
        """The merged weights: plain parameters that any model takes."""

        def merged(weight: jax.Array | None, factors: dict | jax.Array | None) -> jax.Array:
            if factors is None:
                return weight
            if weight is None:
                return factors
            a, b = factors["a"], factors["b"]
            layers = a.ndim + b.ndim - 2 - weight.ndim  # leading axes that both factors share
            lead, rank = weight.shape[:layers], a.shape[-1]
            difference = a.reshape(*lead, -1, rank) @ b.reshape(*lead, rank, -1)
            return weight + self.scaling * difference.reshape(weight.shape)

        flat, structure = jax.tree.flatten(trained, is_leaf=lambda x: x is None or is_pair(x))
        return structure.unflatten(map(merged, structure.flatten_up_to(held), flat))


def is_pair(node: Any) -> bool:
    """Whether a node of the trained tree is the two factors of one matrix."""
    return isinstance(node, dict) and set(node) == {"a", "b"}


def begun(trained: Any, arrays: Mapping[str, Any]) -> Any:
    """What `LoRA` trains, with the arrays of an adapter in the places that they name.

    Raises:
      UserError: one has another shape, as a head of other classes has.
    """

    def taken(name: str, leaf: Any) -> Any:
        found = arrays.get(name, leaf)
        if found.shape != leaf.shape:
            raise UserError(
                f"the adapter holds {name} as {list(found.shape)}; "
                f"the model needs {list(leaf.shape)}"
            )
        return found

    return tree.map_named(taken, trained)


def split_axes(names: tuple) -> tuple[tuple, tuple, tuple]:
    """A kernel's axes as (layer and expert, contracted, kept); what is no matrix lacks either.

    Every kernel reads from the stream (D first) or writes to it (D last).
    """
    lead = tuple(itertools.takewhile(lambda name: name in ("L", "E"), names))
    rest = names[len(lead) :]
    split = 1 if rest[:1] == ("D",) else len(rest) - 1
    return lead, rest[:split], rest[split:]
