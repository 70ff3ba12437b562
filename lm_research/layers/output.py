"""What every model returns: `Output`, and the `Head` that turns hidden states into logits."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from lm_research.layers.einsum import product

Array = jax.Array


@struct.dataclass
class Head:
    """Hidden states to logits over the vocabulary; a loss may apply it in pieces.

    Attributes:
      kernel: the embedding table, where the two are tied.
      bias: added to the logits.
      scale: factor on the logits.
      soft_cap: c of c tanh(logits / c).
      dtype: of the product's operands.
    """

    kernel: Array  # [V, D]
    bias: Array | None = None  # [V]
    scale: float = struct.field(pytree_node=False, default=1.0)
    soft_cap: float | None = struct.field(pytree_node=False, default=None)
    dtype: Any = struct.field(pytree_node=False, default=jnp.float32)

    def __call__(self, hidden: Array) -> Array:  # [B, T, D] -> [B, T, V]
        """Logits in float32."""
        logits = product("BTD,VD->BTV", hidden, self.kernel, self.dtype, jnp.float32)
        return nn.with_logical_constraint(self.finished(logits), ("B", "T", "V"))

    def finished(self, logits: Array) -> Array:
        """Bias, scale and soft cap on the plain product."""
        if self.bias is not None:
            logits = logits + self.bias
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.soft_cap is not None:
            logits = self.soft_cap * jnp.tanh(logits / self.soft_cap)
        return logits


@struct.dataclass
class Output:
    """What a model says about its tokens.

    Attributes:
      hidden: the last hidden states, normalised as the head takes them.
      head: makes logits of them.
      cache: the extended cache, where one was given.
    """

    hidden: Array  # [B, T, D]
    head: Head
    cache: Any = None

    @property
    def logits(self) -> Array:
        """[B, T, V], float32, computed when asked for."""
        return self.head(self.hidden)
