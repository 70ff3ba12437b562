"""Tell which class a text belongs to."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm_research.metrics import Mean
from lm_research.models.class_writer import ClassWriter
from lm_research.objectives.read import read
from lm_research.objectives.seq2seq import Seq2Seq, target_loss

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Classify:
    """Cross-entropy of each text's class, in nats; every text weighs the same.

    An encoder-decoder learns to write the name of the class instead (Raffel et al., 2020, section
    2.4), and every token of the names weighs the same.

    Attributes:
      length: T, the tokens that a text has at most; `Labelled` cuts longer ones.
      smoothing: of the targets, towards uniform (Szegedy et al., 2016).
      ragged: what batches are cut in, where all of their texts are shorter than `length`.
      likelihood: the loss is not the negative log-probability of the text.
    """

    length: int
    smoothing: float = 0.0
    ragged: ClassVar[tuple[str, ...]] = ("tokens", "segments", "types")
    likelihood: ClassVar[bool] = False
    scores = staticmethod(read)

    def __post_init__(self):
        check_smoothing(self.smoothing)

    def refusal(self, model: nn.Module) -> str:
        """Why this cannot train `model`; empty where it can."""
        one = len(getattr(model, "classes", None) or "ab") == 1
        return refusal(model) or ("it has one class; take the objective Regress" if one else "")

    def bound(self, tokenizer: Any) -> "Classify":
        """This objective, with what it needs to know of the tokenizer: nothing."""
        del tokenizer
        return self

    def example(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Of a record's `text`, no longer than `length`, `label`, and of a pair its `types`."""
        del rng
        return {**filled(record, self.length), "label": np.int32(record["label"])}

    def measure(
        self, model: nn.Module, params: Any, batch: dict[str, Array], rngs: dict | None = None
    ) -> dict[str, Mean]:
        """Total loss in nats and weight over the batch's texts, and how many are right."""
        if isinstance(model, ClassWriter):
            return self._written(model, params, batch, rngs)
        return self.loss(self.scores(model, params, batch, rngs), batch)

    def loss(self, scores: Array, batch: dict[str, Array]) -> dict[str, Mean]:  # [B, classes]
        """What `measure` says of scores."""
        return class_loss(scores, batch["label"], batch["weights"], self.smoothing)

    def _written(
        self, model: ClassWriter, params: Any, batch: dict[str, Array], rngs: dict | None
    ) -> dict[str, Mean]:
        """Total loss in nats and weight over the tokens of the names of the batch's classes."""
        tokens, present = (jnp.asarray(x)[batch["label"]] for x in model.names)
        weights = present * batch["weights"][:, None]
        pairs = {"source": batch["tokens"], "segments": batch["segments"]}
        pairs |= {"targets": tokens, "weights": weights}
        objective = Seq2Seq(self.length, smoothing=self.smoothing)
        return target_loss(objective, model.trunk, params["trunk"], pairs, rngs)


def check_smoothing(smoothing: float) -> None:
    """Refuses what is no share.

    Raises:
      ValueError: names it.
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing is {smoothing}; it takes a share from 0 on, below 1")


def class_loss(
    scores: Array,  # [..., classes]
    labels: Array,  # [...]
    weights: Array,  # [...]
    smoothing: float,
) -> dict[str, Mean]:
    """Weighted cross-entropy of classes, in nats, and how many are the likeliest."""
    each = -jax.nn.log_softmax(scores)
    own = jnp.take_along_axis(each, labels[..., None], -1)[..., 0]
    found = {"loss": own, "accuracy": scores.argmax(-1) == labels}
    if smoothing:
        found |= {"loss": (1 - smoothing) * own + smoothing * each.mean(-1), "cross_entropy": own}
    return {name: Mean((x * weights).sum(), weights.sum()) for name, x in found.items()}


def refusal(model: nn.Module, single: str = "") -> str:
    """Why a model tells nothing of whole texts, or not one score of each; empty where it does.

    Args:
      model: what is to be trained.
      single: what has one score, where classes are not what is told.
    """
    if not hasattr(model, "classes"):
        return "it tells no classes; take Classifier or FastText"
    if single and isinstance(model, ClassWriter):
        return "an encoder-decoder writes names of classes and has no head for scores"
    if getattr(model, "pool", None) == "each":
        return "its scores are of each token (model.pool='each')"
    count = sum(bool(name) for name in model.classes or ())
    return f"it has {count} classes, and {single}" if single and count > 1 else ""


def refusal_of_each(model: nn.Module) -> str:
    """Why a model tells nothing of each token; empty where it does."""
    if not hasattr(model, "classes"):
        return "it tells no classes; take Classifier with pool='each'"
    if getattr(model, "pool", None) != "each":
        return "its scores are of whole texts; give it model.pool='each'"
    return ""


def filled(record: dict[str, Any], length: int) -> dict[str, Any]:
    """A record's `text` as an example of so many tokens; padding is of segment 0."""
    named = {"tokens": record["text"], "segments": np.ones(len(record["text"]))}
    if "types" in record:
        named["types"] = record["types"]
    found = {name: np.zeros(length, np.int32) for name in named}
    for name, values in named.items():
        found[name][: len(values)] = values
    return {**found, "weights": np.float32(1)}
