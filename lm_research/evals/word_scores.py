"""How many words have the right label, and how many entities are found."""

import dataclasses
import importlib.metadata
import re
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from lm_research.data.labelled_words import WordTexts
from lm_research.errors import UserError
from lm_research.evals.every_record import every_record
from lm_research.objectives import Tag

OUTSIDE = "O"
CHUNKED = re.compile(r"O|[BIES]-.+")  # how labels say that words are parts of entities


@dataclasses.dataclass(frozen=True)
class WordScores:
    """Loss and accuracy on all words of a part of the data, and F1 of entities where labels are so.

    A word whose tokens were cut off is wrong, and in no entity. Where every label is O, B-X, I-X,
    E-X or S-X, `precision`, `recall` and `f1` are those of entities by seqeval, as conlleval takes
    them. Then `score` is F1, and else accuracy. Beside them stands the accuracy of each word's
    `most_frequent` label in training.

    Attributes:
      every: steps between evaluations.
      part: which part of the data: `heldout`, or one of `data.others`.
      batch: examples at once; None is the training batch.
    """

    every: int
    part: str = "heldout"
    batch: int | None = None

    def __post_init__(self):
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"batch is {self.batch}; it takes a number from 1 on")

    def bind(
        self, objective: Any, data: Any, size: int
    ) -> Callable[[nn.Module, Any], dict[str, float]]:
        """The evaluator of an objective on prepared data: takes a model and its parameters.

        Raises:
          UserError: the data has no such part, or no words; or seqeval is needed and not there.
        """
        source, classes = data.part(self.part), data.classes
        if not isinstance(objective, Tag) or not isinstance(source, WordTexts):
            raise UserError(
                "the evaluator WordScores judges words; it takes data=LabelledWords and "
                "objective=Tag"
            )
        if chunked(classes):
            check_seqeval()
        baseline = data.facts.get(f"{self.part}_most_frequent")
        beside = {} if baseline is None else {"most_frequent": baseline}

        kept = lambda scores, batch: (scores.argmax(-1),)
        labels = lambda i, told: _labels(source, i, told, classes)
        run = every_record(objective, source, self.batch or size, kept, labels)

        def evaluate(model: nn.Module, params: Any) -> dict[str, float]:
            means, sentences = run(model, params)
            numbers = {"loss": means["loss"]}
            numbers |= judged(*zip(*sentences), classes)
            return {**numbers, **beside, "score": numbers.get("f1", numbers["accuracy"])}

        return evaluate


def judged(
    predicted: Sequence[Sequence[str]], labels: Sequence[Sequence[str]], classes: Sequence[str]
) -> dict[str, float]:
    """Accuracy of words, and of entities precision, recall and F1 where labels tell of such.

    Args:
      predicted: labels of the words of each sentence; an empty one is of a word that was cut off.
      labels: what they are.
      classes: the labels that there are.
    """
    right = sum(a == b for told, own in zip(predicted, labels) for a, b in zip(told, own))
    numbers = {"accuracy": right / sum(map(len, labels))}
    if not chunked(classes):
        return numbers
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support

    told = [[label or OUTSIDE for label in sentence] for sentence in predicted]
    given = dict(average="micro", zero_division=0)
    found = precision_recall_fscore_support([list(s) for s in labels], told, **given)
    return numbers | dict(zip(("precision", "recall", "f1"), map(float, found)))


def chunked(classes: Sequence[str]) -> bool:
    """Whether labels tell of entities."""
    every = all(CHUNKED.fullmatch(name) for name in classes)
    return every and any(name != OUTSIDE for name in classes)


def check_seqeval() -> None:
    """Refuses to judge entities without seqeval.

    Raises:
      UserError: names what to install.
    """
    try:
        importlib.metadata.version("seqeval")
    except importlib.metadata.PackageNotFoundError:
        raise UserError("F1 of entities needs seqeval: pip install 'lm_research[tasks]'") from None


def _labels(
    source: WordTexts, index: int, told: np.ndarray, classes: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Of each word of a sentence the predicted label, empty where it was cut off, and its own."""
    places, own = source.words(index)
    predicted = ["" if place < 0 else classes[told[place]] for place in places.tolist()]
    return predicted, [classes[i] for i in own.tolist()]
