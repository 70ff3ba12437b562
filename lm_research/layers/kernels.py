"""Scaled dot-product attention: XLA everywhere, cuDNN flash on GPU, splash on TPU."""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from lm_research import log
from lm_research.errors import UserError
from lm_research.layers.blocked import blocked
from lm_research.layers.einsum import (
    by_heads,
    heads_axes,
    matmul,
    one_cpu,
    one_device,
    shard,
)
from lm_research.layers.mask import FAR, Mask
from lm_research.layers.pipeline import stages
from lm_research.layers.position import Bias
from lm_research.layers.stand_in import stand_in
from lm_research.mesh import axes_of, parts
from lm_research.target import target

Array = jax.Array
Kernel = Literal["auto", "xla", "cudnn", "splash"]


def attend(
    query: Array,  # [B, T, N, H]
    key: Array,  # [B, S, K, H]
    value: Array,  # [B, S, K, H]
    mask: Mask,
    order: tuple[Array, Array] | None = None,  # [B, T], [B, S]
    *,
    bias: Bias | None = None,
    scale: float,
    soft_cap: float | None = None,
    dropout: Callable[[Array], Array] | None = None,
    dtype: Any = jnp.float32,
    kernel: Kernel = "auto",
) -> Array:  # [B, T, N, H]
    """softmax(query key / sqrt(H) + bias, where the mask allows) value.

    Args:
      query, key, value: N query heads share K key-value heads in groups of N / K.
      mask: who may attend to whom.
      order: of queries and keys, where it is not their slots': positions of a cache's entries.
      bias: added to the scores, by distance in order.
      scale: factor on the scores.
      soft_cap: c of c tanh(scores / c).
      dropout: of the softmax's results.
      dtype: of the products' operands; scores and softmax are float32.
      kernel: which to use; `auto` takes the fastest one that computes exactly this.
    """
    reason = {
        "xla": "",
        "cudnn": _why_not_cudnn(query, order, bias, soft_cap, dtype),
        "splash": _why_not_splash(query, key, mask, order, bias),
    }
    if dropout is not None:
        reason |= dict.fromkeys(("cudnn", "splash"), "the weights of attention have dropout")
    if kernel == "auto":
        chosen = next(name for name in ("cudnn", "splash", "xla") if not reason[name])
    elif reason[kernel]:
        log.fallback(f"attention kernel {kernel}", "xla", reason[kernel])
        chosen = "xla"
    else:
        chosen = kernel
    if order is None:  # the kernel of training is the one worth a line in facts.json
        log.note(attention_kernel=chosen)
    query, key, value = by_heads(query), *repeated(key, value, query.shape[2])
    xla = functools.partial(_xla, dropout=dropout)
    function = {"xla": xla, "cudnn": _cudnn, "splash": _splash}[chosen]
    y = function(query, key, value, mask, order, bias, scale, soft_cap, dtype)
    return shard(y, ("B", "T", "N", None))


def repeated(key: Array, value: Array, heads: int) -> tuple[Array, Array]:
    """Keys and values [B, S, K, H], by heads; some of them twice where the mesh has more parts.

    Raises:
      UserError: the mesh does not divide so many query heads.
    """
    names, K = heads_axes(), key.shape[2]
    if one_device() or parts(names) == 1:
        return key, value
    count = parts(names)
    if heads % count:
        told = "*".join(name for name in names if parts(name) > 1)
        raise UserError(
            f"the model has {heads} heads, which mesh axis {told} = {count} does not divide"
        )
    times = math.lcm(K, count) // K
    if heads % (K * times):
        times = heads // K
    if times > 1:  # before the exchange, which then sends each device no more than its own
        letters = "B", "S", "K", None
        key, value = (shard(jnp.repeat(x, times, 2), letters) for x in (key, value))
    return by_heads(key, "K"), by_heads(value, "K")


def slots(array: Array) -> Array:
    """The order of uncached tokens: where they stand in an array [B, T, ...]."""
    return jnp.broadcast_to(jnp.arange(array.shape[1]), array.shape[:2])  # [B, T]


