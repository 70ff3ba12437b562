"""Attention by relative positions, from one stream of content or from two (XLNet)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from lm_research.layers.cache import HiddenMemory, KeyValue
from lm_research.layers.einsum import Einsum, Initializer, by_heads, shard, stream_dtype
from lm_research.layers.kernels import score_scale
from lm_research.layers.mask import FAR, Mask
from lm_research.layers.parameter import parameter

Array = jax.Array


@struct.dataclass
class Relations:
    """How the rows of an input stand to the keys: by distance, and by type.

    Attributes:
      waves: sinusoids of the distances S, S - 1, ..., 1 - S from a key to a query after it.
      row: which of the waves each query needs for each key. It may have rows for the last queries
        only: those before them are the keys' own tokens, and take theirs by slot.
      other: whether query and key are of different types; None where all are of one.
      tokens: how many rows of the input are keys: the first ones.
    """

    waves: Array  # [S, D]
    row: Array  # [B, T, S]
    other: Array | None  # [B, T, S]
    tokens: int = struct.field(pytree_node=False)

    def placed(self, scores: Array) -> Array:
        """Scores [B, N, T, 2 S] of queries and waves as scores [B, N, T, S] of queries and keys."""
        own = scores.shape[2] - self.row.shape[1]
        listed = jnp.take_along_axis(scores[:, :, own:], self.row[:, None], -1)
        return jnp.concatenate([shifted(scores[:, :, :own]), listed], 2) if own else listed


def relations(
    queries: Array, keys: Array, tokens: int, width: int, clamp: int | None, by_slot: bool
) -> Relations:
    """Relations by distance.

    Args:
      queries, keys: their positions, [B, T] and [B, S]. No query is more than S from a key that it
        may see.
      tokens: how many of the queries, the first ones, are tokens whose keys are made, too.
      width: D.
      clamp: distances beyond it count as it.
      by_slot: whether keys and those tokens are the same, at the positions 0, 1, ...
    """
    S = keys.shape[1]
    listed = queries[:, tokens:] if by_slot else queries
    row = jnp.clip(S - (listed[:, :, None] - keys[:, None, :]), 0, 2 * S - 1)
    distance = np.arange(S, -S, -1)
    if clamp is not None:
        distance = np.clip(distance, -clamp, clamp)
    return Relations(waves(distance, width), row, None, tokens)


def waves(distance: np.ndarray, width: int) -> Array:  # [S] -> [S, D]
    """Vaswani et al. (2017), section 3.5, as Transformer-XL has it: all sines, then all cosines."""
    frequency = 10_000.0 ** -(np.arange(0, width, 2) / width)
    angle = distance[:, None] * frequency
    return jnp.float32(np.concatenate([np.sin(angle), np.cos(angle)], -1)[:, :width])


def shifted(scores: Array) -> Array:  # [B, N, T, 2 T] -> [B, N, T, T]
    """Entry [t, s] is entry [t, T - t + s], without a gather (Dai et al., 2019, appendix B)."""
    *rest, T, _ = scores.shape
    flat = scores.reshape(*rest, 2 * T * T)[..., T:]
    return flat.reshape(*rest, T, 2 * T - 1)[..., :T]


class RelativeAttention(nn.Module):
    """Dai et al. (2019), section 3.3, with the types of Yang et al. (2019), section 2.5.

    A score is the sum of three products with the query, each with a bias of its own: with the key,
    with a wave of their distance, and with one of two vectors: that for a key of the query's own
    type and that for another. A query that may see nothing gets zeros.

    Attributes:
      heads, head: N and H.
      initializer, out_initializer: of the inputs' products and biases, and of the output's.
      dtype: of the products' operands.
    """

    heads: int
    head: int
    initializer: Initializer | None = None
    out_initializer: Initializer | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Array,  # [B, T, D]
        position: Array,  # [B, T]
        mask: Mask,
        relations: Relations,
        cache: KeyValue | HiddenMemory | None = None,
    ) -> tuple[Array, KeyValue | HiddenMemory | None]:
        """Every row of x attends to its first rows, after those of the cache; and the cache."""
        D, N, H = x.shape[-1], self.heads, self.head
        content, order = x[:, : relations.tokens], position[:, : relations.tokens]
        if isinstance(cache, HiddenMemory):
            cache = cache.extended(content, order)
            content, order = cache.hidden, cache.position
        query = self._project("BTD,DNH->BTNH", D, "query")(x)
        key = self._project("BSD,DNH->BSNH", D, "key")(content)
        value = self._project("BSD,DNH->BSNH", D, "value")(content)
        place = self._project("SD,DNH->SNH", D, "relative")(relations.waves)
        if isinstance(cache, KeyValue):
            cache = cache.extended(key, value, order)
            key, value = jnp.swapaxes(cache.key, 1, 2), jnp.swapaxes(cache.value, 1, 2)
            order = cache.position
        query, key, value = (by_heads(x) for x in (query, key, value))
        place = by_heads(place[None])[0]
        query = query * score_scale(H)
        vector = lambda name: self._vector(name) * score_scale(H)
        scores = self._product("BTNH,BSNH->BNTS", query + vector("key_bias"), key)
        placed = self._product("BTNH,SNH->BNTS", query + vector("relative_bias"), place)
        scores = scores + relations.placed(placed)
        types, bias = self._types(), vector("type_bias")
        if relations.other is not None:
            same, other = self._product("BTNH,CNH->CBNT", query + bias, types)
            scores += jnp.where(relations.other[:, None], other[..., None], same[..., None])
        allowed = mask.dense(position, order)
        weights = jax.nn.softmax(jnp.where(allowed, scores, FAR), -1)
        weights = jnp.where(allowed, weights, 0)
        y = self._product("BNTS,BSNH->BTNH", weights, value).astype(stream_dtype(self.dtype))
        y = shard(y, ("B", "T", "N", None))
        out = Einsum(
            "BTNH,NHD->BTD", (N, H, D), False, self.out_initializer, self.dtype, name="out"
        )
        return out(y), cache

    def _project(self, equation: str, width: int, name: str) -> Einsum:
        shape = (width, self.heads, self.head)
        return Einsum(equation, shape, False, self.initializer, self.dtype, name=name)

    def _product(self, equation: str, x: Array, y: Array) -> Array:
        dtype = stream_dtype(self.dtype)  # on CPU, XLA lacks some of these products in 16 bits
        x, y = x.astype(dtype), y.astype(dtype)
        return jnp.einsum(equation, x, y, preferred_element_type=jnp.float32)

    def _vector(self, name: str) -> Array:  # [N, H]
        init = self.initializer or nn.initializers.normal(0.02)
        return parameter(self, name, init, ("N", "H"), (self.heads, self.head))

    def _types(self) -> Array:  # [2, N, H]
        init = self.initializer or nn.initializers.normal(0.02)
        return parameter(self, "types", init, ("C", "N", "H"), (2, self.heads, self.head))

    def init_cache(self, batch: int, length: int) -> KeyValue:
        """An empty cache for `batch` rows of `length` tokens."""
        return KeyValue.empty(batch, length, self.heads, self.head, stream_dtype(self.dtype))
