"""Mamba-2: a state that each token changes and reads, in place of attention to all before it."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from lm_research.errors import UserError
from lm_research.layers.dropout import Dropout
from lm_research.layers.einsum import Einsum, Initializer, by_heads, shard, stream_dtype
from lm_research.layers.mask import EMPTY, FAR, Mask
from lm_research.layers.mlp import ACTIVATIONS, Activation
from lm_research.layers.parameter import parameter
from lm_research.layers.tap import tap

Array = jax.Array


@struct.dataclass
class Recurrent:
    """What a recurrent block remembers: its state, and the last inputs of its convolution.

    Attributes:
      state: float32.
      recent: of each of the three parts that are convolved, the inputs before the next one.
    """

    state: Array  # [B, N, H, C]
    recent: tuple[Array, ...]  # [B, T, N, H], [B, T, K, C], [B, T, K, C]


@struct.dataclass
class Reading:
    """How rows of tokens are read: which are read at all, and where a text begins.

    Attributes:
      real: false for padding, which changes nothing; None where there is none.
      runs: counts the segments of a row; None where there is one.
      recent: how many inputs the convolution sees before each.
    """

    real: Array | None  # [B, T]
    runs: Array | None  # [B, T]
    recent: int = struct.field(pytree_node=False)

    @classmethod
    def of(cls, position: Array, mask: Mask, recent: int, cached: bool) -> "Reading":
        """That of a call.

        Raises:
          UserError: the mask asks for what a state cannot do.
        """
        if not mask.causal or mask.prefix is not None or mask.allowed is not None:
            raise UserError("a recurrent block reads from left to right; it takes a causal mask")
        if cached and mask.segments is not None:
            raise UserError("a recurrent state takes no segments; pad with the position EMPTY")
        runs = None
        if mask.segments is not None:
            segments = mask.segments[0]
            begins = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)))
            runs = jnp.cumsum(begins, 1)
        return cls(position != EMPTY if cached else None, runs, recent)

    def extended(self, recent: Array, x: Array) -> tuple[Array, Array]:
        """Inputs [B, T, ...] after those before them, padding last; and those before the next."""
        rows = jnp.concatenate([recent.astype(x.dtype), x], 1)
        if self.real is None:
            return rows, rows[:, x.shape[1] :]
        real = jnp.pad(self.real, ((0, 0), (self.recent, 0)), constant_values=True)
        rows = _taken(rows, jnp.argsort(~real, 1, stable=True))
        last = self.real.sum(1)[:, None] + jnp.arange(self.recent)
        return rows, _taken(rows, last)

    def in_place(self, x: Array) -> Array:
        """What `extended` gave an order [B, T, ...] without padding between, as tokens stand."""
        if self.real is None:
            return x
        return _taken(x, jnp.maximum(jnp.cumsum(self.real, 1) - 1, 0))


def _taken(x: Array, index: Array) -> Array:
    """x[b, index[b]] for each row b."""
    return jnp.take_along_axis(x, index.reshape(*index.shape, *(1,) * (x.ndim - 2)), 1)


class Convolution(nn.Module):
    """Of every channel with its own last `length` inputs, then an activation.

    Attributes:
      length: of the kernel.
      axes: letters of the channels.
      bias: whether there is one.
      activation: a name in `ACTIVATIONS`.
    """

    length: int
    axes: tuple[str, ...]
    bias: bool
    activation: Activation

    @nn.compact
    def __call__(self, x: Array, recent: Array, reading: Reading) -> tuple[Array, Array]:
        """Results [B, T, ...], and the inputs before the next one."""
        T, shape = x.shape[1], x.shape[2:]
        init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", -1, range(len(shape)))
        kernel = parameter(self, "kernel", init, (*self.axes, None), (*shape, self.length))
        rows, recent = reading.extended(recent, x)
        result = 0.0
        for i in range(self.length):
            seen = rows[:, i : i + T]
            back = self.length - 1 - i
            if reading.runs is not None and back:
                before = jnp.pad(reading.runs, ((0, 0), (back, 0)), constant_values=-1)[:, :T]
                same = before == reading.runs
                seen = jnp.where(same.reshape(*same.shape, *(1,) * len(shape)), seen, 0)
            result += seen * kernel[..., i].astype(x.dtype)
        if self.bias:
            bias = parameter(self, "bias", nn.initializers.zeros, self.axes, shape)
            result += bias.astype(x.dtype)
        return reading.in_place(ACTIVATIONS[self.activation](result)), recent


class GatedNorm(nn.Module):
    """RMSNorm of x silu(gate) over each group of heads.

    Attributes:
      groups: K.
      epsilon: added to the mean square.
    """

    groups: int
    epsilon: float

    @nn.compact
    def __call__(self, x: Array, gate: Array) -> Array:  # [B, T, N, H]
        scale = parameter(self, "scale", nn.initializers.ones, ("N", "H"), x.shape[2:])
        y = x.astype(jnp.float32) * jax.nn.silu(gate.astype(jnp.float32))
        y = y.reshape(*x.shape[:2], self.groups, -1)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + self.epsilon)
        return (y.reshape(x.shape) * scale).astype(x.dtype)


class StateSpace(nn.Module):
    """Dao and Gu (2024), section 7: the mixer of Mamba-2.

    A head's state [H, C] decays by exp(A dt) and gains dt x B at each token, whose output is the
    state times C, plus x times a factor of the head. B and C are called `write` and `read` here.

    Attributes:
      heads, head: N and H.
      groups: K; N / K heads share what writes to their states and what reads them.
      state: C.
      convolution: how many inputs x, B and C are convolved over.
      bias, convolution_bias: whether products and convolutions have one.
      activation: after the convolutions.
      epsilon: of the norm.
      chunk: tokens within which products take the place of the recurrence.
      initializer, out_initializer: of the inputs' products and of the output's.
      dtype: of the products' operands.
    """

    heads: int
    head: int
    groups: int
    state: int
    convolution: int = 4
    bias: bool = False
    convolution_bias: bool = True
    activation: Activation = "silu"
    epsilon: float = 1e-5
    chunk: int = 128
    initializer: Initializer | None = None
    out_initializer: Initializer | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, y: Array, position: Array, mask: Mask, cache: Recurrent | None = None
    ) -> tuple[Array, Recurrent | None]:  # [B, T, D], [B, T]
        """What the tokens read from the state; and the state after them, where one was given."""
        D, N, H, K, C = y.shape[-1], self.heads, self.head, self.groups, self.state
        reading = Reading.of(position, mask, self.convolution - 1, cache is not None)
        before = self.init_cache(y.shape[0], 0) if cache is None else cache
        gate = self._project("BTD,DNH->BTNH", (D, N, H), "gate")(y)
        step = self._project("BTD,DN->BTN", (D, N), "step")(y).astype(jnp.float32)
        parts, recent = [], []
        for name, axes, sizes, past in zip(
            ("input", "write", "read"), ("NH", "KC", "KC"), ((N, H), (K, C), (K, C)), before.recent
        ):
            x = self._project(f"BTD,D{axes}->BT{axes}", (D, *sizes), name)(y)
            convolution = Convolution(
                *(self.convolution, tuple(axes), self.convolution_bias, self.activation),
                name=f"{name}_convolution",
            )
            x, last = convolution(by_heads(x, axes[0]), past, reading)
            parts.append(x.astype(jnp.float32))
            recent.append(last)
        step = jax.nn.softplus(step + self._vector("step_bias", _steps))  # [B, T, N]
        if reading.real is not None:
            step = jnp.where(reading.real[..., None], step, 0)
        decay = -jnp.exp(self._vector("log_decay", _decays)) * step
        x, skip = parts[0], self._vector("skip", nn.initializers.ones)
        z, state = scanned(
            x * step[..., None], decay, *parts[1:], before.state, reading.runs, self.chunk
        )
        z = (z + x * skip[:, None]).astype(stream_dtype(self.dtype))
        z = shard(z, ("B", "T", "N", None))
        z = GatedNorm(K, self.epsilon, name="norm")(z, gate)
        out = Einsum(
            "BTNH,NHD->BTD", (N, H, D), self.bias, self.out_initializer, self.dtype, name="out"
        )
        return out(z), None if cache is None else Recurrent(state, tuple(recent))

    def _project(self, equation: str, shape: tuple[int, ...], name: str) -> Einsum:
        return Einsum(equation, shape, self.bias, self.initializer, self.dtype, name=name)

    def _vector(self, name: str, init: Initializer) -> Array:  # [N]
        return parameter(self, name, init, ("N",), (self.heads,))

    def init_cache(self, batch: int, length: int) -> Recurrent:
        """The state before any token, for `batch` rows; it has the same size for every length."""
        del length
        dtype, back = stream_dtype(self.dtype), self.convolution - 1
        group = jnp.zeros((batch, back, self.groups, self.state), dtype)
        heads = jnp.zeros((batch, back, self.heads, self.head), dtype)
        state = jnp.zeros((batch, self.heads, self.head, self.state), jnp.float32)
        group, heads = (shard(x, ("B", None, n, None)) for x, n in ((group, "K"), (heads, "N")))
        return Recurrent(shard(state, ("B", "N", None, None)), (heads, group, group))


def scanned(
    x: Array,  # [B, T, N, H]
    decay: Array,  # [B, T, N]
    write: Array,  # [B, T, K, C]
    read: Array,  # [B, T, K, C]
    state: Array,  # [B, N, H, C]
    runs: Array | None,  # [B, T]
    chunk: int,
) -> tuple[Array, Array]:  # [B, T, N, H], [B, N, H, C]
    """The recurrence, chunk by chunk: what is read at each token, and the state at the end."""
    B, T, N, H = x.shape
    K, C = write.shape[2:]
    runs = jnp.zeros((B, T), jnp.int32) if runs is None else runs
    inputs = (x.reshape(B, T, K, N // K, H), decay.reshape(B, T, K, N // K), write, read, runs)
    carry = (state.reshape(B, K, N // K, H, C), runs[:, 0])
    size = min(chunk, T)
    if size == T:
        carry, y = _chunk(carry, inputs)
    else:
        # Padding neither decays nor adds, and is of the last text.
        pad = lambda a, mode: jnp.pad(
            a, ((0, 0), (0, -T % size), *((0, 0),) * (a.ndim - 2)), mode=mode
        )
        inputs = (*(pad(a, "constant") for a in inputs[:4]), pad(runs, "edge"))
        cut = lambda a: jnp.moveaxis(a.reshape(B, -1, size, *a.shape[2:]), 1, 0)
        carry, y = jax.lax.scan(_chunk, carry, tuple(cut(a) for a in inputs))
        y = jnp.moveaxis(y, 0, 1).reshape(B, -1, *y.shape[3:])[:, :T]
    return y.reshape(B, T, N, H), carry[0].reshape(B, N, H, C)


def _chunk(carry: tuple[Array, Array], inputs: tuple[Array, ...]) -> tuple[tuple, Array]:
    """One chunk as products (Dao and Gu, 2024, section 6), from a state [B, K, G, H, C]."""
    state, run = carry
    x, decay, write, read, runs = inputs
    total = jnp.cumsum(decay, 1)  # [B, T, K, G]
    T = x.shape[1]
    by_head = jnp.moveaxis(total, 1, -1)  # [B, K, G, T]
    same = (runs[:, :, None] == runs[:, None, :]) & np.tri(T, dtype=bool)
    between = by_head[..., :, None] - by_head[..., None, :]
    kept = jnp.exp(jnp.where(same[:, None, None], between, FAR))  # [B, K, G, T, S]
    y = jnp.einsum("BTKC,BSKC->BKTS", read, write)[:, :, None] * kept
    y = jnp.einsum("BKGTS,BSKGH->BTKGH", y, x)
    carried = jnp.where((runs == run[:, None])[..., None, None], jnp.exp(total), 0)
    y += jnp.einsum("BTKC,BKGHC->BTKGH", read, state) * carried[..., None]
    last = (runs == runs[:, -1:])[..., None, None]
    left = jnp.where(last, jnp.exp(total[:, -1:] - total), 0)  # [B, T, K, G]
    state = state * carried[:, -1, ..., None, None]
    state += jnp.einsum("BSKGH,BSKC->BKGHC", x * left[..., None], write)
    return (state, runs[:, -1]), y


def _steps(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """What softplus makes steps from 0.001 to 0.1 of, evenly in their logarithms."""
    low, high = np.log(1e-3), np.log(1e-1)
    step = jnp.maximum(jnp.exp(jax.random.uniform(key, shape, dtype, low, high)), 1e-4)
    return step + jnp.log(-jnp.expm1(-step))


def _decays(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Logarithms of numbers from 1 to 16."""
    return jnp.log(jax.random.uniform(key, shape, dtype, 1.0, 16.0))


class RecurrentBlock(nn.Module):
    """A mixer's result for the normed stream, added to the stream.

    Attributes:
      mixer: reads and changes a state.
      norm: of its input.
      dropout: rate on what is added to the stream.
    """

    mixer: StateSpace
    norm: nn.Module
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, x: Array, cache: Recurrent | None, position: Array, mask: Mask, *rest: Any
    ) -> tuple[Array, Recurrent | None]:  # [B, T, D], ..., [B, T]
        """The stream after this block, and its state; the rest is for blocks that attend."""
        del rest
        y, cache = self.mixer(self.norm.copy(name="mixer_norm")(x), position, mask, cache)
        x = tap(self, "residual", x + Dropout(self.dropout)(y))
        return shard(x, ("B", "T", "D")), cache

    def init_cache(self, batch: int, length: int) -> Recurrent:
        """The state before any token."""
        return self.mixer.init_cache(batch, length)
