"""Tell the score of a text."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import numpy as np

from lm_research.metrics import Mean
from lm_research.objectives.classify import filled, refusal
from lm_research.objectives.read import read

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Regress:
    """The squared error of each text's score, on the scale of the labels; every text weighs alike.

    Attributes:
      length: T, the tokens that a text has at most; `Labelled` cuts longer ones.
      ragged: what batches are cut in, where all of their texts are shorter than `length`.
      likelihood: the loss is not the negative log-probability of the text.
    """

    length: int
    ragged: ClassVar[tuple[str, ...]] = ("tokens", "segments", "types")
    likelihood: ClassVar[bool] = False
    scores = staticmethod(read)

    def refusal(self, model: nn.Module) -> str:
        """Why this cannot train `model`; empty where it can."""
        return refusal(model, single="a score is one")

    def bound(self, tokenizer: Any) -> "Regress":
        """This objective, with what it needs to know of the tokenizer: nothing."""
        del tokenizer
        return self

    def example(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Of a record's `text`, no longer than `length`, `label`, and of a pair its `types`."""
        del rng
        return {**filled(record, self.length), "label": np.float32(record["label"])}

    def measure(
        self, model: nn.Module, params: Any, batch: dict[str, Array], rngs: dict | None = None
    ) -> dict[str, Mean]:
        """Total squared error and weight over the batch's texts."""
        return self.loss(self.scores(model, params, batch, rngs), batch)

    def loss(self, scores: Array, batch: dict[str, Array]) -> dict[str, Mean]:  # [B, 1]
        """What `measure` says of scores."""
        error = (scores[:, 0] - batch["label"]) ** 2
        weights = batch["weights"]
        return {"loss": Mean((error * weights).sum(), weights.sum())}
