"""`Einsum`: every matrix in the library is one of these, and its equation names its sharding."""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

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


def product(equation: str, x: Array, kernel: Array, dtype: Any, result: Any = None) -> Array:
    """`einsum(equation, x, kernel)` with operands in `dtype`, sums in float32, and a result in `result` or `dtype`."""
    result = result or dtype
    if dtype == jnp.bfloat16 and one_cpu():
        return _bfloat16_product(equation, x.astype(dtype), kernel).astype(result)
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    return jnp.einsum(equation, x, kernel, preferred_element_type=result)


def stream_dtype(dtype: Any) -> Any:
    """What the residual stream is stored in, between products whose operands are in `dtype`.

    On CPU float32: sums in bfloat16 are no faster there.
    """
    return jnp.float32 if jax.default_backend() == "cpu" else dtype


def one_cpu() -> bool:
    """Whether the program being traced runs on one CPU device, whose bfloat16 products want care."""
    return jax.default_backend() == "cpu" and jax.sharding.get_abstract_mesh().size <= 1


def row_major(x: Array) -> Array:
    """x, laid out in memory with its last axis contiguous.

    XLA's CPU backend multiplies bfloat16 at twice the speed of float32 where operands are row-major in the forms NN or
    NT and the result is float32; to anything else it gives float32 copies. A transpose alone is a change of layout,
    which those products refuse, even behind an optimization barrier.
    """
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _bfloat16_product(equation: str, x: Array, kernel: Array) -> Array:
    return _forward(equation, x, kernel)[0]


def _forward(equation, x, kernel):
    kernel = kernel.astype(jnp.bfloat16)
    return sums(equation, x, kernel), (x, kernel)


def _backward(equation, saved, gradient):
    x, kernel = saved
    x_letters, axes, result = letters(equation)
    gradient = gradient.astype(jnp.bfloat16)
    rows = "".join(axis for axis in x_letters if axis not in axes)
    kept = "".join(axis for axis in axes if axis in result)
    columns = "".join(axis for axis in axes if axis not in result)
    # The kernel's gradient begins with the axes that the kernel begins with: one operand is transposed, as a matrix.
    left, right, first = (x, gradient, columns) if axes.startswith(columns) else (gradient, x, kept)
    count = math.prod(left.shape[: len(rows)])
    left = row_major(left.reshape(count, -1).T)
    kernel_gradient = sums("MR,RN->MN", left, right.reshape(count, -1)).reshape(kernel.shape)
    return sums(f"{result},{axes}->{x_letters}", gradient, kernel).astype(x.dtype), kernel_gradient


def sums(equation: str, x: Array, y: Array) -> Array:
    """`einsum(equation, x, y)` on one CPU, with float32 sums; a result that were transposed later would be no product
    that the backend knows."""
    return row_major(jnp.einsum(equation, x, y, preferred_element_type=jnp.float32))


_bfloat16_product.defvjp(_forward, _backward)
