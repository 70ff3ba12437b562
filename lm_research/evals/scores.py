"""Metrics of a task that take every prediction at once."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import numpy as np

from lm_research import mesh, metrics
from lm_research.data import pipeline
from lm_research.errors import UserError
from lm_research.evals import agreement
from lm_research.layers import shard
from lm_research.objectives import Regress
from lm_research.objectives.classify import read

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
    """Loss and metrics of classification or regression on all of a part of the data.

    Besides each metric it gives `score`, their mean, by which GLUE compares tasks that have two.

    Attributes:
      every: steps between evaluations.
      metrics: of classes or of numbers.
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
        rows = self.batch or size
        mesh.check_batch(rows, "the evaluation batch")
        source, measured = data.part(self.part), self._measured(objective, data.classes)

        @jax.jit(static_argnums=0)
        def scored(model, params, batch):
            scores = read(model, params, batch)
            whole = scores, batch["label"], batch["weights"]
            # Every host has a part of the rows, and gets them all.
            whole = tuple(shard(x, (None,) * x.ndim) for x in whole)
            return objective.loss(scores, batch), whole

        def evaluate(model: nn.Module, params: Any) -> dict[str, float]:
            total, found = None, []
            processes = jax.process_index(), jax.process_count()
            for batch in pipeline.heldout_batches(source, objective, rows, processes):
                means, whole = scored(model, params, mesh.place(batch))
                total = means if total is None else metrics.add(total, means)
                found.append(whole)
            scores, labels, weights = (
                np.concatenate(list(map(np.asarray, x))) for x in zip(*found)
            )
            numbers = {name: float(mean.value()) for name, mean in total.items()}
            own = measured(scores[weights > 0], labels[weights > 0])
            return {**numbers, **own, "score": float(np.mean(list(own.values())))}

        return evaluate

    def _measured(self, objective: Any, classes: tuple[str, ...]) -> Callable[..., dict]:
        """The metrics of scores [records, classes] and labels [records]."""
        known = OF_NUMBERS if isinstance(objective, Regress) else OF_CLASSES
        if other := [name for name in self.metrics if name not in known]:
            kind = type(objective).__name__
            raise UserError(f"{other[0]} is no metric of {kind}; it takes {', '.join(known)}")
        if known is OF_NUMBERS:
            return lambda scores, labels: {
                name: known[name](scores[:, 0], labels) for name in self.metrics
            }
        given = {"f1": (self._positive(classes),)} if "f1" in self.metrics else {}

        def measured(scores, labels):
            table = agreement.confusion(scores.argmax(1), labels, len(classes))
            return {name: known[name](table, *given.get(name, ())) for name in self.metrics}

        return measured

    def _positive(self, classes: tuple[str, ...]) -> int:
        if self.positive is None and len(classes) == 2:
            return 1
        if self.positive not in classes:
            named = ", ".join(map(repr, classes))
            raise UserError(f"f1 is of the class {self.positive!r} (positive); they are {named}")
        return classes.index(self.positive)
