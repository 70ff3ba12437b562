"""`answer`: the part of a context that answers a question, with its probability."""

import dataclasses
import unicodedata
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from lm_research import log
from lm_research.data import Tokenizer
from lm_research.data.questions import CLASSES, Windowing
from lm_research.errors import UserError
from lm_research.infer.pieces import batches
from lm_research.infer.shapes import check
from lm_research.infer.tag import TOKENS, token_scores
from lm_research.objectives.classify import refusal_of_each

QUESTION, STRIDE = 64, 128  # tokens, as in training by default
BEST, LONGEST = 20, 30  # candidates, and tokens of one (Devlin et al., 2019)

Found = tuple[float, int, int]  # a score, and the first and the last token of a context


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A part of a context.

    Attributes:
      text: as it stands there.
      start: the character that it begins at.
      score: logits of its first and its last token, added.
      probability: among the best candidates and that there is no answer.
    """

    text: str
    start: int
    score: float
    probability: float


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a model says of a question.

    Attributes:
      candidates: the best parts of the context, the best one first.
      difference: the score of there being no answer, less that of the best candidate.
      none: the probability of there being no answer.
    """

    candidates: tuple[Candidate, ...]
    difference: float
    none: float

    @property
    def text(self) -> str:
        """The best candidate's; empty where the context has no tokens."""
        return self.candidates[0].text if self.candidates else ""


def answer(
    model: nn.Module,
    params: Any,
    tokenizer: Tokenizer | None,
    questions: Sequence[tuple[str, str]],
    length: int,
    *,
    question: int = QUESTION,
    stride: int = STRIDE,
    best: int = BEST,
    longest: int = LONGEST,
) -> list[Answer]:
    """Answers to questions from a context each.

    Args:
      model: one that tells starts and ends.
      params: its plain parameters.
      tokenizer: of the texts.
      questions: questions, and their contexts.
      length: tokens that the model reads at once; longer contexts are read in windows.
      question: tokens of a question at most.
      stride: tokens that a window begins after the one before it.
      best: candidates to keep.
      longest: tokens of an answer at most.

    Raises:
      UserError: the model tells none, or the texts have tokens that it does not know.
    """
    check_spans(model)
    if tokenizer is None:
        raise UserError("the checkpoint has no tokenizer, so it cannot read questions")
    windowing = Windowing(tokenizer.pair_frame, length, question, stride)
    asked = tokenizer.encode_batch([text for text, _ in questions])
    read = tokenizer.encode_spans([context for _, context in questions])
    if long := sum(len(ids) > question for ids in asked):
        what = f"{long:,} of {len(asked):,} questions, longer than {question} tokens"
        log.fallback(what, f"their first {question} tokens", "the model reads no more")
    windows, owner = [], []
    for i, (ids, (context, _)) in enumerate(zip(asked, read)):
        for number in range(int(windowing.counts(np.array(len(ids)), np.array(len(context))))):
            windows.append(windowing.window(ids, context, number))
            owner.append(i)
            check(model, windows[-1][0], f"question {i}")
    after = len(windowing.frame.tokens[2])
    found: list[list[tuple[float, list[Found]]]] = [[] for _ in questions]
    for rows, B, T in batches(range(len(windows)), lambda i: len(windows[i][0]), TOKENS):
        ids, types = zip(*((windows[i][0].astype(np.int64), windows[i][1]) for i in rows))
        scores = token_scores(model, params, ids, types, B, T)
        for row, i in enumerate(rows):
            tokens, _, first, place = windows[i]
            own = scores[row], first, place, len(tokens) - after
            found[owner[i]].append(spans(*own, best=best, longest=longest))
    return [
        ranked(own, offsets, context, best)
        for own, (_, offsets), (_, context) in zip(found, read, questions)
    ]


def check_spans(model: nn.Module) -> None:
    """Refuses a model that does not tell where answers begin and end.

    Raises:
      UserError: says what it tells.
    """
    classes = tuple(getattr(model, "classes", None) or ())
    if (reason := refusal_of_each(model)) or classes != CLASSES:
        named = ", ".join(classes) or "none"
        raise UserError(f"this model answers no questions: {reason or f'its classes are {named}'}")


def spans(
    scores: np.ndarray, first: int, place: int, stop: int, *, best: int, longest: int
) -> tuple[float, list[Found]]:
    """The best spans of a window.

    Args:
      scores: float [T, 2], of starts and of ends.
      first: which token of the context the window begins with.
      place, stop: the places of that token, and after the last one.
      best: how many to keep.
      longest: tokens of a span at most.

    Returns:
      The score of there being no answer, that of the first token; and spans, the best first.
    """
    none = float(scores[0].astype(np.float64).sum())
    count = stop - place
    if count < 1:
        return none, []
    start, end = scores[place:stop].astype(np.float64).T
    longest = min(longest, count)
    padded = np.concatenate([end, np.full(longest - 1, -np.inf)])
    # Of the span from token i on, in column j that of j + 1 tokens.
    every = start[:, None] + np.lib.stride_tricks.sliding_window_view(padded, longest)
    order = np.argsort(-every, axis=None, kind="stable")[: min(best, every.size)]
    found = []
    for i, j in zip(*(x.tolist() for x in np.unravel_index(order, every.shape))):
        if np.isfinite(every[i, j]):
            found.append((float(every[i, j]), first + i, first + i + j))
    return none, found


def ranked(
    found: Sequence[tuple[float, Sequence[Found]]], offsets: np.ndarray, context: str, best: int
) -> Answer:
    """The best candidates over all windows of a context.

    Args:
      found: what `spans` found in each.
      offsets: characters that the context's tokens begin and end at, [tokens, 2].
      context: its text.
      best: how many to keep.
    """
    none = min(score for score, _ in found)
    every = sorted((span for _, own in found for span in own), key=lambda span: -span[0])
    kept: dict[tuple[int, int], tuple[float, str, int]] = {}
    for score, i, j in every:
        if len(kept) == best:
            break
        begin, end = int(offsets[i, 0]), int(offsets[j, 1])
        # Marks on the last letter are in no token where the tokenizer strips accents.
        while end < len(context) and unicodedata.category(context[end])[0] == "M":
            end += 1
        text = context[begin:end]
        begin += len(text) - len(text.lstrip())  # tokens may begin with a space
        if (i, j) not in kept:
            kept[i, j] = score, text.strip(), begin
    scores = np.array([none, *(score for score, _, _ in kept.values())])
    odds = np.exp(scores - scores.max())
    chances = (odds / odds.sum()).tolist()
    candidates = tuple(
        Candidate(text, begin, score, chance)
        for (score, text, begin), chance in zip(kept.values(), chances[1:])
    )
    difference = none - candidates[0].score if candidates else np.inf
    return Answer(candidates, float(difference), chances[0])
