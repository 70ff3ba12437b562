"""Tell which of several choices answers a question."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm_research.metrics import Mean
from lm_research.objectives.classify import class_loss, filled, refusal
from lm_research.objectives.read import read

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Choose:
    """Cross-entropy of the right choice, in nats, among the scores that each gets by itself.

    A text is a question and one of its choices (Radford et al., 2018, section 3.3). Every question
    weighs the same, however many choices it has.

    Attributes:
      length: T, the tokens that a question and a choice have at most; `Choices` cuts longer ones.
      ragged: what batches are cut in, where all of their texts are shorter than `length`.
      likelihood: the loss is not the negative log-probability of the text.
    """

    length: int
    ragged: ClassVar[tuple[str, ...]] = ("tokens", "segments", "types")
    likelihood: ClassVar[bool] = False

    def refusal(self, model: nn.Module) -> str:
        """Why this cannot train `model`; empty where it can."""
        return refusal(model, single="a choice has one score")

    def bound(self, tokenizer: Any) -> "Choose":
        """This objective, with what it needs to know of the tokenizer: nothing."""
        del tokenizer
        return self

    def example(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Of a record's `texts`, no longer than `length`, their `types`, and the right `label`."""
        del rng
        pairs = zip(record["texts"], record["types"])
        rows = [filled({"text": text, "types": types}, self.length) for text, types in pairs]
        made = {name: np.stack([row[name] for row in rows]) for name in self.ragged}
        return {**made, "label": np.int32(record["label"]), "weights": np.float32(1)}

    def measure(
        self, model: nn.Module, params: Any, batch: dict[str, Array], rngs: dict | None = None
    ) -> dict[str, Mean]:
        """Total loss in nats and weight over the batch's questions, and how many are right."""
        return self.loss(self.scores(model, params, batch, rngs), batch)

    @staticmethod
    def scores(
        model: nn.Module, params: Any, batch: dict[str, Array], rngs: dict | None = None
    ) -> Array:
        """Scores [B, choices] of texts [B, choices, T]; those of no tokens have the least."""
        rows = {name: x.reshape(-1, x.shape[-1]) for name, x in batch.items() if x.ndim == 3}
        present = (batch["segments"] > 0).any(-1)
        found = read(model, params, rows, rngs).reshape(present.shape)
        return jnp.where(present, found, jnp.finfo(found.dtype).min)

    def loss(self, scores: Array, batch: dict[str, Array]) -> dict[str, Mean]:
        """What `measure` says of scores [B, choices]."""
        return class_loss(scores, batch["label"], batch["weights"], smoothing=0.0)
