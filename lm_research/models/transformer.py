"""`Transformer`: tokens in, hidden states and logits out; decoder or encoder by its mask."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_research.layers import (
    ALiBi,
    Dropout,
    Head,
    Learned,
    Mask,
    Output,
    RelativeBias,
    Sinusoidal,
    Stack,
    shard,
    stream_dtype,
    tap,
)

Array = jax.Array


class Table(nn.Module):
    """A row [D] for each token of the vocabulary: an embedding, or a head of its own."""

    vocab: int
    width: int
    deviation: float = 0.02

    @nn.compact
    def __call__(self) -> Array:  # [V, D]
        init = nn.with_logical_partitioning(nn.initializers.normal(self.deviation), ("V", "D"))
        return self.param("table", init, (self.vocab, self.width))


class Transformer(nn.Module):
    """Embedding, a stack of blocks, a norm and a vocabulary head.

    Attributes:
      vocab: V.
      width: D.
      stack: the blocks.
      norm: after the last block; None where blocks normalise their own sums.
      position: tells where tokens stand; None where attention does it by rotation, or nothing does.
      causal: whether tokens see only those before them.
      tied: whether the head is the embedding table.
      embedding_scale: factor on the embedded tokens.
      head_scale: factor on the logits.
      soft_cap: c of c tanh(logits / c).
      dropout: rate on the embedded tokens.
      deviation: standard deviation of the embedding; `head_deviation`: of an untied head, where it
        is another.
      dtype: of the products' operands.
    """

    vocab: int
    width: int
    stack: Stack
    norm: nn.Module | None = None
    position: Learned | Sinusoidal | ALiBi | RelativeBias | None = None
    causal: bool = True
    tied: bool = True
    embedding_scale: float = 1.0
    head_scale: float = 1.0
    soft_cap: float | None = None
    dropout: float = 0.0
    deviation: float = 0.02
    head_deviation: float | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens: Array,  # [B, T]
        *,
        position: Array | None = None,  # [B, T]
        mask: Mask | None = None,
        cache: tuple | None = None,
        memory: Array | None = None,  # [B, S, D]
        memory_mask: Mask | None = None,
        table: Array | None = None,  # [V, D]
    ) -> Output:
        """Reads tokens, after those in `cache` where there is one.

        Args:
          tokens: ids.
          position: of each token; by default their slots. Without a cache, causality goes by slot,
            so positions must not fall within a segment; with one, it goes by position. `EMPTY`
            marks padding that nobody may see.
          mask: what to restrict besides causality.
          cache: from `init_cache` or an earlier `Output`.
          memory, memory_mask: an encoder's output, for blocks that attend to it.
          table: the embedding, where it is another's, too.
        """
        if position is None:
            position = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        mask = (mask or Mask()).replace(causal=self.causal)
        if table is None:
            table = Table(self.vocab, self.width, self.deviation, name="embedding")()
        # The lookup wants D whole: otherwise XLA rematerializes the table on every device.
        x = jnp.take(shard(table, ("V", None)), tokens, 0, mode="clip")  # [B, T, D]
        if self.embedding_scale != 1.0:
            x = x * self.embedding_scale
        bias = None
        if isinstance(self.position, Learned | Sinusoidal):
            x = x + self.position(position, self.width)
        elif self.position is not None:
            bias = self.position() if cache else self.position().of_slots(tokens.shape[1])
        x = Dropout(self.dropout)(x.astype(stream_dtype(self.dtype)))
        x = tap(self, "embedded", shard(x, ("B", "T", "D")))
        x, cache = self.stack(x, cache, position, mask, bias, memory, memory_mask)
        if self.norm is not None:
            x = self.norm(x)
        if not self.tied:
            deviation = self.head_deviation or self.deviation
            table = Table(self.vocab, self.width, deviation, name="head")()
        head = Head(table, scale=self.head_scale, soft_cap=self.soft_cap, dtype=self.dtype)
        return Output(x, head, cache)

    def init_cache(self, batch: int, length: int) -> tuple:
        """An empty cache for `batch` rows of `length` tokens: a state for each layer."""
        return self.stack.init_cache(batch, length)

    @property
    def context(self) -> int | None:
        """How many positions the model knows; None where there is no such limit."""
        return self.position.length if isinstance(self.position, Learned) else None
