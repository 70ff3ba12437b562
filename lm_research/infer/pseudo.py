"""`pseudo_score`: how likely an encoder finds each token among all the others."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm_research.errors import UserError
from lm_research.infer.pieces import batches, scored
from lm_research.layers import Mask, shard
from lm_research.objectives.token_loss import in_pieces

Array = jax.Array

TOKENS = 2**14  # read at once


def pseudo_score(
    model: nn.Module, params: Any, arrays: Sequence[np.ndarray], tokenizer: Any
) -> list[dict]:
    """Pseudo-log-likelihood (Salazar et al., 2020): of each token given all the others.

    Each token but the special ones is masked by itself, in a row of its own.

    Args:
      model: an encoder.
      params: its plain parameters.
      arrays: token ids.
      tokenizer: says which token masks others, and which are special.

    Returns:
      As `score`; None for special tokens.

    Raises:
      UserError: there is no mask token, or no vocabulary head.
    """
    mask = getattr(tokenizer, "mask", None)
    if not getattr(model, "predicts", True):
        raise UserError("an encoder scores tokens with a vocabulary head, and this one has none")
    if mask is None:
        raise UserError("an encoder scores tokens by masking them; its tokenizer has no mask token")
    roles = ("cls", "sep", "pad", "bos", "eos", "mask")
    special = {getattr(tokenizer, role) for role in roles}
    known: list[list[float | None]] = [[None] * len(tokens) for tokens in arrays]
    rows = [(i, at) for i, a in enumerate(arrays) for at in range(len(a)) if a[at] not in special]
    for batch, B, T in batches(rows, lambda row: len(arrays[row[0]]), TOKENS):
        tokens, present = np.zeros((B, T), np.int32), np.zeros((B, T), np.int32)
        places, targets = np.zeros((B, 1), np.int32), np.zeros((B, 1), np.int32)
        for row, (i, at) in enumerate(batch):
            tokens[row, : len(arrays[i])], present[row, : len(arrays[i])] = arrays[i], 1
            places[row], targets[row] = at, arrays[i][at]
            tokens[row, at] = mask
        found = np.asarray(_hidden_logprobs(model, params, tokens, present, places, targets))
        for (i, at), value in zip(batch, found[:, 0].astype(np.float64).tolist()):
            known[i][at] = value
    return [scored(tokens, values) for tokens, values in zip(arrays, known)]


@functools.partial(jax.jit, static_argnums=0)
def _hidden_logprobs(model, params, tokens, present, places, targets) -> Array:  # [B, 1]
    """Of the targets at the places [B, 1], in rows whose padding nobody sees."""
    tokens = shard(jnp.asarray(tokens), ("B", "T"))
    output = model.apply({"params": params}, tokens, mask=Mask(segments=(present, present)))
    hidden = jnp.take_along_axis(output.hidden, places[..., None], 1)
    return shard(in_pieces(output.head, hidden, targets), (None, None))
