"""LoRA (Hu et al., 2022): train a low-rank difference to matrices that are held."""

import dataclasses
import re
import zlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_research import tree
from lm_research.errors import UserError

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
    """

    rank: int = 8
    scale: float = 16.0
    pattern: str = r"attention/.*kernel"

    def split(self, params: Tree, key: jax.Array) -> tuple[Tree, Tree]:
        """Factors that add up to nothing yet, and all parameters.

        Raises:
          UserError: the pattern is found in no matrix's name.
        """

        def factors(name: str, box: nn.LogicallyPartitioned):
            if not re.search(self.pattern, name) or box.value.ndim < 2:
                return None
            layer, inner, outer = split_axes(box.names)
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

        trained = tree.map_named(factors, params)
        if not jax.tree.leaves(trained):
            raise UserError(f"weights.pattern {self.pattern!r} is found in the name of no matrix")
        return trained, params

    def join(self, trained: Tree, held: Tree) -> Tree:
        """The merged weights: plain parameters that any model takes."""

        def merged(weight: jax.Array, factors: dict | None) -> jax.Array:
            if factors is None:
                return weight
            a, b = factors["a"], factors["b"]
            layers = a.ndim + b.ndim - 2 - weight.ndim  # leading axes that both factors share
            lead, rank = weight.shape[:layers], a.shape[-1]
            difference = a.reshape(*lead, -1, rank) @ b.reshape(*lead, rank, -1)
            return weight + (self.scale / self.rank) * difference.reshape(weight.shape)

        factors = lambda leaf: leaf is None or (isinstance(leaf, dict) and set(leaf) == {"a", "b"})
        flat, structure = jax.tree.flatten(trained, is_leaf=factors)
        return structure.unflatten(map(merged, structure.flatten_up_to(held), flat))


def split_axes(names: tuple) -> tuple[tuple, tuple, tuple]:
    """A kernel's axes as (layer and expert, contracted, kept).

    Every kernel reads from the stream (D first) or writes to it (D last).
    """
    lead = tuple(name for name in names if name in ("L", "E"))
    rest = names[len(lead) :]
    split = 1 if rest[0] == "D" else len(rest) - 1
    return lead, rest[:split], rest[split:]
