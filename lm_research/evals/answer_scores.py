"""How well a model answers questions from contexts."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import numpy as np

from lm_research.data.questions import AnswerWindows
from lm_research.errors import UserError
from lm_research.evals.answers import judged
from lm_research.evals.every_record import every_record
from lm_research.infer.answer import BEST, LONGEST, Answer, ranked, spans
from lm_research.objectives import Span


@dataclasses.dataclass(frozen=True)
class AnswerScores:
    """Loss on a part of the data, and exact match and F1 of its questions, as SQuAD defines them.

    Where some questions have no answer, the numbers are those of SQuAD 2.0; see `answers.judged`.

    Attributes:
      every: steps between evaluations.
      part: which part of the data: `heldout`, or one of `data.others`.
      batch: windows at once; None is the training batch.
      best: candidates of each window.
      longest: tokens of an answer at most.
      threshold: how much the score of there being no answer has to be above that of the best one.
    """

    every: int
    part: str = "heldout"
    batch: int | None = None
    best: int = BEST
    longest: int = LONGEST
    threshold: float = 0.0

    def __post_init__(self):
        for name in ("batch", "best", "longest"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it takes a number from 1 on")

    def bind(
        self, objective: Any, data: Any, size: int
    ) -> Callable[[nn.Module, Any], dict[str, float]]:
        """The evaluator of an objective on prepared data: takes a model and its parameters.

        Raises:
          UserError: the data has no such part, or no questions.
        """
        source = data.part(self.part)
        if not isinstance(objective, Span) or not isinstance(source, AnswerWindows):
            raise UserError(
                "the evaluator AnswerScores judges answers; it takes data=Questions and "
                "objective=Span"
            )

        kept = lambda scores, batch: (scores,)
        window = lambda i, scores: self._spans(source, i, scores)
        run = every_record(objective, source, self.batch or size, kept, window)

        def evaluate(model: nn.Module, params: Any) -> dict[str, float]:
            means, windows = run(model, params)
            answers = self._answers(source, windows)
            questions = source.texts["questions"]
            found = judged(
                [answer.text for answer in answers],
                [question["answers"] for question in questions],
                [answer.difference for answer in answers],
                self.threshold,
            )
            return {"loss": means["loss"], **found}

        return evaluate

    def _spans(self, source: AnswerWindows, index: int, scores: np.ndarray):
        """What a window says."""
        ids, _, first, place = source.window(*source.plan[index].tolist())
        stop = len(ids) - len(source.windowing.frame.tokens[2])
        return spans(scores, first, place, stop, best=self.best, longest=self.longest)

    def _answers(self, source: AnswerWindows, windows: list) -> list[Answer]:
        """What the windows of each question say together."""
        texts, found = source.texts, [[] for _ in source.texts["questions"]]
        for question, window in zip(source.plan[:, 0].tolist(), windows):
            found[question].append(window)
        return [
            ranked(own, source.spans(i), texts["contexts"][texts["questions"][i]["context"]], 1)
            for i, own in enumerate(found)
        ]
