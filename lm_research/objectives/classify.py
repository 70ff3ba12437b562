"""Tell which class a text belongs to."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm_research.layers import Mask
from lm_research.metrics import Mean

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Classify:
    """Cross-entropy of each text's class, in nats; every text weighs the same.

    Attributes:
      length: T, the tokens that a text has at most; `Labelled` cuts longer ones.
      smoothing: of the targets, towards uniform (Szegedy et al., 2016).
      likelihood: the loss is not the negative log-probability of the text.
    """

    length: int
    smoothing: float = 0.0
    likelihood: ClassVar[bool] = False

    def __post_init__(self):
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing is {self.smoothing}; it takes a share from 0 on, below 1")

    def refusal(self, model: nn.Module) -> str:
        """Why this cannot train `model`; empty where it can."""
        if not hasattr(model, "classes"):
            return "it tells no classes; take Classifier or FastText"
        each = getattr(model, "pool", None) == "each"
        return "its scores are of each token (model.pool='each')" if each else ""

    def bound(self, tokenizer: Any) -> "Classify":
        """This objective, with what it needs to know of the tokenizer: nothing."""
        del tokenizer
        return self

    def example(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Of a record's `text`, no longer than `length`, and `label`; padding is of segment 0."""
        del rng
        tokens, segments = np.zeros((2, self.length), np.int32)
        tokens[: len(record["text"])] = record["text"]
        segments[: len(record["text"])] = 1
        label, weight = np.int32(record["label"]), np.float32(1)
        return {"tokens": tokens, "segments": segments, "label": label, "weights": weight}

    def measure(
        self, model: nn.Module, params: Any, batch: dict[str, Array], rngs: dict | None = None
    ) -> dict[str, Mean]:
        """Total loss in nats and weight over the batch's texts, and how many are right."""
        segments, weights = batch["segments"], batch["weights"]
        mask = Mask(segments=(segments, segments))
        output = model.apply({"params": params}, batch["tokens"], mask=mask, rngs=rngs)
        each = -jax.nn.log_softmax(output.scores)  # [B, classes]
        own = jnp.take_along_axis(each, batch["label"][:, None], 1)[:, 0]
        loss = (1 - self.smoothing) * own + self.smoothing * each.mean(1)
        right = output.scores.argmax(1) == batch["label"]
        measured = {
            name: Mean((x * weights).sum(), weights.sum())
            for name, x in (("loss", loss), ("accuracy", right), ("cross_entropy", own))
        }
        if not self.smoothing:
            measured.pop("cross_entropy")
        return measured
