"""What every model returns: `Output`, and the `Head` that turns hidden states into logits."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from lm_research.layers.einsum import product, shard
from lm_research.layers.mlp import ACTIVATIONS
from lm_research.layers.norm import layer_norm

Array = jax.Array


@struct.dataclass
class Transform:
    """norm(activation(hidden kernel + bias)): what a masked language model's head does first.

    Devlin et al. (2019), in their code. Of its arrays, those that a family lacks are None.
    """

    kernel: Array  # [D, C]
    scale: Array  # [C]
    bias: Array | None = None  # [C]
    norm_bias: Array | None = None  # [C]
    activation: str = struct.field(pytree_node=False, default="gelu")
    epsilon: float = struct.field(pytree_node=False, default=1e-12)
    dtype: Any = struct.field(pytree_node=False, default=jnp.float32)

    def __call__(self, hidden: Array) -> Array:  # [B, T, D] -> [B, T, C]
        """Hidden states as the product with the vocabulary takes them."""
        y = product("BTD,DC->BTC", hidden, self.kernel, self.dtype)
        if self.bias is not None:
            y = y + self.bias.astype(y.dtype)
        return layer_norm(ACTIVATIONS[self.activation](y), self.scale, self.norm_bias, self.epsilon)


@struct.dataclass
class Head:
    """Hidden states to logits over the vocabulary; a loss may apply it in pieces.

    Attributes:
      kernel: the embedding table, where the two are tied.
      transform: what is done to hidden states before the product.
      bias: added to the logits.
      scale: factor on the logits.
      soft_cap: c of c tanh(logits / c).
      dtype: of the product's operands.
    """

    kernel: Array  # [V, D]
    bias: Array | None = None  # [V]
    transform: Transform | None = None
    scale: float = struct.field(pytree_node=False, default=1.0)
    soft_cap: float | None = struct.field(pytree_node=False, default=None)
    dtype: Any = struct.field(pytree_node=False, default=jnp.float32)

    def __call__(self, hidden: Array) -> Array:  # [B, T, D] -> [B, T, V]
        """Logits in float32."""
        if self.transform is not None:
            hidden = self.transform(hidden)
        logits = product("BTD,VD->BTV", hidden, self.kernel, self.dtype, jnp.float32)
        return shard(self.finished(logits), ("B", "T", "V"))

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
      hidden: the trunk's last hidden states.
      head: makes logits of them; None where a model predicts no tokens.
      cache: the extended cache, where one was given.
      pooled: of the first token, where the model has a pooler.
      pair: logits of the two ways in which two texts of a row may belong together.
      replaced: logits of each token's having been replaced, where the model has a detector.
      ahead: hidden states from which the head predicts tokens after the next, one by one, in models
        that do and without a cache.
      scores: logits of the classes that a text may belong to, in models that classify.
    """

    hidden: Array  # [B, T, D]
    head: Head | None
    cache: Any = None
    pooled: Array | None = None  # [B, D]
    pair: Array | None = None  # [B, 2]
    replaced: Array | None = None  # [B, T]
    ahead: tuple[Array, ...] = ()
    scores: Array | None = None  # [B, classes]

    @property
    def logits(self) -> Array:
        """[B, T, V], float32, computed when asked for."""
        return self.head(self.hidden)
