"""Causal self-attention on CPU, in blocks of queries that meet only the keys before them.

Up to half of the work falls away, and every product is in a form that XLA's CPU backend runs fast (see
`einsum.row_major`). Dao et al. (2022) give the backward pass by blocks.
"""

from typing import Any

import jax
import jax.numpy as jnp

from lm_research.layers.einsum import row_major, sums
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
    group = query.shape[2] // key.shape[2]
    if group > 1:
        key, value = jnp.repeat(key, group, 2), jnp.repeat(value, group, 2)
    query, key, value = (jnp.swapaxes(x.astype(dtype), 1, 2) for x in (query, key, value))
    segments = None if mask.segments is None else mask.segments[0]
    return jnp.swapaxes(_attend(query, key, value, segments), 1, 2).astype(dtype)


@jax.custom_vjp
def _attend(query, key, value, segments):  # [B, N, T, H] each, segments [B, T]
    return _forward(query, key, value, segments)[0]


def _forward(query, key, value, segments):
    query, key, value = row_major(query), row_major(key), row_major(value)
    results, kept = [], []
    for start, end in _spans(query.shape[2]):
        scores = sums("BNTH,BNSH->BNTS", query[:, :, start:end], key[:, :, :end])
        scores = jnp.where(_allowed(start, end, segments), scores, FAR)
        weights = jax.nn.softmax(scores, -1).astype(query.dtype)
        results.append(sums("BNTS,BNSH->BNTH", weights, value[:, :, :end]))
        kept.append(weights)
    result = jnp.concatenate(results, 2)
    return result, (query, key, value, result, kept)


def _backward(saved, gradient):
    query, key, value, result, kept = saved
    T, dtype = query.shape[2], query.dtype
    gradient = row_major(gradient)
    inner = (gradient * result).sum(-1, keepdims=True)  # sum over keys of weight times its gradient
    gradient = gradient.astype(dtype)
    # Transposed once [B, N, H, T], so that the gradients of keys and values need no transposed T x T.
    query_columns = row_major(jnp.swapaxes(query, 2, 3))
    gradient_columns = row_major(jnp.swapaxes(gradient, 2, 3))
    query_gradient, key_gradient, value_gradient = [], 0.0, 0.0
    for (start, end), weights in zip(_spans(T), kept):
        rows = gradient[:, :, start:end]
        change = sums("BNTH,BNSH->BNTS", rows, value[:, :, :end])
        change = (weights * (change - inner[:, :, start:end])).astype(dtype)
        query_gradient.append(sums("BNTS,BNSH->BNTH", change, key[:, :, :end]))
        columns = query_columns[..., start:end], gradient_columns[..., start:end]
        rest = ((0, 0), (0, 0), (0, 0), (0, T - end))
        key_gradient += jnp.pad(sums("BNHT,BNTS->BNHS", columns[0], change), rest)
        value_gradient += jnp.pad(sums("BNHT,BNTS->BNHS", columns[1], weights), rest)
    gradients = jnp.concatenate(query_gradient, 2), *(
        jnp.swapaxes(g, 2, 3) for g in (key_gradient, value_gradient)
    )
    return *(g.astype(dtype) for g in gradients), None


_attend.defvjp(_forward, _backward)


def _spans(length: int) -> list[tuple[int, int]]:
    return [(start, min(start + BLOCK, length)) for start in range(0, length, BLOCK)]


def _allowed(start: int, end: int, segments: Array | None) -> Array:
    """Which of the keys up to `end` the queries from `start` to `end` may see."""
    allowed = jnp.arange(end) <= jnp.arange(start, end)[:, None]
    if segments is None:
        return allowed
    same = segments[:, start:end, None] == segments[:, None, :end]
    return (allowed & same)[:, None]

