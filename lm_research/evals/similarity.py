"""How well cosines of vectors agree with how alike people find texts, and what they retrieve."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import numpy as np

from lm_research.data.labelled import LabelledTexts
from lm_research.data.texts import TokenTexts
from lm_research.errors import UserError
from lm_research.evals import agreement
from lm_research.evals.every_record import every_record
from lm_research.models.embedder import unit
from lm_research.objectives import Contrast

ROWS = 1024  # of cosines that are held at once


@dataclasses.dataclass(frozen=True)
class Similarity:
    """Correlation of cosines with the scores of pairs.

    `spearman`, of ranks, is what papers on sentence embeddings compare (Reimers et al., 2016);
    `pearson` stands beside it.

    Attributes:
      every: steps between evaluations.
      part: which part of the data: `heldout`, or one of `data.others`.
      batch: pairs at once; None is the training batch.
    """

    every: int
    part: str = "heldout"
    batch: int | None = None

    def __post_init__(self):
        check_batch(self.batch)

    def bind(
        self, objective: Any, data: Any, size: int
    ) -> Callable[[nn.Module, Any], dict[str, float]]:
        """The evaluator of an objective on prepared data: takes a model and its parameters.

        Raises:
          UserError: the data has no such part, or no scores there.
        """
        source = of_vectors(self, objective, data)
        if source.directory is None:
            raise UserError(f"the {self.part} part of the data has no scores to compare with")
        told = lambda i, found: found
        run = every_record(objective, source, self.batch or size, units, told)

        def evaluate(model: nn.Module, params: Any) -> dict[str, float]:
            found = np.stack(run(model, params)[1])  # [B, 2, D]
            cosines = (found[:, 0] * found[:, 1]).sum(-1)
            return {
                "spearman": agreement.spearman(cosines, source.labels),
                "pearson": agreement.pearson(cosines, source.labels),
            }

        return evaluate


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """Loss, and how often a text finds its pair among all those of a part of the data, by cosine.

    `recall_5` is the share of texts whose pair is among the nearest 5; `back_recall_5` that of
    pairs whose text is. Equal texts are one, and of others that are as near the wrong ones come
    first. `score` is the mean of both at the least k.

    Attributes:
      every: steps between evaluations.
      nearest: k, at each of which recall is taken.
      part: which part of the data: `heldout`, or one of `data.others`.
      batch: records at once, which are also those that the loss is over; None is the training
        batch.
    """

    every: int
    nearest: tuple[int, ...] = (1, 5, 10)
    part: str = "heldout"
    batch: int | None = None

    def __post_init__(self):
        check_batch(self.batch)
        if not self.nearest or min(self.nearest) < 1:
            raise ValueError(f"nearest is {self.nearest}; it takes numbers from 1 on")

    def bind(
        self, objective: Any, data: Any, size: int
    ) -> Callable[[nn.Module, Any], dict[str, float]]:
        """The evaluator of an objective on prepared data: takes a model and its parameters.

        Raises:
          UserError: the data has no such part, or texts without pairs there.
        """
        source = of_vectors(self, objective, data)
        kept = lambda found, batch: (*units(found, batch), batch["prints"])
        told = lambda i, *row: row
        run = every_record(objective, source, self.batch or size, kept, told)

        def evaluate(model: nn.Module, params: Any) -> dict[str, float]:
            means, rows = run(model, params)
            found, prints = (np.stack(column) for column in zip(*rows))
            text, pair = found[:, 0], found[:, 1]
            numbers = dict(means)
            for name, ranked in (
                ("recall", ranks(text, pair, prints[:, 1])),
                ("back_recall", ranks(pair, text, prints[:, 0])),
            ):
                numbers |= {f"{name}_{k}": float((ranked < k).mean()) for k in self.nearest}
            least = min(self.nearest)
            both = numbers[f"recall_{least}"], numbers[f"back_recall_{least}"]
            return {**numbers, "score": float(np.mean(both))}

        return evaluate


def check_batch(batch: int | None) -> None:
    """Refuses what is no number of rows.

    Raises:
      ValueError: names it.
    """
    if batch is not None and batch < 1:
        raise ValueError(f"batch is {batch}; it takes a number from 1 on")


def of_vectors(evaluator: Any, objective: Any, data: Any) -> LabelledTexts:
    """The part of the data that an evaluator judges vectors by.

    Raises:
      UserError: there is none, or it has no pairs.
    """
    source = data.part(evaluator.part)
    texts = isinstance(source, LabelledTexts) and isinstance(source.texts, TokenTexts)
    if not isinstance(objective, Contrast) or not texts:
        raise UserError(
            f"the evaluator {type(evaluator).__name__} judges vectors; it takes data=Related and "
            "objective=Contrast"
        )
    if "pair" not in source.texts.names:
        raise UserError(f"the {evaluator.part} part of the data has no pairs to judge vectors by")
    return source


def units(found: Any, batch: Any) -> tuple[Any]:
    """Vectors [B, texts, D] of length 1."""
    del batch
    return (unit(found),)


def ranks(queries: np.ndarray, candidates: np.ndarray, prints: np.ndarray) -> np.ndarray:
    """How many candidates are as near to a query as its own, or nearer: int64 [queries].

    Args:
      queries: vectors of length 1.
      candidates: those of the same numbers are their own.
      prints: of the candidates; those of equal texts are equal, and no rivals of one another.
    """
    found = np.zeros(len(queries), np.int64)
    for start in range(0, len(queries), ROWS):
        rows = slice(start, start + ROWS)
        cosines = queries[rows] @ candidates.T
        own = cosines[np.arange(len(cosines)), start + np.arange(len(cosines))]
        rivals = prints[None] != prints[rows, None]
        found[rows] = ((cosines >= own[:, None]) & rivals).sum(1)
    return found
