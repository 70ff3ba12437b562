"""`tag`: the label of each word of given sentences, with its probability."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm_research import log
from lm_research.data import Tokenizer
from lm_research.errors import UserError
from lm_research.infer.pieces import batches
from lm_research.infer.shapes import check
from lm_research.layers import shard
from lm_research.objectives.classify import refusal_of_each
from lm_research.objectives.read import read

Array = jax.Array

TOKENS = 2**14  # read at once


def tag(
    model: nn.Module,
    params: Any,
    tokenizer: Tokenizer | None,
    sentences: Sequence[Sequence[str]],
    length: int | None = None,
) -> list[list[tuple[str, float] | None]]:
    """The likeliest label of each word and its probability; None of a word that was cut off.

    Args:
      model: one that tells classes of tokens.
      params: its plain parameters.
      tokenizer: of the words.
      sentences: their words.
      length: tokens that the model was trained on at most, at which sentences are cut; None cuts
        nothing.

    Raises:
      UserError: the model tells none, or a sentence has no words, tokens that the model does not
        know, or too many.
    """
    if reason := refusal_of_each(model):
        raise UserError(f"this model does not label words: {reason}")
    if tokenizer is None:
        raise UserError("the checkpoint has no tokenizer, so it cannot read words")
    if empty := [i for i, words in enumerate(sentences) if not words]:
        raise UserError(f"sentence {empty[0]} has no words")
    (before, after), arrays, places = tokenizer.frame, [], []
    for i, (ids, firsts) in enumerate(tokenizer.encode_words(sentences)):
        room = len(ids) if length is None else max(0, length - len(before) - len(after))
        arrays.append(np.concatenate([before, ids[:room], after]).astype(np.int64))
        kept = (firsts >= 0) & (firsts < room)
        places.append(np.where(kept, firsts + len(before), -1))
        check(model, arrays[-1], f"sentence {i}")
    if cut := sum(int((own < 0).sum()) for own in places):
        total = sum(map(len, sentences))
        log.fallback(f"labels of {total:,} words", f"none of {cut:,} words", "they were cut off")
    results: list[list[tuple[str, float] | None]] = [[] for _ in arrays]
    for rows, B, T in batches(range(len(arrays)), lambda i: len(arrays[i]), TOKENS):
        scores = token_scores(model, params, [arrays[i] for i in rows], None, B, T)
        odds = np.exp(scores - scores.max(-1, keepdims=True))
        chances = odds / odds.sum(-1, keepdims=True)
        for row, i in enumerate(rows):
            best = chances[row].argmax(-1)
            results[i] = [
                None if p < 0 else (model.classes[best[p]], float(chances[row, p, best[p]]))
                for p in places[i].tolist()
            ]
    return results


def token_scores(
    model: nn.Module,
    params: Any,
    sequences: Sequence[np.ndarray],
    types: Sequence[np.ndarray] | None,
    B: int,
    T: int,
) -> np.ndarray:
    """Scores of the tokens of sequences, in a batch of so many rows: float32 [B, T, classes]."""
    batch = {name: np.zeros((B, T), np.int32) for name in ("tokens", "segments", "types")}
    for row, tokens in enumerate(sequences):
        own = slice(None, len(tokens))
        batch["tokens"][row, own], batch["segments"][row, own] = tokens, 1
        if types is not None:
            batch["types"][row, own] = types[row]
    return np.asarray(_scores(model, params, batch))


@functools.partial(jax.jit, static_argnums=0)
def _scores(model: nn.Module, params: Any, batch: dict[str, Array]) -> Array:
    placed = {name: shard(jnp.asarray(x), ("B", "T")) for name, x in batch.items()}
    return shard(read(model, params, placed), (None, None, None))
