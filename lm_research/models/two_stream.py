"""`TwoStream`: a transformer that predicts tokens in any order, from contents and queries."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from lm_research.layers import (
    Dropout,
    Head,
    HiddenMemory,
    Mask,
    Output,
    Stack,
    parameter,
    shard,
    stream_dtype,
    tap,
)
from lm_research.layers.relative import relations
from lm_research.models.transformer import Table

Array = jax.Array


class TwoStream(nn.Module):
    """Yang et al. (2019), section 2.3.

    Both streams go through the same blocks as rows of one array, contents first. Contents are the
    keys of both. A query begins as the same vector everywhere, so that it knows where it stands and
    whom it may see, but not its own token.

    Attributes:
      vocab: V.
      width: D.
      stack: blocks of `RelativeAttention`.
      causal: whether tokens see only those before them (Transformer-XL).
      clamp: distances beyond it count as it.
      tied: whether the head is the embedding table.
      dropout: rate on the embedded tokens and on the last hidden states.
      deviation: standard deviation of the embedding, the query vector and an untied head.
      dtype: of the products' operands.
    """

    vocab: int
    width: int
    stack: Stack
    causal: bool = False
    clamp: int | None = None
    tied: bool = True
    dropout: float = 0.0
    deviation: float = 0.02
    dtype: Any = jnp.float32
    context = None  # distances have no end

    @nn.compact
    def __call__(
        self,
        tokens: Array,  # [B, T]
        *,
        position: Array | None = None,  # [B, T]
        mask: Mask | None = None,
        cache: tuple | None = None,
        types: Array | None = None,  # [B, T]
        targets: Array | None = None,  # [B, S]
    ) -> Output:
        """Reads tokens, after those in `cache` where there is one, and predicts at the targets.

        Args:
          tokens: ids.
          position: of each token; by default their slots. Without a cache distances go by slot, so
            that positions must be consecutive within a segment. `EMPTY` marks padding in a cache.
          mask: what to restrict. `allowed` [B, T, T] says from whom each of these tokens may be
            predicted, as `Mask.factorised` does; a content also sees itself, and all see the cache.
          cache: from `init_cache`, `init_memory` or an earlier `Output`: earlier segments.
          types: of the tokens; what is in the cache is of type 0.
          targets: where to predict: slots, or positions where there is a cache. One that is none of
            the tokens, as the next token is, sees all of them. A target never sees itself, unless
            `allowed` says so.

        Returns:
          Hidden states of the queries at the targets, or without targets of the contents.
        """
        slots = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        order = slots if cache is None or position is None else position
        table = Table(self.vocab, self.width, self.deviation, name="embedding")()
        x = jnp.take(shard(table, ("V", None)), tokens, 0, mode="clip")  # [B, T, D]
        x = x.astype(stream_dtype(self.dtype))
        x = tap(self, "embedded", shard(x, ("B", "T", "D")))
        normal = nn.initializers.normal(self.deviation)
        query = parameter(self, "query", normal, ("D",), (self.width,))
        streams = Streams.of(order, targets, cache)
        if targets is not None:
            rows = jnp.broadcast_to(query.astype(x.dtype), (*targets.shape, self.width))
            x = jnp.concatenate([x, rows], 1)
        x = Dropout(self.dropout)(x)
        by = relations(
            *(streams.queries, streams.keys, tokens.shape[1], self.width, self.clamp),
            by_slot=cache is None,
        )
        if types is not None:
            by = by.replace(other=streams.other(types))
        mask = streams.mask(mask or Mask()).replace(causal=self.causal)
        x, cache = self.stack(x, cache, streams.queries, mask, by)
        if targets is not None:
            x = x[:, tokens.shape[1] :]
        x = Dropout(self.dropout)(x)
        bias = parameter(self, "head_bias", nn.initializers.zeros, ("V",), (self.vocab,))
        if not self.tied:
            table = Table(self.vocab, self.width, self.deviation, name="head")()
        return Output(x, Head(table, bias, dtype=self.dtype), cache)

    @property
    def again(self) -> int:
        """How many of the newest tokens to read again with the next, in decoding.

        `transformers` does so, for a content to see the one after it, where it may.
        """
        return 0 if self.causal else 1

    def init_cache(self, batch: int, length: int) -> tuple:
        """An empty cache for `batch` rows of `length` tokens: a state for each layer."""
        return self.stack.init_cache(batch, length)

    def init_memory(self, batch: int, length: int) -> tuple:
        """The same for training on segments one after another: see `HiddenMemory`."""
        dtype = stream_dtype(self.dtype)
        return (HiddenMemory.empty(batch, length, self.width, dtype),) * self.stack.layers


@struct.dataclass
class Streams:
    """The rows of both streams, contents first, and the keys that they may see.

    Attributes:
      order: of the contents.
      targets: orders of the queries, if there are any.
      keys: orders of all contents, those in the cache included.
      start: where among the keys the contents are.
    """

    order: Array  # [B, T]
    targets: Array | None  # [B, T]
    keys: Array  # [B, S]
    start: Array | int

    @classmethod
    def of(cls, order: Array, targets: Array | None, cache: tuple | None) -> "Streams":
        """Those of a call."""
        if cache is None:
            return cls(order, targets, order, 0)
        return cls(order, targets, cache[0].placed(order), cache[0].next)

    @property
    def queries(self) -> Array:
        """Orders of all rows."""
        return (
            self.order if self.targets is None else jnp.concatenate([self.order, self.targets], 1)
        )

    @property
    def own(self) -> Array:  # [B, T, S]
        """Whether a row and a key stand at the same place."""
        return self.queries[:, :, None] == self.keys[:, None, :]

    def of_rows(self, x: Array, otherwise: Array | None = None) -> Array:
        """What is said of contents [B, T, ...], of all rows.

        Args:
          x: of the contents.
          otherwise: of a target that is none of them; None is what is said of the last one.
        """
        if self.targets is None:
            return x
        same = self.targets[:, :, None] == self.order[:, None, :]
        known = same.any(-1)
        at = jnp.where(known, same.argmax(-1), self.order.shape[1] - 1)
        axes = (1,) * (x.ndim - 2)
        rows = jnp.take_along_axis(x, at.reshape(*at.shape, *axes), 1)
        if otherwise is not None:
            rows = jnp.where(known.reshape(*known.shape, *axes), rows, otherwise)
        return jnp.concatenate([x, rows], 1)

    def of_keys(self, x: Array, otherwise: Any) -> Array:
        """What is said of contents [..., T], of all keys, `otherwise` of those in the cache."""
        x = jnp.asarray(x)
        whole = jnp.full((*x.shape[:-1], self.keys.shape[1]), otherwise, x.dtype)
        start = (*(0 for _ in x.shape[:-1]), self.start)
        return jax.lax.dynamic_update_slice(whole, x, start)

    def other(self, types: Array) -> Array:  # [B, T] -> [B, T, S]
        """Whether a row and a key are of different types."""
        return self.of_rows(types)[:, :, None] != self.of_keys(types, 0)[:, None, :]

    def mask(self, mask: Mask) -> Mask:
        """That of all rows and keys, from one of the contents."""
        T, segments, allowed = self.order.shape[1], mask.segments, mask.allowed
        if segments is not None:
            segments = (self.of_rows(segments[0]), segments[1])
        if allowed is not None:
            allowed = self.of_rows(self.of_keys(allowed, True), True)
            allowed = allowed.at[:, :T].set(allowed[:, :T] | self.own[:, :T])
        elif self.targets is not None:
            allowed = ~self.own.at[:, :T].set(False)
        return mask.replace(segments=segments, allowed=allowed)
