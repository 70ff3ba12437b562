"""Attention on CPU, in blocks of queries; causal ones meet only the keys before them.

Up to half of the work then falls away, and every product is in a form that XLA's CPU backend runs
fast (see `einsum.matmul`). Dao et al. (2022) give the backward pass by blocks.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from lm_research.layers.einsum import matmul, row_major
from lm_research.layers.mask import FAR, Mask

Array = jax.Array

BLOCK = 128  # queries at a time; 64 and 256 are no faster at T 256


def blocked(
    query: Array,  # [B, T, N, H]
    key: Array,  # [B, S, K, H]
    value: Array,  # [B, S, K, H]
    mask: Mask,
    dtype: Any,
    bias: Array | None = None,  # [1, N, T, S]
) -> Array:  # [B, T, N, H]
    """softmax(query key + bias) value; the query carries its scale, the mask is `in_blocks`."""
    B, T, N, H = query.shape
    group = N // key.shape[2]
    if group > 1:
        key, value = jnp.repeat(key, group, 2), jnp.repeat(value, group, 2)
    segments = None
    if mask.segments is not None:
        segments = tuple(jnp.repeat(x, N, 0) for x in mask.segments)
    heads = (jnp.swapaxes(x.astype(dtype), 1, 2) for x in (query, key, value))
    rows = (row_major(x).reshape(B * N, x.shape[2], H) for x in heads)
    result = _attend(*rows, segments, None if bias is None else bias[0], mask.causal)
    return jnp.swapaxes(result.reshape(B, N, T, H), 1, 2).astype(dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(query, key, value, segments, bias, causal):
    """Of heads laid side by side: every array but the bias [N, T, S] begins with an axis B N."""
    return _forward(query, key, value, segments, bias, causal)[0]


def _forward(query, key, value, segments, bias, causal):
    results, kept = [], []
    for start, end, reach in _spans(query, key, causal):
        scores = matmul(query[:, start:end], key[:, :reach], transposed=True)
        if bias is not None:
            scores = scores + _of_rows(bias[:, start:end, :reach], len(scores))
        allowed = _allowed(start, end, reach, segments, causal)
        scores = scores if allowed is None else jnp.where(allowed, scores, FAR)
        weights = jax.nn.softmax(scores, -1).astype(query.dtype)
        results.append(matmul(weights, value[:, :reach]))
        kept.append(weights)
    result = jnp.concatenate(results, 1)
    return result, (query, key, value, bias, result, kept)


def _backward(causal, saved, gradient):
    query, key, value, bias, result, kept = saved
    S, dtype = key.shape[1], query.dtype
    inner = (gradient * result).sum(-1, keepdims=True)  # sum over keys of weight times its gradient
    gradient = row_major(gradient.astype(dtype))
    # Transposed once to [.., H, T], so that the gradients of keys and values need no transposed T x
    # S.
    columns = [row_major(jnp.swapaxes(x, 1, 2)) for x in (query, gradient)]
    query_gradient, key_gradient, value_gradient, bias_gradient = [], 0.0, 0.0, []
    for (start, end, reach), weights in zip(_spans(query, key, causal), kept):
        change = matmul(gradient[:, start:end], value[:, :reach], transposed=True)
        change = weights * (change - inner[:, start:end])
        rest = ((0, 0), (0, 0), (0, S - reach))
        if bias is not None:
            added = change.reshape(-1, len(bias), *change.shape[1:]).sum(0)
            bias_gradient.append(jnp.pad(added, rest))
        change = change.astype(dtype)
        query_gradient.append(matmul(change, key[:, :reach]))
        queries, gradients = (x[..., start:end] for x in columns)
        key_gradient += jnp.pad(matmul(queries, change), rest)
        value_gradient += jnp.pad(matmul(gradients, weights), rest)
    query_gradient = jnp.concatenate(query_gradient, 1)
    key_gradient, value_gradient = (jnp.swapaxes(g, 1, 2) for g in (key_gradient, value_gradient))
    bias_gradient = None if bias is None else jnp.concatenate(bias_gradient, 1).astype(bias.dtype)
    inputs = (g.astype(dtype) for g in (query_gradient, key_gradient, value_gradient))
    return *inputs, None, bias_gradient


_attend.defvjp(_forward, _backward)


def _of_rows(bias: Array, rows: int) -> Array:  # [N, t, s] -> [B N, t, s]
    """The same for every row of the batch."""
    heads = bias.shape[0]
    return jnp.broadcast_to(bias, (rows // heads, *bias.shape)).reshape(rows, *bias.shape[1:])


def _spans(query: Array, key: Array, causal: bool) -> list[tuple[int, int, int]]:
    """Where each block of queries starts and ends, and where the keys end that it meets."""
    length = query.shape[1]
    ends = [(start, min(start + BLOCK, length)) for start in range(0, length, BLOCK)]
    return [(start, end, end if causal else key.shape[1]) for start, end in ends]


def _allowed(start: int, end: int, reach: int, segments: Any, causal: bool) -> Array | None:
    """Which of the keys up to `reach` the queries from `start` to `end` may see; None is all."""
    before = jnp.arange(reach) <= jnp.arange(start, end)[:, None] if causal else None
    if segments is None:
        return before
    same = segments[0][:, start:end, None] == segments[1][:, None, :reach]
    return same if before is None else same & before
