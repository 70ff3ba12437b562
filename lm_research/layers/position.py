"""Ways to tell a model where a token stands: added to embeddings or scores, or rotated in."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from lm_research.layers.scaling import Scaling

Array = jax.Array


class Learned(nn.Module):
    """A table of positions, added to the embedding of the tokens.

    Attributes:
      length: how many positions there are; the model's context.
      deviation: standard deviation.
    """

    length: int
    deviation: float = 0.02

    @nn.compact
    def __call__(self, position: Array, width: int) -> Array:  # [B, T] -> [B, T, D]
        init = nn.with_logical_partitioning(nn.initializers.normal(self.deviation), ("T", "D"))
        table = self.param("table", init, (self.length, width))
        return jnp.take(nn.with_logical_constraint(table, (None, None)), position, 0, mode="clip")


class Sinusoidal(nn.Module):
    """Vaswani et al. (2017), section 3.5: sines at even entries, cosines at odd ones."""

    @nn.compact
    def __call__(self, position: Array, width: int) -> Array:  # [B, T] -> [B, T, D]
        angle = position[..., None] * 10_000.0 ** -(jnp.arange(0, width, 2) / width)
        pair = jnp.stack([jnp.sin(angle), jnp.cos(angle)], -1)
        return pair.reshape(*position.shape, -1)[..., :width]  # [B, T, D]


@dataclasses.dataclass(frozen=True)
class Rotary:
    """Su et al. (2021): rotates pairs of a head's entries by an angle that grows with the position.

    Attributes:
      base: the longest wavelength is about 2 pi base.
      fraction: the part of each head that is rotated.
      scaling: stretches the waves to longer contexts.
    """

    base: float = 10_000.0
    fraction: float = 1.0
    scaling: Scaling | None = None

    def __call__(self, x: Array, position: Array) -> Array:  # [B, T, N, H], [B, T]
        """Rotates entry i with entry i + half, the layout of Llama and GPT-NeoX."""
        size = int(x.shape[-1] * self.fraction)
        half = size // 2
        # Powers in float64 on the host, as float32's drift; rounded where PyTorch's are, since at
        # position 100,000 the last bit of a frequency turns a pair by half a degree.
        exponent = (np.arange(half) / half).astype(np.float32).astype(np.float64)
        frequency = 1 / (self.base**exponent).astype(np.float32)
        if self.scaling is not None:
            frequency = self.scaling(frequency, self.base)
        angle = position[..., None, None].astype(jnp.float32) * frequency.astype(np.float32)
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        if self.scaling is not None and self.scaling.magnitude != 1.0:
            cos, sin = cos * self.scaling.magnitude, sin * self.scaling.magnitude
        y = x.astype(jnp.float32)
        a, b, rest = y[..., :half], y[..., half:size], y[..., size:]
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin, rest], -1).astype(x.dtype)


@struct.dataclass
class Bias:
    """Added to attention scores: a number per head and per distance of key from query.

    Attributes:
      weight: slopes [N] of ALiBi, or a table [bucket, N] of relative biases.
      bucket: maps distances (key minus query) to rows of the table; None for slopes.
    """

    weight: Array
    bucket: Any = struct.field(pytree_node=False, default=None)

    def __call__(self, query: Array, key: Array) -> Array:  # [B, T], [B, S] -> [B, N, T, S]
        distance = key[:, None, :] - query[:, :, None]
        if self.bucket is None:
            return -jnp.abs(distance)[:, None] * self.weight[:, None, None]
        return jnp.moveaxis(self.weight[self.bucket(distance)], -1, 1)


class ALiBi(nn.Module):
    """Press et al. (2022): scores fall linearly with distance, head by head more gently.

    Attributes:
      heads: N; slopes are powers of 2 ** (-8 / N), interleaved as in the paper where N is no power
        of 2.
    """

    heads: int

    @nn.compact
    def __call__(self) -> Bias:
        whole = 2 ** math.floor(math.log2(self.heads))
        slopes = [2.0 ** (-8 * (i + 1) / whole) for i in range(whole)]
        finer = [2.0 ** (-4 * (i + 1) / whole) for i in range(0, 2 * whole, 2)]
        return Bias(jnp.array((slopes + finer)[: self.heads], jnp.float32))


class RelativeBias(nn.Module):
    """Raffel et al. (2020): a learned bias per head and bucket of distances.

    Attributes:
      heads: N.
      buckets: half of them are exact, the others grow logarithmically up to `distance`.
      distance: from which on all distances share the last bucket.
      bidirectional: whether keys after the query have buckets of their own.
    """

    heads: int
    buckets: int = 32
    distance: int = 128
    bidirectional: bool = True

    @nn.compact
    def __call__(self) -> Bias:
        init = nn.with_logical_partitioning(nn.initializers.normal(0.02), (None, "N"))
        return Bias(self.param("table", init, (self.buckets, self.heads)), self._bucket)

    def _bucket(self, distance: Array) -> Array:
        buckets, offset = self.buckets, 0
        if self.bidirectional:
            buckets //= 2
            offset = jnp.where(distance > 0, buckets, 0)
            distance = jnp.abs(distance)
        else:
            distance = jnp.maximum(-distance, 0)
        exact = buckets // 2
        ratio = jnp.log(jnp.maximum(distance, 1) / exact) / math.log(self.distance / exact)
        far = exact + (ratio * (buckets - exact)).astype(jnp.int32)
        return offset + jnp.where(distance < exact, distance, jnp.minimum(far, buckets - 1))
