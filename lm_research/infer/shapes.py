"""A few sizes of batches and lengths, so that a few programs serve every request, and what fits into a model."""

import math

import flax.linen as nn
import jax
import numpy as np

from lm_research import mesh
from lm_research.errors import UserError


def padded_length(length: int) -> int:
    """The least of 16, 24, 32, 48, 64, 96, ... that holds `length` tokens: at most a third is padding."""
    power = 1 << max(4, (length - 1).bit_length())
    return power if length > power * 3 // 4 or power == 16 else power * 3 // 4


def padded_rows(rows: int) -> int:
    """The least power of two, and multiple of the parts that the mesh cuts a batch into, that holds `rows`."""
    parts = 1
    if not jax.sharding.get_mesh().empty:
        sharding = mesh.batch_sharding()
        names = sharding.spec[0] if len(sharding.spec) else None
        names = (names,) if isinstance(names, str) else names or ()
        parts = math.prod(sharding.mesh.shape[name] for name in names)
    return parts * (1 << (max(1, -(-rows // parts)) - 1).bit_length())


def check_tokens(model: nn.Module, tokens: np.ndarray, what: str) -> None:
    """Refuses tokens that the model has no embedding for.

    Raises:
      UserError: names the first.
    """
    wrong = tokens[(tokens < 0) | (tokens >= model.vocab)]
    if len(wrong):
        raise UserError(f"{what} has token {wrong[0]}; the model's vocabulary is 0 to {model.vocab - 1}")
