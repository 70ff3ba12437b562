"""`score_given`: how likely an encoder-decoder finds texts, given their sources."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm_research.data.pipeline import padded_length
from lm_research.errors import UserError
from lm_research.infer.pieces import batches, scored
from lm_research.infer.shapes import check, padded_rows
from lm_research.layers import Mask, shard
from lm_research.models import EncoderDecoder
from lm_research.objectives.token_loss import in_pieces

Array = jax.Array

TOKENS = 2**14  # read at once


def score_given(
    model: EncoderDecoder,
    params: Any,
    sequences: Sequence[Sequence[int]],
    sources: Sequence[Sequence[int]],
) -> list[dict]:
    """Log-probability of each token given its source and those before it: exact, all of them.

    Runs on the current mesh, where there is one.

    Args:
      model: reads a source and writes a text.
      params: its plain parameters.
      sequences: token ids.
      sources: token ids, what each sequence is written from.

    Returns:
      For each sequence `tokens`; `logprobs`, natural logarithms, the first token's too; and their
      `sum`.

    Raises:
      UserError: a source is missing, or tokens are none of the model's or more than its context.
    """
    texts, read = (
        [np.asarray(tokens, np.int64).reshape(-1) for tokens in given]
        for given in (sequences, sources)
    )
    if len(texts) != len(read):
        raise UserError(f"there are {len(read)} sources for {len(texts)} sequences; give each one")
    for i, (tokens, source) in enumerate(zip(texts, read)):
        check(model.decoder, tokens, f"sequence {i}")
        check(model, source, f"source {i}")
        if not len(source):
            raise UserError(f"source {i} is empty; it takes at least one token")
    results: dict[int, dict] = {}
    both = lambda i: len(texts[i]) + len(read[i])
    for rows, _, _ in batches(range(len(texts)), both, TOKENS):
        source, lengths = _padded([read[i] for i in rows])
        tokens, _ = _padded([texts[i] for i in rows])
        logprobs = np.asarray(_logprobs(model, params, tokens, source, lengths), np.float64)
        for row, i in enumerate(rows):
            results[i] = scored(texts[i], logprobs[row, : len(texts[i])].tolist())
    return [results[i] for i in range(len(texts))]


def _padded(texts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [B, T] and how many of each row they are [B]; rows that fill up the batch have one."""
    rows, length = padded_rows(len(texts)), padded_length(max(1, *map(len, texts)))
    tokens, lengths = np.zeros((rows, length), np.int32), np.ones(rows, np.int32)
    for row, text in enumerate(texts):
        tokens[row, : len(text)], lengths[row] = text, len(text)
    return tokens, lengths


@functools.partial(jax.jit, static_argnums=0)
def _logprobs(model, params, tokens, source, lengths) -> Array:  # [B, T]
    """Of each token; padding follows the tokens, and causality hides it from them."""
    tokens = shard(jnp.asarray(tokens), ("B", "T"))
    present = (jnp.arange(source.shape[1]) < lengths[:, None]).astype(jnp.int32)
    output = model.apply(
        {"params": params},
        model.shifted(tokens),
        source=shard(jnp.asarray(source), ("B", "S")),
        source_mask=Mask(segments=(present, present)),
    )
    return shard(in_pieces(output.head, output.hidden, tokens), (None, None))
