"""Scores in pieces: batches of sequences of like length, and of logits, never a whole batch's."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from lm_research.data.pipeline import padded_length
from lm_research.infer.shapes import padded_rows
from lm_research.layers import Head
from lm_research.objectives.token_loss import largest_chunk, over_pieces

Array = jax.Array
T = TypeVar("T")


def batches(
    requests: Sequence[T], length: Callable[[T], int], tokens: int
) -> Iterator[tuple[list[T], int, int]]:
    """Requests, the longest first, with the B and T that so many are read with.

    Args:
      requests: to read.
      length: tokens of one.
      tokens: to read at once, padding included, but for a single request that has more.
    """
    left = sorted(requests, key=length, reverse=True)
    while left:
        T = padded_length(max(1, length(left[0])))
        count = max(1, tokens // T)
        yield left[:count], padded_rows(len(left[:count])), T
        left = left[count:]


def scored(tokens: np.ndarray, logprobs: Sequence[float | None]) -> dict:
    """What is said of a sequence: its tokens, a number or None for each, and the numbers' sum."""
    total = math.fsum(x for x in logprobs if x is not None)
    return {"tokens": tokens.tolist(), "logprobs": list(logprobs), "sum": total}


def in_pieces(head: Head, hidden: Array, targets: Array) -> Array:  # [B, T]
    """Log-probabilities of targets [B, T] at hidden states [B, T, D], by pieces of T."""

    def piece(hidden, targets):
        logprobs = jax.nn.log_softmax(head(hidden))
        return jnp.take_along_axis(logprobs, targets[..., None], -1)[..., 0]

    chunk = largest_chunk(*targets.shape, head.kernel.shape[0])
    return over_pieces(piece, chunk, hidden, targets)
