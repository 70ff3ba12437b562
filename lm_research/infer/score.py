"""`score`: how likely a model finds given tokens."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm_research.errors import UserError
from lm_research.infer.shapes import check, padded_length, padded_rows
from lm_research.layers import Head, Mask, shard

Array = jax.Array

TOKENS = 2**14  # read at once
LOGITS = 2**25  # held at once: 128 MiB in float32


def score(
    model: nn.Module, params: Any, sequences: Sequence[Sequence[int]], tokenizer: Any = None
) -> list[dict]:
    """Log-probability of each token given those before it in its sequence.

    Of an encoder, pseudo-log-likelihood (Salazar et al., 2020): of each token given all the others,
    for which it is masked by itself. Runs on the current mesh, where there is one.

    Args:
      model: a causal one, or an encoder.
      params: its plain parameters.
      sequences: token ids.
      tokenizer: of an encoder's ids: its mask token is needed, and its special tokens not scored.

    Returns:
      For each sequence `tokens`; `logprobs`, natural logarithms, None for the first token, which
      nothing precedes, or for special ones; and their `sum`.

    Raises:
      UserError: a sequence has tokens that the model does not know, or is longer than its context,
        or nothing says which token masks others.
    """
    arrays = [np.asarray(sequence, np.int64).reshape(-1) for sequence in sequences]
    for i, tokens in enumerate(arrays):
        check(model, tokens, f"sequence {i}")
    if not model.causal:
        return _pseudo(model, params, arrays, tokenizer)
    results: dict[int, dict] = {}
    order = sorted(range(len(arrays)), key=lambda i: -len(arrays[i]))
    while order:
        T = padded_length(max(1, len(arrays[order[0]])))
        count = max(1, TOKENS // T)
        rows, order = order[:count], order[count:]
        tokens = np.zeros((padded_rows(len(rows)), T), np.int32)
        for row, i in enumerate(rows):
            tokens[row, : len(arrays[i])] = arrays[i]
        logprobs = np.asarray(_logprobs(model, params, tokens), np.float64)
        results |= {i: _result(arrays[i], logprobs[row]) for row, i in enumerate(rows)}
    return [results[i] for i in range(len(arrays))]


def _result(tokens: np.ndarray, logprobs: np.ndarray) -> dict:
    known = logprobs[: max(0, len(tokens) - 1)].tolist()
    return {
        "tokens": tokens.tolist(),
        "logprobs": [None, *known][: len(tokens)],
        "sum": math.fsum(known),
    }


def _pseudo(model: nn.Module, params: Any, arrays: list[np.ndarray], tokenizer: Any) -> list[dict]:
    """A row for each token that is masked, of as many sequences as fill a batch."""
    mask = getattr(tokenizer, "mask", None)
    if mask is None:
        raise UserError("an encoder scores tokens by masking them; its tokenizer has no mask token")
    roles = ("cls", "sep", "pad", "bos", "eos", "mask")
    special = {getattr(tokenizer, role) for role in roles}
    known: list[list[float | None]] = [[None] * len(tokens) for tokens in arrays]
    rows = [(i, at) for i, a in enumerate(arrays) for at in range(len(a)) if a[at] not in special]
    rows.sort(key=lambda row: -len(arrays[row[0]]))
    while rows:
        T = padded_length(len(arrays[rows[0][0]]))
        count = max(1, TOKENS // T)
        batch, rows = rows[:count], rows[count:]
        B = padded_rows(len(batch))
        tokens, present = np.zeros((B, T), np.int32), np.zeros((B, T), np.int32)
        places, targets = np.zeros((B, 1), np.int32), np.zeros((B, 1), np.int32)
        for row, (i, at) in enumerate(batch):
            tokens[row, : len(arrays[i])], present[row, : len(arrays[i])] = arrays[i], 1
            places[row], targets[row] = at, arrays[i][at]
            tokens[row, at] = mask
        found = np.asarray(_hidden_logprobs(model, params, tokens, present, places, targets))
        for (i, at), value in zip(batch, found[:, 0].astype(np.float64).tolist()):
            known[i][at] = value
    return [
        {
            "tokens": tokens.tolist(),
            "logprobs": values,
            "sum": math.fsum(value for value in values if value is not None),
        }
        for tokens, values in zip(arrays, known)
    ]


@functools.partial(jax.jit, static_argnums=0)
def _hidden_logprobs(model, params, tokens, present, places, targets) -> Array:  # [B, 1]
    """Of the targets at the places [B, 1], in rows whose padding nobody sees."""
    tokens = shard(jnp.asarray(tokens), ("B", "T"))
    output = model.apply({"params": params}, tokens, mask=Mask(segments=(present, present)))
    hidden = jnp.take_along_axis(output.hidden, places[..., None], 1)
    return shard(_in_pieces(output.head, hidden, targets), (None, None))


@functools.partial(jax.jit, static_argnums=0)
def _logprobs(model: nn.Module, params: Any, tokens: Array) -> Array:  # [B, T] -> [B, T]
    """Of each next token. Padding follows the tokens, and causality hides it from them."""
    tokens = shard(jnp.asarray(tokens), ("B", "T"))
    output = model.apply({"params": params}, tokens)
    targets = jnp.roll(tokens, -1, 1)
    return shard(_in_pieces(output.head, output.hidden, targets), (None, None))


def _in_pieces(head: Head, hidden: Array, targets: Array) -> Array:
    """The head on pieces [B, n, D] of T, so that logits [B, T, V] never exist at once."""
    B, T, _ = hidden.shape
    size = max(1, LOGITS // (B * head.kernel.shape[0]))
    size = next(n for n in range(min(T, size), 0, -1) if T % n == 0)

    def piece(given):
        hidden, targets = given
        logprobs = jax.nn.log_softmax(head(hidden))
        return jnp.take_along_axis(logprobs, targets[..., None], -1)[..., 0]

    if size == T:
        return piece((hidden, targets))
    cut = lambda x: jnp.moveaxis(x.reshape(B, T // size, size, *x.shape[2:]), 1, 0)
    return jnp.moveaxis(jax.lax.map(piece, (cut(hidden), cut(targets))), 0, 1).reshape(B, T)
