"""What a block remembers between calls; a model's cache is a tuple of these, one per block."""

import jax
import jax.numpy as jnp
from flax import struct

from lm_research.layers.einsum import one_cpu, row_major, shard
from lm_research.layers.mask import EMPTY

Array = jax.Array


@struct.dataclass
class Projected:
    """An encoder's output as the keys and values of one block, made once and read at every token.

    Attributes:
      key, value: as in `KeyValue`.
      position: slots of the source; padding holds `EMPTY`.
    """

    key: Array  # [B, K, S, H]
    value: Array  # [B, K, S, H]
    position: Array  # [B, S]

    @classmethod
    def of(cls, key: Array, value: Array, segments: Array | None) -> "Projected":
        """Of key and value [B, S, K, H]; padding is what is not of segment 1."""
        slots = jnp.broadcast_to(jnp.arange(key.shape[1]), key.shape[:2])
        position = slots if segments is None else jnp.where(segments == 1, slots, EMPTY)
        heads = (jnp.swapaxes(x, 1, 2) for x in (key, value))
        # Else, where a program ends here, jax 0.10.2 returns arrays whose layout it does not know.
        return cls(*(row_major(x) if one_cpu() else x for x in heads), position)


@struct.dataclass
class KeyValue:
    """Keys and values with the positions of their tokens.

    Rows share the slot where the next tokens are written and differ in positions: a slot that a row
    does not use holds the position `EMPTY`, which no query sees. So prompts of uneven length, and
    tokens that were proposed and refused, need no more than their positions. The keys of a head lie
    together, so that a query reads them without a transpose.
    """

    key: Array  # [B, K, S, H]
    value: Array  # [B, K, S, H]
    position: Array  # [B, S]
    next: Array  # []

    @classmethod
    def empty(cls, batch: int, length: int, heads: int, head: int, dtype) -> "KeyValue":
        """Room for `length` tokens in each of `batch` rows."""
        zeros = shard(jnp.zeros((batch, heads, length, head), dtype), ("B", "K", None, None))
        position = jnp.full((batch, length), EMPTY, jnp.int32)
        return cls(zeros, zeros, position, jnp.zeros((), jnp.int32))

    def extended(self, key: Array, value: Array, position: Array) -> "KeyValue":
        """With T more tokens written: key and value [B, T, K, H], position [B, T]."""
        write, slot = jax.lax.dynamic_update_slice, self.next
        new = self.replace(
            key=write(self.key, jnp.swapaxes(key, 1, 2).astype(self.key.dtype), (0, 0, slot, 0)),
            value=write(
                self.value, jnp.swapaxes(value, 1, 2).astype(self.value.dtype), (0, 0, slot, 0)
            ),
            position=self.placed(position),
            next=slot + key.shape[1],
        )
        if not one_cpu():
            return new
        # Else XLA fuses the write with each of its uses, and copies the whole cache for each.
        return new.replace(key=row_major(new.key), value=row_major(new.value))

    def placed(self, position: Array) -> Array:
        """Positions [B, S], with those [B, T] of T more tokens written."""
        return _written(self.position, position, self.next)


@struct.dataclass
class HiddenMemory:
    """A block's inputs in earlier segments, which it reads without a gradient to them.

    Keys and values are made again at every call, so that the products that make them learn from
    memory, too (Dai et al., 2019, section 3.2). For decoding, `KeyValue` is the same for less.
    """

    hidden: Array  # [B, S, D]
    position: Array  # [B, S]
    next: Array  # []

    @classmethod
    def empty(cls, batch: int, length: int, width: int, dtype) -> "HiddenMemory":
        """Room for `length` tokens in each of `batch` rows."""
        zeros = shard(jnp.zeros((batch, length, width), dtype), ("B", None, "D"))
        return cls(zeros, jnp.full((batch, length), EMPTY, jnp.int32), jnp.zeros((), jnp.int32))

    def extended(self, hidden: Array, position: Array) -> "HiddenMemory":
        """With T more tokens written: hidden [B, T, D], which have a gradient, position [B, T]."""
        past = jax.lax.stop_gradient(self.hidden)
        return self.replace(
            hidden=_written(past, hidden, self.next),
            position=self.placed(position),
            next=self.next + hidden.shape[1],
        )

    def placed(self, position: Array) -> Array:
        """Positions [B, S], with those [B, T] of T more tokens written."""
        return _written(self.position, position, self.next)


def _written(array: Array, new: Array, slot: Array) -> Array:
    """An array [B, S, ...] with rows [B, T, ...] from a slot on."""
    start = (0, slot, *(0 for _ in array.shape[2:]))
    return jax.lax.dynamic_update_slice(array, new.astype(array.dtype), start)
