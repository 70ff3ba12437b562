"""`Mask`: who may attend to whom, made dense only where a kernel needs it."""

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array

EMPTY = jnp.iinfo(
    jnp.int32
).max  # the position of a cache slot, or of padding, that nobody may attend to
FAR = -1e30  # a score that no softmax sees; finite, so that a row that may see nothing is not NaN


@struct.dataclass
class Mask:
    """The intersection of its parts, except that a prefix widens `causal` and `window`.

    `causal`, `window` and `prefix` compare orders: a token's slot where all tokens are at hand, its
      stored position
    where keys come from a cache.

    Attributes:
      causal: a query sees keys up to its own order.
      window: and only the last `window` of them, itself included.
      prefix: keys whose order is below it are seen by all queries of the row; or bool [B, S],
        which keys are.
      segments: of the queries and of the keys; a query sees keys of its own segment. Padding is a
        segment too.
      allowed: anything else, such as a permutation's factorisation order.
    """

    causal: bool = struct.field(pytree_node=False, default=False)
    window: int | None = struct.field(pytree_node=False, default=None)
    prefix: Array | None = None  # [B], or [B, S]
    segments: tuple[Array, Array] | None = None  # [B, T], [B, S]
    allowed: Array | None = None  # [B, T, S]

    @classmethod
    def factorised(cls, order: Array) -> "Mask":  # [B, T]
        """Who may be predicted from whom where the chain rule goes through a row in an order.

        Args:
          order: of each token, the first is 1; those of order 0 are context, which all see. A token
            is predicted from the context and from what comes before it in the order (Yang et al.,
            2019, equations 3 and 5).
        """
        return cls(allowed=order[:, None, :] < jnp.maximum(order, 1)[:, :, None])

    @property
    def static(self) -> bool:
        """Whether it depends on orders alone."""
        return self.prefix is None and self.segments is None and self.allowed is None

    @property
    def in_blocks(self) -> bool:
        """Whether it is only causal, only of segments, or both, or neither."""
        return self.window is None and self.prefix is None and self.allowed is None

    def dense(self, query: Array, key: Array) -> Array:  # [B, T], [B, S] -> [B, 1, T, S]
        """True where attention is allowed, for the given orders of queries and keys."""
        query, key = query[:, :, None], key[:, None, :]
        ok = jnp.ones_like(query <= key)
        if self.causal:
            ok &= key <= query
        if self.window is not None:
            ok &= key > query - self.window
            if not self.causal:
                ok &= key < query + self.window
        if self.prefix is not None:
            below = self.prefix.ndim == 1
            ok |= key < self.prefix[:, None, None] if below else self.prefix[:, None]
        if self.segments is not None:
            ok &= self.segments[0][:, :, None] == self.segments[1][:, None, :]
        if self.allowed is not None:
            ok &= self.allowed
        return (ok & (key != EMPTY))[:, None]
