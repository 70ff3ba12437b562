"""What fits into a model, and a few sizes, so that a few programs serve every request."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm_research import mesh
from lm_research.errors import UserError
from lm_research.layers import stream_dtype
from lm_research.models.encoder_decoder import EncoderDecoder


def padded_rows(rows: int) -> int:
    """The least power of two, times the parts that the mesh cuts a batch into, for `rows`."""
    parts = 1
    if not jax.sharding.get_mesh().empty:
        sharding = mesh.batch_sharding()
        names = sharding.spec[0] if len(sharding.spec) else None
        names = (names,) if isinstance(names, str) else names or ()
        parts = math.prod(sharding.mesh.shape[name] for name in names)
    return parts * (1 << (-(-rows // parts) - 1).bit_length())


def decoded_rows(rows: int, dtype: str) -> int:
    """`padded_rows`, and two at least in 16 bits on CPU, where one row takes ten times as long."""
    return padded_rows(max(rows, 1 if jnp.dtype(dtype) == stream_dtype(dtype) else 2))


def check(model: nn.Module, tokens: np.ndarray, what: str, more: int = 0) -> None:
    """Refuses tokens that the model cannot read, or cannot continue with `more` of them.

    Args:
      tokens: ids.
      what: their name, for the message.

    Raises:
      UserError: a token is outside of the vocabulary, the context is too short, or the tokens and
        those to come cannot be read by one cache.
    """
    if isinstance(model, EncoderDecoder):
        if model.context is not None and more > model.context:
            raise UserError(
                f"{what} is to give {more} tokens; the decoder's context is {model.context}"
            )
        return check(model.encoder, tokens, what)
    turn = getattr(model, "turn", None)
    if turn is not None and len(tokens) <= turn < len(tokens) + more - 1:
        raise UserError(
            f"{what} has {len(tokens)} tokens, and the model reads texts of more than {turn} by "
            f"other rotary frequencies (LongRoPE); ask for {turn + 1 - len(tokens)} new tokens or "
            "fewer, and then continue the whole text"
        )
    wrong = tokens[(tokens < 0) | (tokens >= model.vocab)]
    if len(wrong):
        raise UserError(f"{what} has token {wrong[0]}; the model's are 0 to {model.vocab - 1}")
    if model.context is not None and len(tokens) + more > model.context:
        given = f"{len(tokens)} tokens"
        if more:
            given = f"{len(tokens)} tokens, and {more} new ones make {len(tokens) + more}"
        raise UserError(f"{what} has {given}; the model's context is {model.context}")
