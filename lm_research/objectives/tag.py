"""Tell the label of each word of a sentence."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import numpy as np

from lm_research.metrics import Mean
from lm_research.objectives.classify import check_smoothing, class_loss, filled, refusal_of_each
from lm_research.objectives.read import read

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Tag:
    """Cross-entropy of each word's label at its first token, in nats; every word weighs the same.

    Attributes:
      length: T, the tokens that a sentence has at most; `LabelledWords` cuts longer ones.
      smoothing: of the targets, towards uniform (Szegedy et al., 2016).
      ragged: what batches are cut in, where all of their sentences are shorter than `length`.
      likelihood: the loss is not the negative log-probability of the text.
    """

    length: int
    smoothing: float = 0.0
    ragged: ClassVar[tuple[str, ...]] = ("tokens", "segments", "labels", "weights")
    likelihood: ClassVar[bool] = False
    scores = staticmethod(read)

    def __post_init__(self):
        check_smoothing(self.smoothing)

    def refusal(self, model: nn.Module) -> str:
        """Why this cannot train `model`; empty where it can."""
        return refusal_of_each(model)

    def bound(self, tokenizer: Any) -> "Tag":
        """This objective, with what it needs to know of the tokenizer: nothing."""
        del tokenizer
        return self

    def example(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Of a record's `text` and the `labels` of its tokens, -1 at those that begin no word."""
        del rng
        labels = np.full(self.length, -1, np.int32)
        labels[: len(record["labels"])] = record["labels"]
        weights = np.float32(labels >= 0)
        return {**filled(record, self.length), "labels": np.maximum(labels, 0), "weights": weights}

    def measure(
        self, model: nn.Module, params: Any, batch: dict[str, Array], rngs: dict | None = None
    ) -> dict[str, Mean]:
        """Total loss in nats and weight over the batch's words, and how many are right."""
        return self.loss(self.scores(model, params, batch, rngs), batch)

    def loss(self, scores: Array, batch: dict[str, Array]) -> dict[str, Mean]:
        """What `measure` says of scores [B, T, classes]."""
        return class_loss(scores, batch["labels"], batch["weights"], self.smoothing)
