"""fastText (Joulin et al., 2017): the mean of what a text's words and n-grams are embedded as."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_research.layers import Mask, Output, parameter, tap
from lm_research.models.transformer import Table

Array = jax.Array


class FastText(nn.Module):
    """An embedding for each feature, their mean over a text, and a linear classifier.

    It reads features as `Words` makes them, and computes what fastText's supervised models with a
    softmax compute.

    Attributes:
      vocab: V, words and buckets of n-grams.
      classes: names of the classes; None where the data says them.
      width: D.
      deviation: of the initial embeddings; None is that of their code's, which are uniform up to
        1 / D. The classifier begins at zero.
      dropout: rate on features, whole.
    """

    vocab: int
    classes: tuple[str, ...] | None = None
    width: int = 100
    deviation: float | None = None
    dropout: float = 0.0
    causal = continues = predicts = False  # no attributes: it reads a text as a whole
    context = None

    @nn.compact
    def __call__(
        self,
        tokens: Array,  # [B, T]
        *,
        position: Array | None = None,  # [B, T]
        mask: Mask | None = None,
        cache: Any = None,
    ) -> Output:
        """Reads the features of texts; `scores` of the output are the logits [B, classes].

        Args:
          tokens: features, in any order.
          position: changes nothing.
          mask: of its segments, 0 is padding.
          cache: there is none to extend.
        """
        del position, cache
        deviation = self.deviation or 1 / (3**0.5 * self.width)
        table = Table(self.vocab, self.width, deviation, name="embedding")()
        x = tap(self, "embedded", jnp.take(table, tokens, 0, mode="clip"))  # [B, T, D]
        present = jnp.ones(tokens.shape) if mask is None else (mask.segments[1] > 0)
        present = present.astype(jnp.float32)
        if self.dropout and self.has_rng("dropout"):
            kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.dropout, tokens.shape)
            present = present * kept
        total = jnp.einsum("BTD,BT->BD", x, present)
        pooled = total / jnp.maximum(present.sum(1, keepdims=True), 1)
        sizes = self.width, len(self.classes or ("", ""))
        kernel = parameter(self, "kernel", nn.initializers.zeros, ("D", None), sizes)
        return Output(x, None, pooled=pooled, scores=pooled @ kernel)