def _xla(query, key, value, mask, order, bias, scale, soft_cap, dtype, dropout=None):
    B, T, N, H = query.shape
    K = key.shape[2]
    added = None if bias is None else bias.made
    plain = order is None and (bias is None or added is not None)
    plain &= soft_cap is None and dropout is None
    if plain and mask.in_blocks and T > 1 and _rows_on_cpus(B):
        local = lambda q, k, v, segments, bias: blocked(
            q, k, v, mask.replace(segments=segments), dtype, bias
        )
        return _each_device(local, query * scale, key, value, mask.segments, added)
    orders = order or (slots(query), slots(key))
    softmax = functools.partial(
        _softmax, mask=mask, orders=orders, bias=bias, soft_cap=soft_cap, dropout=dropout
    )
    query = (query * scale).reshape(B, T, K, N // K, H)
    if order is not None and one_cpu():
        result = _cached(query, key, value, softmax, dtype)
    else:
        precise = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
        scores = precise("BTKGH,BSKH->BKGTS", query.astype(dtype), key.astype(dtype))
        weights = softmax(scores)
        result = precise("BKGTS,BSKH->BTKGH", weights.astype(dtype), value.astype(dtype))
    return result.reshape(B, T, N, H).astype(dtype)


def _softmax(scores, mask, orders, bias, soft_cap, dropout):  # [B, K, G, T, S]
    if bias is not None:
        added = bias(*orders)  # [B or 1, N, T, S]
        scores = scores + added.reshape(added.shape[0], *scores.shape[1:])
    if soft_cap is not None:
        scores = soft_cap * jnp.tanh(scores / soft_cap)
    weights = jax.nn.softmax(jnp.where(mask.dense(*orders)[:, :, None], scores, FAR), -1)
    return weights if dropout is None else dropout(weights)


def _cached(query, key, value, softmax, dtype):
    """Attention to a cache on one CPU device, fast: its keys lie as [B, K, S, H]."""
    B, T, K, G, H = query.shape
    dtype = (
        jnp.float32 if T == 1 else dtype
    )  # a product with one row converts 16 bits at every call
    query = jnp.moveaxis(query, 1, 3).reshape(B * K, G * T, H).astype(dtype)
    key, value = (jnp.swapaxes(x, 1, 2).reshape(B * K, -1, H).astype(dtype) for x in (key, value))
    weights = softmax(matmul(query, key, transposed=True).reshape(B, K, G, T, -1))
    result = matmul(weights.reshape(B * K, G * T, -1).astype(dtype), value)
    return jnp.moveaxis(result.reshape(B, K, G, T, H), 3, 1)


def _why_not_cudnn(query, order, bias, soft_cap, dtype) -> str:
    if target().backend != "gpu":
        return f"cuDNN needs a GPU and this is {target().backend}"
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
        return f"cuDNN attention computes in 16 bits and the model computes in {jnp.dtype(dtype)}"
    if (target().capability or 8) < 8:
        return f"cuDNN attention needs Ampere, 8.0, or newer and this is {target().capability}"
    if order is not None or bias is not None or soft_cap is not None:
        return "cuDNN attention is used without cache, bias and soft cap"
    if query.shape[-1] % 8 or query.shape[-1] > 128:
        return f"cuDNN attention takes heads of a multiple of 8 up to 128, not {query.shape[-1]}"
    return ""


def _cudnn(query, key, value, mask, order, bias, scale, soft_cap, dtype):
    if not target().here:
        return stand_in(query, key, value, False, dtype)
    query, key, value = (x.astype(dtype) for x in (query, key, value))
    call = functools.partial(
        jax.nn.dot_product_attention, query, key, value, scale=scale, implementation="cudnn"
    )
    if mask.static and mask.window is None:
        return call(is_causal=mask.causal)
    return call(mask=mask.dense(slots(query), slots(key)))


def _why_not_splash(query, key, mask, order, bias, backend: str | None = None) -> str:
    backend = backend or target().backend
    if backend != "tpu":
        return f"splash attention needs a TPU and this is {backend}"
    if order is not None or bias is not None:
        return "splash attention is used without cache and bias"
    if mask.prefix is not None or mask.allowed is not None:
        return "splash attention takes causal, window and segment masks"
    if query.shape[1] % 128 or key.shape[1] % 128:
        return f"splash attention takes lengths of a multiple of 128, not {query.shape[1]}"
    return ""


def _splash(query, key, value, mask, order, bias, scale, soft_cap, dtype, interpret=False):
    if not target().here:
        return stand_in(query, key, value, True, dtype)
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    T, S = query.shape[1], key.shape[1]
    if mask.window is not None:
        reach = (mask.window - 1, 0 if mask.causal else mask.window - 1)
        pattern = splash.LocalMask((T, S), reach, 0)
    else:
        pattern = splash.CausalMask((T, S)) if mask.causal else splash.FullMask((T, S))

    def local(query, key, value, segments, _):
        heads = query.shape[2]
        kernel = splash.make_splash_mha_single_device(
            splash.MultiHeadMask([pattern] * heads),
            attn_logits_soft_cap=soft_cap,
            interpret=interpret,
        )
        repeat = heads // key.shape[2]
        query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))  # [B, N, T, H]
        key, value = (jnp.repeat(x, repeat, 1) for x in (key, value))
        pairs = None if segments is None else splash.SegmentIds(*segments)
        return jnp.swapaxes(jax.vmap(kernel)(query, key, value, pairs), 1, 2)

    query = (query * scale).astype(dtype)
    key, value = key.astype(dtype), value.astype(dtype)
    segments = None if mask.segments is None else tuple(s.astype(jnp.int32) for s in mask.segments)
    return _each_device(local, query, key, value, segments)


def _each_device(local, query, key, value, segments, bias=None):
    """`local` of each device's rows and heads; the bias [1, N, T, S] is of all rows."""
    if one_device():
        return local(query, key, value, segments, bias)
    batch, heads = axes_of("B"), heads_axes() or None
    rows = PartitionSpec(batch, None, heads, None)
    tokens = None if segments is None else (PartitionSpec(batch), PartitionSpec(batch))
    scores = None if bias is None else PartitionSpec(None, heads)
    run = jax.shard_map(
        local,
        mesh=jax.sharding.get_abstract_mesh(),
        in_specs=(rows, rows, rows, tokens, scores),
        out_specs=rows,
        check_vma=False,
    )
    return run(query, key, value, segments, bias)


def _rows_on_cpus(rows: int) -> bool:
    """Whether each of the mesh's CPU devices can attend by itself, with its part of the rows."""
    if target().backend != "cpu":
        return False
    return one_device() or (stages() == 1 and rows % parts(axes_of("B")) == 0)


def score_scale(head: int) -> float:
    """1 / sqrt(H), the scale of Vaswani et al. (2017)."""
    return 1 / math.sqrt(head)
