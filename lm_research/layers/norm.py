"""Normalisation over D, or other axes, computed in float32."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_research.layers.parameter import parameter

Array = jax.Array


class RMSNorm(nn.Module):
    """Zhang and Sennrich (2019): x / rms(x) * (scale + offset).

    Attributes:
      epsilon: added to the mean square.
      offset: 1 where the scale is stored as its difference from one (Gemma).
      letter: the logical axis that is normalised, the last; or several, together.
    """

    epsilon: float = 1e-6
    offset: float = 0.0
    letter: str = "D"

    @nn.compact
    def __call__(self, x: Array) -> Array:  # [..., D]
        axes = tuple(range(-len(self.letter), 0))
        init = nn.initializers.constant(1.0 - self.offset)
        scale = parameter(self, "scale", init, self.letter, x.shape[axes[0] :])
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axes, keepdims=True) + self.epsilon)
        return (y * (scale + self.offset)).astype(x.dtype)


class LayerNorm(nn.Module):
    """Ba et al. (2016): (x - mean) / deviation * scale + bias.

    Attributes:
      epsilon: added to the variance.
      bias, scale: whether there is one.
      letter: the logical axis that is normalised.
    """

    epsilon: float = 1e-5
    bias: bool = True
    letter: str = "D"
    scale: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:  # [..., D]
        scale = _vector(self, "scale", nn.initializers.ones, x.shape[-1]) if self.scale else None
        bias = _vector(self, "bias", nn.initializers.zeros, x.shape[-1]) if self.bias else None
        return layer_norm(x, scale, bias, self.epsilon)


def layer_norm(x: Array, scale: Array | None, bias: Array | None, epsilon: float) -> Array:
    """What `LayerNorm` computes of its parameters."""
    y = x.astype(jnp.float32)
    y = y - jnp.mean(y, -1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + epsilon)
    y = y if scale is None else y * scale
    return (y if bias is None else y + bias).astype(x.dtype)


def _vector(module, name: str, init, size: int) -> Array:
    return parameter(module, name, init, (module.letter,), (size,))
