"""How well a language model answers questions with choices without having learned to."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from lm_research.data import Source
from lm_research.data.multiple_choice import asked
from lm_research.data.prepare import where
from lm_research.errors import UserError
from lm_research.infer.choose import PROMPT, check_prompt, likelihoods


@dataclasses.dataclass(frozen=True)
class ChoiceScores:
    """Accuracy of the likeliest choice, and of the likeliest per byte, on questions of a source.

    They are acc and acc_norm of lm-evaluation-harness, beside which `chance` is a guess's.

    Attributes:
      every: steps between evaluations.
      source: records as `MultipleChoice` has them, or in another form that `asked` knows.
      prompt: see `likelihoods`.
      limit: questions, from the start; None is all.
    """

    every: int
    source: Source
    prompt: str = PROMPT
    limit: int | None = None

    def __post_init__(self):
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit is {self.limit}; it takes a number from 1 on")
        check_prompt(self.prompt)

    def bind(
        self, objective: Any, data: Any, size: int
    ) -> Callable[[nn.Module, Any], dict[str, float]]:
        """The evaluator with the data's tokenizer: takes a model and its parameters.

        Raises:
          UserError: a question cannot be read, or has no answer.
        """
        del objective, size
        count = len(self.source) if self.limit is None else min(self.limit, len(self.source))
        questions = []
        for i in range(count):
            here = where(self.source, i)
            questions.append(asked(self.source[i], here))
            if questions[-1]["answer"] is None:
                raise UserError(f"{here} has no answer; accuracy takes one")

        def evaluate(model: nn.Module, params: Any) -> dict[str, float]:
            found = likelihoods(model, params, data.tokenizer, questions, self.prompt)
            return judged(found, questions)

        return evaluate


def judged(found: Sequence[np.ndarray], questions: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Accuracy of log-probabilities, in all and per byte of UTF-8, and that of a guess."""
    sizes = [np.array([len(text.encode()) for text in q["choices"]]) for q in questions]
    right = [q["answer"] for q in questions]
    accuracy = lambda told: float(np.mean([x.argmax() == y for x, y in zip(told, right)]))
    return {
        "accuracy": accuracy(found),
        "accuracy_norm": accuracy([own / size for own, size in zip(found, sizes)]),
        "chance": float(np.mean([1 / len(size) for size in sizes])),
    }
