"""`Embedder`: any trunk, and a vector of each text for texts to be compared by."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_research.layers import Mask, Output
from lm_research.models.trunk import OfText, OnTrunk, bare, pooled

Array = jax.Array

LEAST = 1e-12  # length that a vector is taken to have at least


class TextEmbedder(OnTrunk):
    """A trunk, and what it says of a text as one vector.

    Attributes:
      pool: the vector is that of the first token, of the last one, or the mean of all.
      normalised: whether vectors are of length 1.
    """

    pool: OfText
    normalised: bool

    @nn.compact
    def __call__(
        self, tokens: Array, *, mask: Mask | None = None, cache: Any = None, **given: Any
    ) -> Output:
        """Reads texts [B, T]; `pooled` of the output are their vectors [B, D], in float32.

        Args:
          tokens: ids.
          mask: of its segments, 0 is padding.
          cache: there is none to extend.
          **given: what else the trunk takes, such as `position` and `types`.
        """
        del cache
        x = self.trunk(tokens, mask=mask, **given).hidden.astype(jnp.float32)  # [B, T, D]
        present = None if mask is None else mask.segments[1] > 0
        found = pooled(x, present, self.pool)[:, 0]
        return Output(x, None, pooled=unit(found) if self.normalised else found)


def unit(vectors: Array) -> Array:
    """Vectors [..., D] as long as 1; one of length 0 stays so."""
    # The root of a square that is not 0 has a gradient everywhere.
    square = jnp.maximum(jnp.square(vectors).sum(-1, keepdims=True), LEAST**2)
    return vectors * jax.lax.rsqrt(square)


def Embedder(trunk: nn.Module, pool: OfText = "mean", normalised: bool = True) -> TextEmbedder:
    """A model that gives each text a vector (Reimers and Gurevych, 2019).

    Args:
      trunk: a model section; heads that it has are left out.
      pool: which of the trunk's hidden states the vector is: that of the first token, of the last
        one, or the mean of all.
      normalised: whether vectors are of length 1, so that their product is their cosine.

    Raises:
      ValueError: the trunk is on a trunk already, or has no single stream of hidden states.
    """
    return TextEmbedder(bare(trunk, "an embedder"), pool, normalised)
