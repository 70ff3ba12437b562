"""`Einsum`: every matrix in the library is one of these, and its equation names its sharding."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array
Initializer = Callable[..., Array]
shard = nn.with_logical_constraint


class Einsum(nn.Module):
    """`einsum(equation, x, kernel) + bias`.

    The kernel's logical axes are its letters in the equation; the bias has those of them that the result keeps.

    Attributes:
      equation: for example `BTD,DNH->BTNH`; the kernel's letters are contracted from the end of x.
      shape: of the kernel.
      bias: whether to add one.
      initializer: initializer of the kernel; None is truncated normal with variance 1 / fan-in.
      dtype: of the product's operands; parameters are float32.
    """

    equation: str
    shape: tuple[int, ...]
    bias: bool = False
    initializer: Initializer | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        _, axes, result = letters(self.equation)
        init = self.initializer or fan_in(axes, result)
        kernel = self.param("kernel", nn.with_logical_partitioning(init, tuple(axes)), self.shape)
        y = product(self.equation, x, kernel, self.dtype)
        if self.bias:
            kept = [axis for axis in axes if axis in result]
            sizes = [self.shape[axes.index(axis)] for axis in kept]
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, tuple(kept))
            y = y + self.param("bias", zeros, tuple(sizes)).astype(y.dtype)
        return shard(y, tuple(result))


def letters(equation: str) -> tuple[str, str, str]:
    """The letters of x, of the kernel and of the result."""
    x, kernel, result = equation.replace("->", ",").split(",")
    return x, kernel, result


def fan_in(axes: str, result: str) -> Initializer:
    """Truncated normal with variance 1 / (product of the contracted axes)."""
    contracted = [i for i, axis in enumerate(axes) if axis not in result]
    kept = [i for i, axis in enumerate(axes) if axis in result]
    return nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", contracted, kept)


def product(equation: str, x: Array, kernel: Array, dtype: Any) -> Array:
    """`einsum(equation, x, kernel)` with operands in `dtype` and sums in float32.

    The result is in `dtype`, but on CPU in float32: there, XLA multiplies bfloat16 fast only into float32, and every
    elementwise operation in bfloat16 is a float32 one between two conversions.
    """
    if dtype == jnp.bfloat16 and jax.default_backend() == "cpu":
        return _bfloat16_product(equation, x, kernel)
    return jnp.einsum(equation, x.astype(dtype), kernel.astype(dtype))


def activation_dtype(dtype: Any) -> Any:
    """What activations are stored in between products whose operands are in `dtype`."""
    return jnp.float32 if jax.default_backend() == "cpu" else dtype


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _bfloat16_product(equation: str, x: Array, kernel: Array) -> Array:
    return _sums(equation, x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))


def _forward(equation, x, kernel):
    x, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    return _sums(equation, x, kernel), (x, kernel)


def _backward(equation, saved, gradient):
    x, kernel = saved
    x_letters, axes, result = letters(equation)
    gradient = gradient.astype(jnp.bfloat16)
    # Explicit transposes: XLA:CPU multiplies bfloat16 fast only in the layouts NN and NT, and would
    # fold a plain transpose back into the product.
    rows = "".join(axis for axis in x_letters if axis not in axes)
    columns = "".join(axis for axis in x_letters if axis in axes)
    transposed = jax.lax.optimization_barrier(
        jnp.transpose(x, [x_letters.index(axis) for axis in columns + rows])
    )
    return (
        _sums(f"{result},{axes}->{x_letters}", gradient, kernel),
        _sums(f"{columns + rows},{result}->{axes}", transposed, gradient),
    )


def _sums(equation: str, x: Array, y: Array) -> Array:
    return jnp.einsum(equation, x, y, preferred_element_type=jnp.float32)


_bfloat16_product.defvjp(_forward, _backward)
