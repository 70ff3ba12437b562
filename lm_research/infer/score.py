"""`score`: how likely a model finds given tokens."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm_research.errors import UserError
from lm_research.infer.conditional import score_given
from lm_research.infer.order import score_in_order
from lm_research.infer.pieces import batches, scored
from lm_research.infer.pseudo import pseudo_score
from lm_research.infer.shapes import check
from lm_research.layers import shard
from lm_research.models import EncoderDecoder, TwoStream
from lm_research.objectives.token_loss import in_pieces

Array = jax.Array

TOKENS = 2**14  # read at once


def score(
    model: nn.Module,
    params: Any,
    sequences: Sequence[Sequence[int]],
    sources: Sequence[Sequence[int]] | None = None,
    tokenizer: Any = None,
) -> list[dict]:
    """Log-probability of each token given those before it in its sequence.

    Of an encoder, pseudo-log-likelihood (Salazar et al., 2020): of each token given all the others,
    for which it is masked by itself. Runs on the current mesh, where there is one.

    Args:
      model: a causal one, an encoder, one of two streams (see `score_in_order`), or an
        encoder-decoder (see `score_given`).
      params: its plain parameters.
      sequences: token ids.
      sources: what an encoder-decoder writes each of them from.
      tokenizer: of an encoder's ids: its mask token is needed, and its special tokens not scored.

    Returns:
      For each sequence `tokens`; `logprobs`, natural logarithms, None for the first token, which
      nothing precedes, or for special ones; and their `sum`.

    Raises:
      UserError: a sequence has tokens that the model does not know, or is longer than its context;
        sources are missing, or nothing reads them; or nothing says which token masks others.
    """
    if isinstance(model, EncoderDecoder):
        return score_given(model, params, sequences, sources or ())
    if sources is not None:
        raise UserError("this model has no encoder to read a source; score sequences alone")
    if isinstance(model, TwoStream):
        return score_in_order(model, params, sequences)
    arrays = [np.asarray(sequence, np.int64).reshape(-1) for sequence in sequences]
    for i, tokens in enumerate(arrays):
        check(model, tokens, f"sequence {i}")
    if not getattr(model, "causal", True):
        return pseudo_score(model, params, arrays, tokenizer)
    results: dict[int, dict] = {}
    for rows, B, T in batches(range(len(arrays)), lambda i: len(arrays[i]), TOKENS):
        tokens = np.zeros((B, T), np.int32)
        for row, i in enumerate(rows):
            tokens[row, : len(arrays[i])] = arrays[i]
        logprobs = np.asarray(_logprobs(model, params, tokens), np.float64)
        for row, i in enumerate(rows):
            known = logprobs[row, : max(0, len(arrays[i]) - 1)].tolist()
            results[i] = scored(arrays[i], [None, *known][: len(arrays[i])])
    return [results[i] for i in range(len(arrays))]


@functools.partial(jax.jit, static_argnums=0)
def _logprobs(model: nn.Module, params: Any, tokens: Array) -> Array:  # [B, T] -> [B, T]
    """Of each next token. Padding follows the tokens, and causality hides it from them."""
    tokens = shard(jnp.asarray(tokens), ("B", "T"))
    output = model.apply({"params": params}, tokens)
    targets = jnp.roll(tokens, -1, 1)
    return shard(in_pieces(output.head, output.hidden, targets), (None, None))
