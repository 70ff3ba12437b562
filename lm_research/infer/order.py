"""`score_in_order`: how likely a model of two streams finds tokens, in any factorisation order."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm_research.errors import UserError
from lm_research.infer.pieces import batches, scored
from lm_research.infer.shapes import check
from lm_research.layers import Mask, shard
from lm_research.models import TwoStream
from lm_research.objectives.token_loss import in_pieces

Array = jax.Array

TOKENS = 2**12  # read at once


def score_in_order(
    model: TwoStream,
    params: Any,
    sequences: Sequence[Sequence[int]],
    orders: Sequence[Sequence[int]] | None = None,
) -> list[dict]:
    """Log-probability of each token given those before it in an order: exact, by the chain rule.

    Runs on the current mesh, where there is one.

    Args:
      model: predicts in any order.
      params: its plain parameters.
      sequences: token ids.
      orders: for each sequence the place of each token, 1 for the first; a token of place 0 is
        given, and not predicted. By default from left to right.

    Returns:
      For each sequence `tokens`; `logprobs`, natural logarithms, None for what is given; and their
      `sum`.

    Raises:
      UserError: a token is none of the model's, or an order does not fit its sequence.
    """
    arrays = [np.asarray(sequence, np.int64).reshape(-1) for sequence in sequences]
    places = [
        _order(tokens, None if orders is None else orders[i], f"sequence {i}")
        for i, tokens in enumerate(arrays)
    ]
    for i, tokens in enumerate(arrays):
        check(model, tokens, f"sequence {i}")
    results: dict[int, dict] = {}
    for rows, B, T in batches(range(len(arrays)), lambda i: len(arrays[i]), TOKENS):
        tokens, order, segments = np.zeros((3, B, T), np.int32)
        for row, i in enumerate(rows):
            tokens[row, : len(arrays[i])], order[row, : len(arrays[i])] = arrays[i], places[i]
            segments[row, : len(arrays[i])] = 1
        found = np.asarray(_logprobs(model, params, tokens, order, segments), np.float64)
        for row, i in enumerate(rows):
            known = [x if place else None for x, place in zip(found[row].tolist(), places[i])]
            results[i] = scored(arrays[i], known)
    return [results[i] for i in range(len(arrays))]


def _order(tokens: np.ndarray, given: Sequence[int] | None, what: str) -> np.ndarray:
    if given is None:
        return 1 + np.arange(len(tokens))
    order = np.asarray(given).reshape(-1)
    predicted = order[order != 0]
    if len(order) != len(tokens) or set(predicted) != set(range(1, 1 + len(predicted))):
        raise UserError(
            f"{what} has {len(tokens)} tokens and the order {order.tolist()}; it takes a place for "
            "each: 1, 2, ... for those to predict, 0 for those that are given"
        )
    return order


@functools.partial(jax.jit, static_argnums=0)
def _logprobs(
    model: TwoStream, params: Any, tokens: Array, order: Array, segments: Array
) -> Array:  # [B, T]
    tokens, order, segments = (shard(jnp.asarray(x), ("B", "T")) for x in (tokens, order, segments))
    mask = Mask.factorised(order).replace(segments=(segments, segments))
    slots = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    output = model.apply({"params": params}, tokens, mask=mask, targets=slots)
    return shard(in_pieces(output.head, output.hidden, tokens), (None, None))
