"""What takes the place of another machine's attention kernel in a program that is only planned.

Such a kernel does not compile here. This keeps what the kernel keeps for its backward pass, and
makes results of the same shapes without any scores [T, S]; it computes nothing of use.
"""

from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


def stand_in(
    query: Array,  # [B, T, N, H]
    key: Array,  # [B, S, K, H]
    value: Array,  # [B, S, K, H]
    repeats: bool,
    dtype: Any,
) -> Array:  # [B, T, N, H]
    """An array as attention would return it, in `dtype`.

    Args:
      query, key, value: as attention takes them.
      repeats: whether the kernel wants keys and values for each query head.
      dtype: of the operands.
    """
    groups = query.shape[2] // key.shape[2]
    if repeats:
        key, value = (jnp.repeat(x, groups, 2) for x in (key, value))
    return _attended(*(x.astype(dtype) for x in (query, key, value)))


@jax.custom_vjp
def _attended(query, key, value):
    return _forward(query, key, value)[0]


def _forward(query, key, value):
    groups = query.shape[2] // key.shape[2]
    read = jnp.repeat((key * value).mean(1, keepdims=True), groups, 2)
    result = query * read
    total = result.astype(jnp.float32).sum(-1)  # stands for the softmax's partition
    return result, (query, key, value, result, total)


def _backward(saved, gradient):
    query, key, value, result, total = saved
    gradient = gradient * (result + total[..., None].astype(result.dtype))
    groups = query.shape[2] // key.shape[2]
    back = gradient.mean(1, keepdims=True)
    back = back.reshape(*back.shape[:2], key.shape[2], groups, -1).sum(3)
    return gradient * query, key * back, value * back


_attended.defvjp(_forward, _backward)
