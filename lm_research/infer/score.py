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
from lm_research.models.encoder_decoder import EncoderDecoder

Array = jax.Array

TOKENS = 2**14  # read at once
LOGITS = 2**25  # held at once: 128 MiB in float32


def score(
    model: nn.Module,
    params: Any,
    sequences: Sequence[Sequence[int]],
    sources: Sequence[Sequence[int]] | None = None,
) -> list[dict]:
    """Log-probability of each token given those before it in its sequence.

    Runs on the current mesh, where there is one.

    Args:
      model: a causal one, or an encoder-decoder.
      params: its plain parameters.
      sequences: token ids.
      sources: what an encoder-decoder writes each sequence from, token ids.

    Returns:
      For each sequence `tokens`; `logprobs`, natural logarithms, None for the first token, which
      nothing precedes, except in an encoder-decoder's; and their `sum`.

    Raises:
      UserError: a sequence has tokens that the model does not know, or is longer than its context;
        or sources are missing, or there is no encoder to read them.
    """
    arrays = [np.asarray(sequence, np.int64).reshape(-1) for sequence in sequences]
    read = [np.asarray(source, np.int64).reshape(-1) for source in sources or ()]
    _check(model, arrays, read)
    results: dict[int, dict] = {}
    lengths = [max(1, *map(len, texts)) for texts in zip(arrays, read or arrays)]
    order = sorted(range(len(arrays)), key=lambda i: -lengths[i])
    while order:
        count = max(1, TOKENS // padded_length(lengths[order[0]]))
        rows, order = order[:count], order[count:]
        given = [_padded([texts[i] for i in rows]) for texts in (arrays, read) if texts]
        logprobs = np.asarray(_logprobs(model, params, given), np.float64)
        first = 0 if read else 1
        results |= {i: _result(arrays[i], logprobs[row], first) for row, i in enumerate(rows)}
    return [results[i] for i in range(len(arrays))]


def _check(model: nn.Module, sequences: list[np.ndarray], sources: list[np.ndarray]) -> None:
    reads = isinstance(model, EncoderDecoder)
    if len(sources) != (len(sequences) if reads else 0):
        takes = "a source for each sequence" if reads else "no sources, since it has no encoder"
        raise UserError(
            f"{len(sources)} sources for {len(sequences)} sequences; this model takes {takes}"
        )
    for i, tokens in enumerate(sequences):
        check(model.decoder if reads else model, tokens, f"sequence {i}")
    for i, source in enumerate(sources):
        if not len(source):
            raise UserError(f"source {i} is empty; it takes at least one token")
        check(model, source, f"source {i}")


def _padded(texts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [B, T] and how many of each row they are [B]; rows that fill up the batch have one."""
    rows, length = padded_rows(len(texts)), padded_length(max(1, *(len(text) for text in texts)))
    tokens, lengths = np.zeros((rows, length), np.int32), np.ones(rows, np.int32)
    for row, text in enumerate(texts):
        tokens[row, : len(text)], lengths[row] = text, len(text)
    return tokens, lengths


def _result(tokens: np.ndarray, logprobs: np.ndarray, first: int) -> dict:
    """Of a sequence whose tokens are predicted from number `first` on."""
    known = logprobs[: max(0, len(tokens) - first)].tolist()
    return {
        "tokens": tokens.tolist(),
        "logprobs": [*[None] * first, *known][: len(tokens)],
        "sum": math.fsum(known),
    }


@functools.partial(jax.jit, static_argnums=0)
def _logprobs(model: nn.Module, params: Any, given: list[tuple[Array, Array]]) -> Array:  # [B, T]
    """Of each next token. Padding follows the tokens, and causality hides it from them.

    Args:
      model, params: as in `score`.
      given: tokens [B, T] and their number [B], and the same of sources.
    """
    tokens = shard(jnp.asarray(given[0][0]), ("B", "T"))
    if len(given) == 1:
        output = model.apply({"params": params}, tokens)
        targets = jnp.roll(tokens, -1, 1)
    else:
        source, lengths = given[1]
        present = (jnp.arange(source.shape[1]) < lengths[:, None]).astype(jnp.int32)
        output = model.apply(
            {"params": params},
            model.shifted(tokens),
            source=shard(jnp.asarray(source), ("B", "S")),
            source_mask=Mask(segments=(present, present)),
        )
        targets = tokens
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
