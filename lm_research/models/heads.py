"""What models add to a trunk: a transform before the vocabulary, a pooler, a detector."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_research.layers import Dropout, Einsum, Transform, parameter
from lm_research.layers.einsum import Initializer
from lm_research.layers.mlp import ACTIVATIONS, Activation

Array = jax.Array


class HeadTransform(nn.Module):
    """The parameters of a `Transform`, which the head carries to where it is applied.

    Attributes:
      activation: between the product and the norm.
      epsilon: of the norm.
      bias, norm_bias: whether the product and the norm have one.
      initializer: initializer of the product.
      dtype: of the product's operands.
    """

    activation: Activation = "gelu"
    epsilon: float = 1e-12
    bias: bool = True
    norm_bias: bool = True
    initializer: Initializer = nn.initializers.normal(0.02)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, width: int, out: int) -> Transform:
        """From `width` (D) to the width of the vocabulary's table (C)."""
        kernel = parameter(self, "kernel", self.initializer, ("D", "C"), (width, out))
        vector = lambda name, init: parameter(self, name, init, ("C",), (out,))
        scale = vector("norm_scale", nn.initializers.ones)
        bias = vector("bias", nn.initializers.zeros) if self.bias else None
        norm_bias = vector("norm_bias", nn.initializers.zeros) if self.norm_bias else None
        return Transform(kernel, scale, bias, norm_bias, self.activation, self.epsilon, self.dtype)


class Pooler(nn.Module):
    """tanh(dense(first hidden state)), from which `pair` tells how two texts belong together.

    Devlin et al. (2019): whether the second one follows the first; Lan et al. (2020): in which
    order they stand.

    Attributes:
      pair: whether there is that classifier of two classes.
      dropout: rate on what it reads.
      initializer: initializer of both products.
      dtype: of the first product's operands.
    """

    pair: bool = False
    dropout: float = 0.0
    initializer: Initializer = nn.initializers.normal(0.02)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, hidden: Array) -> tuple[Array, Array | None]:  # [B, T, D]
        """What is pooled [B, D], and logits [B, 2]."""
        D = hidden.shape[-1]
        dense = Einsum("BTD,DC->BTC", (D, D), True, self.initializer, self.dtype, name="dense")
        pooled = jnp.tanh(dense(hidden[:, :1]))[:, 0]  # [B, D]
        if not self.pair:
            return pooled, None
        kernel = parameter(self, "kernel", self.initializer, ("C", None), (D, 2))
        bias = parameter(self, "bias", nn.initializers.zeros, (None,), (2,))
        return pooled, Dropout(self.dropout)(pooled).astype(jnp.float32) @ kernel + bias


class Detector(nn.Module):
    """Whether each token was replaced (Clark et al., 2020): dense, activation and one number.

    Attributes:
      activation: between the products.
      initializer: initializer of both.
      dtype: of the first product's operands.
    """

    activation: Activation = "gelu"
    initializer: Initializer = nn.initializers.normal(0.02)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, hidden: Array) -> Array:  # [B, T, D] -> [B, T]
        """Logits, in float32."""
        D = hidden.shape[-1]
        dense = Einsum("BTD,DC->BTC", (D, D), True, self.initializer, self.dtype, name="dense")
        x = ACTIVATIONS[self.activation](dense(hidden)).astype(jnp.float32)
        kernel = parameter(self, "kernel", self.initializer, ("C", None), (D, 1))
        bias = parameter(self, "bias", nn.initializers.zeros, (None,), (1,))
        return (x @ kernel + bias)[..., 0]
