"""Attention: multi-head, grouped and multi-query, to itself, a cache or an encoder's output."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_research.layers.cache import KeyValue, Projected
from lm_research.layers.dropout import Dropout
from lm_research.layers.einsum import Einsum, Initializer, stream_dtype
from lm_research.layers.kernels import Kernel, attend, score_scale
from lm_research.layers.mask import Mask
from lm_research.layers.norm import RMSNorm
from lm_research.layers.position import Bias, Rotary

Array = jax.Array


class Attention(nn.Module):
    """Vaswani et al. (2017), with the choices of its successors.

    Attributes:
      heads: N.
      kv_heads: K; N for multi-head, 1 for multi-query, between for grouped queries (Ainslie et al.,
        2023).
      head: H.
      bias: whether query, key and value have one; `out_bias`: whether the output product has.
      rotary: rotates queries and keys.
      norm: normalises queries and keys before rotation ("QK-norm"): each head, whose letter is H,
        or all heads together, whose letters are NH.
      scale: factor on the scores; None is 1 / sqrt(H).
      soft_cap: c of c tanh(scores / c).
      window: a query sees only so many keys back.
      dropout: rate on the weights that attention gives to keys.
      kernel: see `kernels.attend`.
      initializer, out_initializer: initializers of the inputs' products and of the output's.
      query_initializer: of the query's, where it differs.
      dtype: of the products' operands.
    """

    heads: int
    kv_heads: int
    head: int
    bias: bool = False
    out_bias: bool = False
    rotary: Rotary | None = None
    norm: nn.Module | None = None
    scale: float | None = None
    soft_cap: float | None = None
    window: int | None = None
    dropout: float = 0.0
    kernel: Kernel = "auto"
    initializer: Initializer | None = None
    out_initializer: Initializer | None = None
    query_initializer: Initializer | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Array,  # [B, T, D]
        position: Array,  # [B, T]
        mask: Mask,
        bias: Bias | None = None,
        cache: KeyValue | Projected | None = None,
        memory: Array | None = None,  # [B, S, D]
    ) -> tuple[Array, KeyValue | Projected | None]:
        """x attends to itself, to `cache` and itself, or to `memory`; also returns the cache.

        What is made of `memory` is returned as a cache, which stands for it in later calls.
        """
        D, N, K, H = x.shape[-1], self.heads, self.kv_heads, self.head
        first = self.query_initializer or self.initializer
        query = self._project("BTD,DNH->BTNH", (D, N, H), "query", first)(x)
        if self.norm is not None:
            query = self.norm.copy(name="query_norm")(query)
        if self.rotary is not None:
            query = self.rotary(query, position)
        order = None
        if not isinstance(cache, Projected):
            source = x if memory is None else memory
            key = self._project("BSD,DKH->BSKH", (D, K, H), "key", self.initializer)(source)
            value = self._project("BSD,DKH->BSKH", (D, K, H), "value", self.initializer)(source)
            if self.norm is not None:
                key = self.norm.copy(name="key_norm", letter=self.norm.letter.replace("N", "K"))(
                    key
                )
            if self.rotary is not None:
                key = self.rotary(key, position)
        if memory is not None:
            cache = Projected.of(key, value, mask.segments and mask.segments[1])
        elif cache is not None:
            if isinstance(cache, KeyValue):
                cache = cache.extended(key, value, position)
            key, value = jnp.swapaxes(cache.key, 1, 2), jnp.swapaxes(cache.value, 1, 2)
            order = (position, cache.position)
        y = attend(
            query,
            key,
            value,
            mask if self.window is None else mask.replace(window=self.window),
            order,
            bias=bias,
            scale=score_scale(H) if self.scale is None else self.scale,
            soft_cap=self.soft_cap,
            dropout=Dropout(self.dropout) if self.dropout and self.has_rng("dropout") else None,
            dtype=self.dtype,
            kernel=self.kernel,
        )
        out = Einsum(
            "BTNH,NHD->BTD", (N, H, D), self.out_bias, self.out_initializer, self.dtype, name="out"
        )
        return out(y), cache

    def _project(self, equation: str, shape: tuple[int, ...], name: str, initializer) -> Einsum:
        return Einsum(equation, shape, self.bias, initializer, self.dtype, name=name)

    def init_cache(self, batch: int, length: int) -> KeyValue:
        """An empty cache for `batch` rows of `length` tokens."""
        return KeyValue.empty(batch, length, self.kv_heads, self.head, stream_dtype(self.dtype))


def head_norm(epsilon: float) -> RMSNorm:
    """The norm that QK-norm puts on each head of queries and keys."""
    return RMSNorm(epsilon, letter="H")


def head_size(width: int, heads: int, kv_heads: int | None = None, head: int | None = None) -> int:
    """H: `head`, or D / N where that is None.

    Raises:
      ValueError: D is then not a multiple of N; or N is not one of K, where that is not None.
    """
    if head is None and width % heads:
        raise ValueError(f"width {width} is not a multiple of heads {heads}")
    if heads % (kv_heads or heads):
        raise ValueError(f"heads {heads} is not a multiple of kv_heads {kv_heads}")
    return head or width // heads
