"""Scores in pieces: batches of sequences of like length."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from lm_research.data.pipeline import padded_length
from lm_research.infer.shapes import padded_rows

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
