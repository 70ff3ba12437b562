"""`Einsum`: every matrix in the library is one of these, and its equation names its sharding."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import PartitionSpec

from lm_research.layers.parameter import parameter
from lm_research.mesh import POSITIONS, axes_of, parts
from lm_research.target import target

Array = jax.Array
Initializer = Callable[..., Array]


class Einsum(nn.Module):
    """`einsum(equation, x, kernel) + bias`.

    The kernel's logical axes are its letters in the equation; the bias has those of them that the
    result keeps.

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
        kernel = parameter(self, "kernel", init, axes, self.shape)
        y = product(self.equation, x, kernel, self.dtype)
        if self.bias:
            kept = [axis for axis in axes if axis in result]
            sizes = [self.shape[axes.index(axis)] for axis in kept]
            y = y + parameter(self, "bias", nn.initializers.zeros, kept, sizes).astype(y.dtype)
        return shard(y, tuple(result))


def shard(x: Array, letters: Sequence[str | None]) -> Array:
    """x laid out on the mesh by its letters; an axis without one is whole everywhere.

    Positions stay whole where the mesh does not divide them, as that of one token to decode.
    """
    if one_device():
        return x
    spec = list(nn.logical_to_mesh_axes(tuple(letters), nn.get_logical_axis_rules()))
    for i, letter in enumerate(letters):
        if letter and letter in POSITIONS and x.shape[i] % parts(spec[i]):
            spec[i] = None
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def by_heads(x: Array, letter: str = "N") -> Array:
    """x [B, T, N, H] with all positions of some heads on each device, whatever it had before.

    Where the mesh shares out positions, this is the exchange of Jacobs et al. (2023): attention,
    and whatever else reads a head from left to right, then has no need of other devices. Heads that
    are fewer than the parts stay whole.
    """
    if one_device():
        return x
    heads = heads_axes()
    if x.shape[2] % parts(heads):
        heads = axes_of(letter)
    spec = PartitionSpec(axes_of("B"), None, heads or None, None)
    return jax.lax.with_sharding_constraint(x, spec)


def heads_axes() -> tuple[str, ...]:
    """The mesh axes over which attention shares out its heads: their own, and the positions'."""
    return (*axes_of("N"), *axes_of("T"))


def one_device() -> bool:
    """Whether what is being traced is for one device: the only one, or each by itself."""
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[name] for name in mesh.auto_axes) <= 1


def normal_products(deviation: float, dtype: Any, writes: int = 1) -> dict[str, Any]:
    """Keywords of attention, MLPs and what else is made of products, that start them alike.

    Args:
      deviation: of the initial weights.
      dtype: of the operands.
      writes: how many products write to the stream; they start smaller by its square root (Radford
        et al., 2019).
    """
    normal, out = (nn.initializers.normal(deviation / math.sqrt(n)) for n in (1, writes))
    return dict(initializer=normal, out_initializer=out, dtype=dtype)


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
    """`einsum(equation, x, kernel)`: operands in `dtype`, sums in float32, then `result`.

    The result is by default in `stream_dtype(dtype)`.
    """
    result = result or stream_dtype(dtype)
    if one_cpu():
        return _cpu_product(equation, x.astype(dtype), kernel).astype(result)
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    return jnp.einsum(equation, x, kernel, preferred_element_type=result)


def stream_dtype(dtype: Any) -> Any:
    """What activations are stored in, between products whose operands are in `dtype`.

    On CPU float32: XLA computes in bfloat16 there by conversions to and fro, and a step whose
    activations were in bfloat16 took 1.7 times as long at width 128.
    """
    return jnp.float32 if target().backend == "cpu" else dtype


def one_cpu() -> bool:
    """Whether the program being traced runs on one CPU device: see `matmul`."""
    return target().backend == "cpu" and one_device()


def row_major(x: Array) -> Array:
    """x with its last axis contiguous in memory: a transpose alone would only change the layout."""
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


def matmul(x: Array, y: Array, transposed: bool = False) -> Array:
    """x [..., M, K] times y [..., K, N], or y [..., N, K] where `transposed`, in float32.

    XLA's CPU backend multiplies bfloat16 at twice the speed of float32, but only matrices that are
    row-major, in the forms NN and NT, with at most one batch axis, into a float32 result; to
    anything else it gives float32 copies. A result that is transposed later would be no product
    that it knows, hence the constraint on the result.
    """
    batch = tuple(range(x.ndim - 2))
    contracted = (x.ndim - 1,), (y.ndim - 1 if transposed else y.ndim - 2,)
    dimensions = contracted, (batch, batch)
    return row_major(jax.lax.dot_general(x, y, dimensions, preferred_element_type=jnp.float32))


def transposed_matmul(x: Array, y: Array) -> Array:
    """x [K, M], transposed, times y [K, N], in float32: the gradient of a kernel.

    XLA's CPU backend has this form for float32. In bfloat16 x is transposed first, in two passes
    that read and write pieces of rows: a plain transpose walks down columns, whose entries compete
    for the same lines of the cache where a row is 12 KiB, and took longer than the product.
    """
    if x.dtype == jnp.float32:
        return row_major(jax.lax.dot_general(x, y, (((0,), (0,)), ((), ()))))
    K, M = x.shape
    piece = math.gcd(K, 32)
    pieces = row_major(x.reshape(K // piece, piece, M).swapaxes(1, 2))
    return matmul(row_major(pieces.swapaxes(0, 1)).reshape(M, K), y)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _cpu_product(equation: str, x: Array, kernel: Array) -> Array:
    return _forward(equation, x, kernel)[0]


def _forward(equation, x, kernel):
    rows, matrix, inward = _matrices(equation, x, kernel.astype(x.dtype))
    _, axes, result = letters(equation)
    sizes = [size for axis, size in zip(axes, kernel.shape) if axis in result]
    y = matmul(rows, matrix, transposed=not inward)
    return y.reshape(*x.shape[: len(result) - len(sizes)], *sizes), (x, kernel)


def _backward(equation, saved, gradient):
    x, kernel = saved
    rows, matrix, inward = _matrices(equation, x, kernel.astype(x.dtype))
    gradient = gradient.astype(x.dtype).reshape(len(rows), -1)
    x_gradient = matmul(gradient, matrix, transposed=inward)
    left, right = (rows, gradient) if inward else (gradient, rows)
    kernel_gradient = transposed_matmul(left, right)
    return x_gradient.astype(x.dtype).reshape(x.shape), kernel_gradient.reshape(kernel.shape)


def _matrices(equation: str, x: Array, kernel: Array) -> tuple[Array, Array, bool]:
    """x as [rows, contracted], the kernel as [contracted, kept], or else as [kept, contracted]."""
    _, axes, result = letters(equation)
    size = math.prod(size for axis, size in zip(axes, kernel.shape) if axis not in result)
    inward = axes[0] not in result
    return x.reshape(-1, size), kernel.reshape((size, -1) if inward else (-1, size)), inward


_cpu_product.defvjp(_forward, _backward)
