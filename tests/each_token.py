"""A small model that scores each token, for tests of what is made of such scores."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_research.layers import Output


class Each(nn.Module):
    """Scores of each token, from it and those before it."""

    classes: tuple[str, ...]
    vocab: int = 300
    pool, context = "each", None  # no attributes

    @nn.compact
    def __call__(self, tokens, *, mask=None):
        x = nn.Embed(self.vocab, 8, embedding_init=nn.initializers.normal(1.0))(tokens)
        x = x + jnp.cumsum(x, 1) / 4
        return Output(x, None, scores=nn.Dense(len(self.classes))(x))


def drawn(model):
    """Its parameters."""
    return jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
