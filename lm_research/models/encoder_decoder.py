"""`EncoderDecoder`: a source is read whole, and a text is written that attends to it."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_research.layers import Mask, Output
from lm_research.models.transformer import Table, Transformer

Array = jax.Array


class EncoderDecoder(nn.Module):
    """Two stacks that share one embedding (Vaswani et al., 2017).

    Attributes:
      encoder: reads the source; its head is not used.
      decoder: its blocks attend to themselves and to the encoder's output.
      start: the token that stands before the first one of a text.
      first: the first token of every text that is generated; None leaves it to the model.
    """

    encoder: Transformer
    decoder: Transformer
    start: int = 0
    first: int | None = None

    @nn.compact
    def __call__(
        self,
        tokens: Array,  # [B, T]
        *,
        source: Array | None = None,  # [B, S]
        source_mask: Mask | None = None,
        source_position: Array | None = None,  # [B, S]
        position: Array | None = None,  # [B, T]
        mask: Mask | None = None,
        cache: tuple | None = None,
        seen: Array | None = None,  # [B, T]
    ) -> Output:
        """Reads the decoder's tokens, after those in `cache` where there is one.

        With a cache, the call that has a `source` keeps the keys and values that each block makes
        of it, and later calls do without.

        Args:
          tokens: of the decoder.
          source: of the encoder.
          source_mask: what to restrict in the source. Segments say what belongs together; tokens
            see the source of their own segment, those without segments that of segment 1. So 0 is
            padding.
          source_position: of each token of the source; by default their slots.
          position, mask, cache: of the decoder, as in `Transformer`.
          seen: the segment of the source that each token sees, where it is not its own.

        Raises:
          ValueError: there is no source, and no cache that has one.
        """
        table = Table(self.vocab, self.decoder.width, self.decoder.deviation, name="embedding")()
        memory = memory_mask = None
        if source is not None:
            memory_mask = _across(tokens, mask, source_mask, seen)
            memory = self.encoder(
                source, position=source_position, mask=source_mask, table=table
            ).hidden
        elif cache is None:
            raise ValueError("an encoder-decoder reads a source: give `source`")
        return self.decoder(
            tokens,
            position=position,
            mask=mask,
            cache=cache,
            memory=memory,
            memory_mask=memory_mask,
            table=table,
        )

    def shifted(self, targets: Array) -> Array:  # [B, T] -> [B, T]
        """What the decoder reads to predict each target: `start`, and all targets but the last."""
        first = jnp.full_like(targets[:, :1], self.start)
        return jnp.concatenate([first, targets[:, :-1]], 1)

    def init_cache(self, batch: int, length: int) -> tuple:
        """An empty cache for `batch` rows of `length` tokens of the decoder."""
        return self.decoder.init_cache(batch, length)

    @property
    def vocab(self) -> int:
        """V, of source and text."""
        return self.decoder.vocab

    @property
    def context(self) -> int | None:
        """How many positions the decoder knows; None where there is no such limit."""
        return self.decoder.context

    @property
    def causal(self) -> bool:
        """Whether tokens see only those before them."""
        return self.decoder.causal

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding table."""
        return self.decoder.tied

    @property
    def dtype(self):
        """Of the decoder's products' operands."""
        return self.decoder.dtype


def _across(tokens: Array, mask: Mask | None, source_mask: Mask | None, seen: Array | None) -> Mask:
    """Which tokens of the source each token of the text sees."""
    if source_mask is None or source_mask.segments is None:
        return Mask()
    if seen is None:
        seen = mask.segments[0] if mask is not None and mask.segments else jnp.ones_like(tokens)
    return Mask(segments=(seen, source_mask.segments[1]))
