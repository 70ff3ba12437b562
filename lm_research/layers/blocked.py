"""Causal self-attention on CPU, in blocks of queries that meet only the keys before them.

Up to half of the work falls away, and every product is in a form that XLA's CPU backend runs fast
(see `einsum.matmul`). Dao et al. (2022) give the backward pass by blocks.
"""

from typing import Any

import jax
import jax.numpy as jnp

from lm_research.layers.einsum import matmul, row_major
from lm_research.layers.mask import FAR, Mask

Array = jax.Array

BLOCK = 128  # queries at a time; 64 and 256 are no faster at T 256


def blocked(
    query: Array,  # [B, T, N, H]
    key: Array,  # [B, T, K, H]
    value: Array,  # [B, T, K, H]
    mask: Mask,
    dtype: Any,
) -> Array:  # [B, T, N, H]
    """softmax(query key) value; the query carries its scale, the mask is causal within segments."""
    B, T, N, H = query.shape
    group = N // key.shape[2]
    if group > 1:
        key, value = jnp.repeat(key, group, 2), jnp.repeat(value, group, 2)
    segments = None if mask.segments is None else jnp.repeat(mask.segments[0], N, 0)
    heads = (jnp.swapaxes(x.astype(dtype), 1, 2) for x in (query, key, value))
    result = _attend(*(row_major(x).reshape(B * N, T, H) for x in heads), segments)
    return jnp.swapaxes(result.reshape(B, N, T, H), 1, 2).astype(dtype)


@jax.custom_vjp
def _attend(query, key, value, segments):
    """Of heads laid side by side: every array begins with an axis B N."""
    return _forward(query, key, value, segments)[0]


def _forward(query, key, value, segments):
    results, kept = [], []
    for start, end in _spans(query.shape[1]):
        scores = matmul(query[:, start:end], key[:, :end], transposed=True)
        scores = jnp.where(_allowed(start, end, segments), scores, FAR)
        weights = jax.nn.softmax(scores, -1).astype(query.dtype)
        results.append(matmul(weights, value[:, :end]))
        kept.append(weights)
    result = jnp.concatenate(results, 1)
    return result, (query, key, value, result, kept)


def _backward(saved, gradient):
    query, key, value, result, kept = saved
    T, dtype = query.shape[1], query.dtype
    inner = (gradient * result).sum(-1, keepdims=True)  # sum over keys of weight times its gradient
    gradient = row_major(gradient.astype(dtype))
    # Transposed once to [.., H, T], so that the gradients of keys and values need no transposed T x
    # T.
    columns = [row_major(jnp.swapaxes(x, 1, 2)) for x in (query, gradient)]
    query_gradient, key_gradient, value_gradient = [], 0.0, 0.0
    for (start, end), weights in zip(_spans(T), kept):
        change = matmul(gradient[:, start:end], value[:, :end], transposed=True)
        change = (weights * (change - inner[:, start:end])).astype(dtype)
        query_gradient.append(matmul(change, key[:, :end]))
        queries, gradients = (x[..., start:end] for x in columns)
        rest = ((0, 0), (0, 0), (0, T - end))
        key_gradient += jnp.pad(matmul(queries, change), rest)
        value_gradient += jnp.pad(matmul(gradients, weights), rest)
    query_gradient = jnp.concatenate(query_gradient, 1)
    key_gradient, value_gradient = (jnp.swapaxes(g, 1, 2) for g in (key_gradient, value_gradient))
    return *(g.astype(dtype) for g in (query_gradient, key_gradient, value_gradient)), None


_attend.defvjp(_forward, _backward)


def _spans(length: int) -> list[tuple[int, int]]:
    return [(start, min(start + BLOCK, length)) for start in range(0, length, BLOCK)]


def _allowed(start: int, end: int, segments: Array | None) -> Array:
    """Which of the keys up to `end` the queries from `start` to `end` may see."""
    allowed = jnp.arange(end) <= jnp.arange(start, end)[:, None]
    if segments is None:
        return allowed
    return allowed & (segments[:, start:end, None] == segments[:, None, :end])
