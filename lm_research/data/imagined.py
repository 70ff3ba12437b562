"""A record as each kind of data has it, for a plan that reads none."""

from typing import Any

import numpy as np

from lm_research.errors import UserError


def record(data: Any, length: int, token: int) -> dict[str, Any]:
    """The longest record that a kind of data has, of one ordinary token again and again.

    Args:
      data: the kind of data.
      length: tokens of what its objective calls a text, a pair or a row.
      token: the id.

    Raises:
      UserError: nobody knows what its records are.
    """
    kind = type(data).__name__
    if kind not in RECORDS:
        raise UserError(f"a plan does not know data {kind}; it knows {', '.join(sorted(RECORDS))}")
    made = RECORDS[kind](data, np.full(length + 1, token, np.int32))
    return made | ({"others": [made]} if kind == "Packed" else {})


def classes(data: Any) -> tuple[str, ...]:
    """The names of classes that a kind of data has whatever its records are, or that it was told.

    None are known of others: how many there are changes next to nothing.
    """
    kind = type(data).__name__
    if kind == "Choices":
        return ("choice",)
    if kind == "Labelled" and data.numeric:
        return ("score",)
    return ("start", "end") if kind == "Questions" else getattr(data, "classes", None) or ()


def _window(data: Any, tokens: np.ndarray) -> dict[str, Any]:
    """Of so many tokens and one more, as `Windows` and `ChatRows` have it."""
    found = {"tokens": tokens, "weights": np.ones(len(tokens), np.float32)}
    if getattr(data, "documents", "separate") == "separate":
        place = np.arange(len(tokens), dtype=np.int32)
        found |= {"segments": np.ones_like(tokens), "position": place}
    return found


def _text(data: Any, tokens: np.ndarray) -> dict[str, Any]:
    del data
    return {"text": tokens[1:], "types": np.zeros_like(tokens[1:]), "label": 0}


def _choices(data: Any, tokens: np.ndarray) -> dict[str, Any]:
    one = _text(data, tokens)
    return {"texts": [one["text"]] * CHOICES, "types": [one["types"]] * CHOICES, "label": 0}


def _pair(data: Any, tokens: np.ndarray) -> dict[str, Any]:
    found = {"source": tokens[1:], "target": tokens[1:]}
    if data.packed:
        found["counts"] = {side: np.array([len(tokens) - 1]) for side in ("source", "target")}
    return found


def _related(data: Any, tokens: np.ndarray) -> dict[str, Any]:
    del data
    return dict.fromkeys(("text", "pair"), tokens[1:])


def _words(data: Any, tokens: np.ndarray) -> dict[str, Any]:
    del data
    return {"text": tokens[1:], "labels": np.zeros_like(tokens[1:])}


CHOICES = 4  # of a question, as most sets of them have
RECORDS = {
    "Packed": _window,
    "Instruct": _window,
    "Labelled": _text,
    "Choices": _choices,
    "Questions": lambda data, tokens: _text(data, tokens) | {"start": 0, "end": 0},
    "LabelledWords": _words,
    "Parallel": _pair,
    "Related": _related,
}
