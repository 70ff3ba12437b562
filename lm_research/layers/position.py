"""Ways to tell a model where a token stands: added to embeddings or scores, or rotated in."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from lm_research.layers.einsum import shard
from lm_research.layers.mask import EMPTY
from lm_research.layers.parameter import parameter
from lm_research.layers.scaling import Scaling

Array = jax.Array


class Learned(nn.Module):
    """A table of positions, added to the embedding of the tokens.

    Attributes:
      length: how many positions there are; the model's context.
      deviation: standard deviation.
      offset: rows of the table that come before the first position's.
      letter: the logical axis of a row.
    """

    length: int
    deviation: float = 0.02
    offset: int = 0
    letter: str = "D"

    @nn.compact
    def __call__(self, position: Array, width: int) -> Array:  # [B, T] -> [B, T, D]
        normal = nn.initializers.normal(self.deviation)
        sizes = self.offset + self.length, width
        table = parameter(self, "table", normal, ("T", self.letter), sizes)
        table = shard(table, (None, None))
        return jnp.take(table, position + self.offset, 0, mode="clip")


class Sinusoidal(nn.Module):
    """Vaswani et al. (2017), section 3.5: sines at even entries, cosines at odd ones.

    Attributes:
      halves: whether all sines come first instead, as in their own code.
    """

    halves: bool = False

    @nn.compact
    def __call__(self, position: Array, width: int) -> Array:  # [B, T] -> [B, T, D]
        # Frequencies in float64 on the host: float32 powers drift at long positions.
        frequency = 10_000.0 ** -(np.arange(0, width, 2) / width)
        angle = position[..., None].astype(jnp.float32) * frequency.astype(np.float32)
        axis = -2 if self.halves else -1
        pair = jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis)
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
            length = jnp.where(position == EMPTY, -1, position).max(1) + 1  # [B]
            frequency = self.scaling(frequency, self.base, length)
        if frequency.ndim == 2:  # of each row its own
            frequency = frequency[:, None, None]
        angle = position[..., None, None].astype(jnp.float32) * frequency.astype(jnp.float32)
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
      made: [1, N, T, T], where the order is that of the slots: once for all blocks.
    """

    weight: Array
    bucket: Any = struct.field(pytree_node=False, default=None)
    made: Array | None = None

    def of_slots(self, length: int) -> "Bias":
        """Made for T queries and keys in the order of their slots."""
        distance = jnp.arange(1 - length, length)
        rows = self(jnp.zeros((1, 1), jnp.int32), distance[None])[0, :, 0]  # [N, 2 T - 1]
        # Row t of the result is `rows` from T - 1 - t on. Cut out of a repetition whose period is
        # one longer than its lines, the shift costs no gather, and its gradient no scatter.
        repeated = jnp.tile(jnp.pad(rows, ((0, 0), (0, 1))), (1, length))
        lines = repeated[:, : length * (2 * length - 1)].reshape(-1, length, 2 * length - 1)
        return self.replace(made=lines[None, :, :, length - 1 :])

    def __call__(self, query: Array, key: Array) -> Array:  # [B, T], [B, S] -> [B, N, T, S]
        if self.made is not None:
            return self.made
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
      deviation: standard deviation.
    """

    heads: int
    buckets: int = 32
    distance: int = 128
    bidirectional: bool = True
    deviation: float = 0.02

    @nn.compact
    def __call__(self) -> Bias:
        normal = nn.initializers.normal(self.deviation)
        table = parameter(self, "table", normal, ("T", "N"), (self.buckets, self.heads))
        return Bias(table, self._bucket)

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
