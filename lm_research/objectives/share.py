"""Each device's own tokens, for a loss that is a sum over tokens."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from lm_research.layers import Head, shard
from lm_research.layers.einsum import one_device
from lm_research.mesh import axes_of, names_of, parts

Array = jax.Array
Tree = Any


@dataclasses.dataclass(frozen=True)
class Share:
    """How the mesh shares out rows and positions of [B, T, ...].

    Attributes:
      rows, positions: into how many parts.
      names: the mesh axes that do.
    """

    rows: int = 1
    positions: int = 1
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, B: int, T: int) -> "Share":
        """That of the current mesh and rules; one part where it does not divide B and T."""
        if one_device():
            return cls()
        rows, positions = axes_of("B"), axes_of("T")
        sizes = parts(rows), parts(positions)
        if B % sizes[0] or T % sizes[1]:
            return cls()
        return cls(*sizes, (*rows, *positions))

    def each(self, function: Callable[..., Tree], *arrays: Array) -> Tree:
        """`function` of each device's part of arrays [B, T, ...], stacked [parts, ...]."""
        if self.rows * self.positions == 1:
            return jax.tree.map(lambda x: x[None], function(*arrays))
        rules = nn.get_logical_axis_rules()
        free = tuple(rule for rule in rules if not set(names_of(rule[1])) & set(self.names))
        with nn.logical_axis_rules(free):
            return jax.vmap(function, spmd_axis_name=self.names)(*map(self._apart, arrays))

    def _apart(self, x: Array) -> Array:
        """[B, T, ...] as [parts, B / rows, T / positions, ...]."""
        B, T, *rest = x.shape
        x = x.reshape(self.rows, B // self.rows, self.positions, T // self.positions, *rest)
        x = jnp.moveaxis(x, 2, 1).reshape(-1, *x.shape[1:2], *x.shape[3:])
        return jax.lax.with_sharding_constraint(x, PartitionSpec(self.names))

    def joined(self, x: Array) -> Array:
        """What `each` made of arrays [B, T, ...], as they were."""
        _, B, T, *rest = x.shape
        x = jnp.moveaxis(x.reshape(self.rows, self.positions, B, T, *rest), 1, 2)
        return x.reshape(self.rows * B, self.positions * T, *rest)

    def gathered(self, head: Head) -> Head:
        """The head as every device needs it: its products' operands, with D whole."""
        if self.rows * self.positions == 1:
            return head
        kernel = head.kernel.astype(head.dtype)
        return head.replace(kernel=shard(kernel, ("V", None)))

    def scattered(self, gradient: Head) -> Head:
        """The head's gradient, laid out as the head is."""
        if self.rows * self.positions == 1:
            return gradient
        kernel = shard(gradient.kernel, ("V", "D"))
        return gradient.replace(kernel=kernel)
