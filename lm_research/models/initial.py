"""How any model starts: the one place that calls a module's `init`."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_research import log
from lm_research.models.encoder_decoder import EncoderDecoder


def initial(model: nn.Module, key: jax.Array) -> Any:
    """Parameters drawn from `key`, boxed with the names of their axes.

    What layers say of the two tokens that they are traced with says nothing of a run, and is not
    recorded.
    """
    tokens = jnp.zeros((1, 2), jnp.int32)
    source = {"source": tokens} if isinstance(model, EncoderDecoder) else {}
    with log.unheard():
        return model.init(key, tokens, **source)["params"]
