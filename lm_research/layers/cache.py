"""What a block remembers between calls; a model's cache is a tuple of these, one per block."""

import jax
import jax.numpy as jnp
from flax import struct

from lm_research.layers.einsum import shard
from lm_research.layers.mask import EMPTY

Array = jax.Array


@struct.dataclass
class KeyValue:
    """Keys and values with the positions of their tokens.

    Rows share the slot where the next tokens are written and differ in positions: a slot that a row
      does not use
    holds the position `EMPTY`, which no query sees. So prompts of uneven length, and tokens that
    were proposed and refused, need no more than their positions.
    """

    key: (
        Array  # [B, K, S, H]: a head's keys lie together, which one query reads without a transpose
    )
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
        write = jax.lax.dynamic_update_slice
        slot = self.next
        return KeyValue(
            write(self.key, jnp.swapaxes(key, 1, 2).astype(self.key.dtype), (0, 0, slot, 0)),
            write(self.value, jnp.swapaxes(value, 1, 2).astype(self.value.dtype), (0, 0, slot, 0)),
            write(self.position, position.astype(jnp.int32), (0, slot)),
            slot + key.shape[1],
        )
