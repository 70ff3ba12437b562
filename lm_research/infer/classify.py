"""`classify`: how likely a model finds each class of given texts; `scores`: what it says."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm_research import log
from lm_research.errors import UserError
from lm_research.infer.pieces import batches
from lm_research.infer.shapes import check
from lm_research.infer.text import Line, encoded
from lm_research.layers import shard
from lm_research.objectives.read import read

Array = jax.Array

TOKENS = 2**14  # read at once


def classify(
    model: nn.Module,
    params: Any,
    sequences: Sequence[Sequence[int]],
    types: Sequence[np.ndarray | None] | None = None,
) -> np.ndarray:
    """Probabilities of the classes of each text, float32 [texts, classes]; see `scores`."""
    found = scores(model, params, sequences, types)
    odds = np.exp(found - found.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def scores(
    model: nn.Module,
    params: Any,
    sequences: Sequence[Sequence[int]],
    types: Sequence[np.ndarray | None] | None = None,
) -> np.ndarray:
    """The logits of the classes of each text, or its one score, float32 [texts, classes].

    Args:
      model: one that tells classes.
      params: its plain parameters.
      sequences: token ids of each text.
      types: of the same tokens; None where all are of type 0.

    Raises:
      UserError: the model tells none, or a text has tokens that it does not know, or too many.
    """
    if not (classes := getattr(model, "classes", None)):
        raise UserError("this model tells no classes; train one with the objective Classify")
    if getattr(model, "pool", None) == "each":
        raise UserError("this model tells classes of each token, and none of texts")
    arrays = [np.asarray(sequence, np.int64).reshape(-1) for sequence in sequences]
    for i, tokens in enumerate(arrays):
        check(model, tokens, f"sequence {i}")
    found = np.zeros((len(arrays), len(classes)), np.float32)
    for rows, B, T in batches(range(len(arrays)), lambda i: len(arrays[i]), TOKENS):
        batch = {name: np.zeros((B, T), np.int32) for name in ("tokens", "segments", "types")}
        for row, i in enumerate(rows):
            own = slice(None, len(arrays[i]))
            batch["tokens"][row, own], batch["segments"][row, own] = arrays[i], 1
            if types is not None and types[i] is not None:
                batch["types"][row, own] = types[i]
        found[rows] = np.asarray(_scores(model, params, batch))[: len(rows)]
    return found


def told(
    lines: Sequence[Line], tokenizer: Any, length: int | None, ends: bool = False
) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
    """Tokens of requests, and types of pairs, cut as in training; says how many lose something.

    Args:
      lines: the requests.
      tokenizer: None where the checkpoint has none.
      length: tokens that the model was trained on at most; None cuts nothing.
      ends: whether an encoder-decoder is to write from the texts: see `Tokenizer.fitted`.

    Raises:
      UserError: a request is text, and there is no tokenizer or it does not know a character.
    """
    found, long = [], 0
    for line in lines:
        if line.tokens is not None:
            tokens, types, whole = line.tokens[:length], None, len(line.tokens)
        else:
            fitted = lambda known, text, pair=line.pair: known.fitted(text, pair, length, ends)
            tokens, types, whole = encoded(line, tokenizer, fitted)
        long += length is not None and whole > length
        found.append((tokens, types))
    if long:
        asked = f"{long:,} of {len(lines):,} texts, longer than {length} tokens"
        log.fallback(asked, f"{length} of their tokens", "the model was trained on no more")
    return [tokens for tokens, _ in found], [types for _, types in found]


@functools.partial(jax.jit, static_argnums=0)
def _scores(model: nn.Module, params: Any, batch: dict[str, Array]) -> Array:
    placed = {name: shard(jnp.asarray(x), ("B", "T")) for name, x in batch.items()}
    return shard(read(model, params, placed), (None, None))
