"""`ClassWriter`: an encoder-decoder that tells the class of a text by writing its name."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm_research.layers import Mask, Output
from lm_research.models.encoder_decoder import EncoderDecoder

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Packed:
    """The names of all classes in one row of T tokens.

    Attributes:
      tokens, targets: what the decoder reads, and is to write: int32 [T].
      segments: which name, from 1 on, each token is of: int32 [T].
      position: of each token in its name: int32 [T].
    """

    tokens: np.ndarray
    targets: np.ndarray
    segments: np.ndarray
    position: np.ndarray


class ClassWriter(nn.Module):
    """Says of every class how the decoder would write its name (Raffel et al., 2020, section 2.4).

    Attributes:
      trunk: reads the text, and writes the name.
      classes: their names.
      written: the tokens of each name.
    """

    trunk: EncoderDecoder
    classes: tuple[str, ...]
    written: tuple[tuple[int, ...], ...]
    causal = continues = predicts = False  # no attributes: it reads a text as a whole

    @nn.compact
    def __call__(self, tokens: Array, *, mask: Mask | None = None, cache: Any = None) -> Output:
        """Reads texts [B, S]; the output is the decoder's, at every token of all names [B, T].

        Args:
          tokens: ids.
          mask: of its segments, 1 is the text and 0 is padding.
          cache: there is none to extend.
        """
        del cache
        packed = self.packed
        rows = lambda x: jnp.broadcast_to(x, (tokens.shape[0], len(x)))
        own = rows(packed.segments)
        return self.trunk(
            rows(packed.tokens),
            source=tokens,
            source_mask=mask,
            position=rows(packed.position),
            mask=Mask(segments=(own, own)),
            seen=jnp.ones_like(own),
        )

    @property
    def packed(self) -> Packed:
        """The names in one row, each of which sees the text and none of the others."""
        counts = [len(name) for name in self.written]
        targets = np.concatenate([np.int32(name) for name in self.written])
        position = np.concatenate([np.arange(count, dtype=np.int32) for count in counts])
        tokens = np.where(position == 0, self.trunk.start, np.roll(targets, 1)).astype(np.int32)
        segments = np.repeat(np.arange(1, 1 + len(counts), dtype=np.int32), counts)
        return Packed(tokens, targets, segments, position)

    @property
    def names(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of each class's name, int32 [classes, T], and 1 where there are some, float32."""
        most = max(map(len, self.written))
        tokens = np.zeros((len(self.written), most), np.int32)
        present = np.zeros(tokens.shape, np.float32)
        for row, name in enumerate(self.written):
            tokens[row, : len(name)], present[row, : len(name)] = name, 1
        return tokens, present

    @property
    def context(self) -> int | None:
        """How many positions the encoder knows; None where there is no such limit."""
        return self.trunk.encoder.context

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding table."""
        return self.trunk.tied

    @property
    def vocab(self) -> int:
        """V."""
        return self.trunk.vocab
