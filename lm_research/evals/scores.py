"""Metrics of a task that take every prediction at once."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import numpy as np

from lm_research.errors import UserError
from lm_research.evals import agreement
from lm_research.evals.every_record import every_record
from lm_research.objectives import Choose, Regress

Metric = Literal["accuracy", "f1", "macro_f1", "matthews", "pearson", "spearman"]
OF_NUMBERS = {"pearson": agreement.pearson, "spearman": agreement.spearman}
OF_CLASSES = {
    "accuracy": agreement.accuracy,
    "f1": agreement.f1,
    "macro_f1": agreement.macro_f1,
    "matthews": agreement.matthews,
}


@dataclasses.dataclass(frozen=True)
class Scores:
    """Loss and metrics of classification, regression or choices on all of a part of the data.

    Besides each metric it gives `score`, their mean, by which GLUE compares tasks that have two.

    Attributes:
      every: steps between evaluations.
      metrics: of classes or of numbers; of choices only accuracy.
      part: which part of the data: `heldout`, or one of `data.others`.
      batch: examples at once; None is the training batch.
      positive: the class that `f1` is of; None is the second of two.
    """

    every: int
    metrics: tuple[Metric, ...] = ("accuracy",)
    part: str = "heldout"
    batch: int | None = None
    positive: str | None = None

    def __post_init__(self):
        if not self.metrics:
            raise ValueError("metrics is empty; it takes one or more")
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"batch is {self.batch}; it takes a number from 1 on")

    def bind(
        self, objective: Any, data: Any, size: int
    ) -> Callable[[nn.Module, Any], dict[str, float]]:
        """The evaluator of an objective on prepared data: takes a model and its parameters.

        Raises:
          UserError: the data has no such part, or a metric is not of such labels.
        """
        source, measured = data.part(self.part), self._measured(objective, data.classes)
        kept = lambda scores, batch: (scores, batch["label"])
        run = every_record(objective, source, self.batch or size, kept, lambda i, *row: row)

        def evaluate(model: nn.Module, params: Any) -> dict[str, float]:
            numbers, rows = run(model, params)
            scores, labels = map(np.stack, zip(*rows))
            own = measured(scores, labels)
            return {**numbers, **own, "score": float(np.mean(list(own.values())))}

        return evaluate

    def _measured(self, objective: Any, classes: tuple[str, ...]) -> Callable[..., dict]:
        """The metrics of scores [records, classes] and labels [records]."""
        known = OF_NUMBERS if isinstance(objective, Regress) else OF_CLASSES
        if isinstance(objective, Choose):
            known = {"accuracy": agreement.accuracy}
        if other := [name for name in self.metrics if name not in known]:
            kind = type(objective).__name__
            raise UserError(f"{other[0]} is no metric of {kind}; it takes {', '.join(known)}")
        if known is OF_NUMBERS:
            return lambda scores, labels: {
                name: known[name](scores[:, 0], labels) for name in self.metrics
            }
        given = {"f1": (self._positive(classes),)} if "f1" in self.metrics else {}

        def measured(scores, labels):
            table = agreement.confusion(scores.argmax(1), labels, scores.shape[1])
            return {name: known[name](table, *given.get(name, ())) for name in self.metrics}

        return measured

    def _positive(self, classes: tuple[str, ...]) -> int:
        if self.positive is None and len(classes) == 2:
            return 1
        if self.positive not in classes:
            named = ", ".join(map(repr, classes))
            raise UserError(f"f1 is of the class {self.positive!r} (positive); they are {named}")
        return classes.index(self.positive)
