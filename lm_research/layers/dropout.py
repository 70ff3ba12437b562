"""Dropout that is on exactly where a `dropout` key is given."""

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array


class Dropout(nn.Module):
    """Srivastava et al. (2014): zeroes entries at `rate` and scales up the rest.

    There is no flag for training: `apply` without `rngs={"dropout": key}` is deterministic.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if not self.rate or not self.has_rng("dropout"):
            return x
        kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, x.shape)
        return jnp.where(kept, x / (1 - self.rate), 0)
