"""`Mean`: a metric as a total and a weight, so that microbatches, hosts and batches just add."""

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class Mean:
    """A weighted mean that is divided only when it is read.

    Averaging means is wrong when weights differ; adding totals and weights is exact.
    """

    total: jax.Array  # []
    weight: jax.Array  # []

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.total + other.total, self.weight + other.weight)

    def value(self) -> jax.Array:
        """total / weight, and 0 where nothing was weighed."""
        return self.total / jnp.where(self.weight == 0, 1.0, self.weight)


def add(left: dict[str, Mean], right: dict[str, Mean]) -> dict[str, Mean]:
    """Two dicts of means with the same names, added name by name."""
    return {name: left[name] + right[name] for name in left}
