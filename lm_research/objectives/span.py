"""Tell where in a context the answer to a question begins and ends."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm_research.metrics import Mean
from lm_research.objectives.classify import filled, refusal_of_each
from lm_research.objectives.read import read

Array = jax.Array

ENDS = ("start", "end")  # the classes of tokens


@dataclasses.dataclass(frozen=True)
class Span:
    """Cross-entropy of the answer's first and of its last token, their mean in nats.

    Each is one of the tokens of a question and its context; where the context has no answer, both
    are the first token (Devlin et al., 2019, section 4.3). Every window of a context weighs the
    same.

    Attributes:
      length: T, the tokens that a question and a window of its context have at most.
      ragged: what batches are cut in, where all of their texts are shorter than `length`.
      likelihood: the loss is not the negative log-probability of the text.
    """

    length: int
    ragged: ClassVar[tuple[str, ...]] = ("tokens", "segments", "types")
    likelihood: ClassVar[bool] = False
    scores = staticmethod(read)

    def refusal(self, model: nn.Module) -> str:
        """Why this cannot train `model`; empty where it can."""
        classes = tuple(name for name in getattr(model, "classes", None) or () if name)
        other = classes and classes != ENDS
        named = f"its classes are {', '.join(classes)}; it takes {', '.join(ENDS)}" if other else ""
        return refusal_of_each(model) or named

    def bound(self, tokenizer: Any) -> "Span":
        """This objective, with what it needs to know of the tokenizer: nothing."""
        del tokenizer
        return self

    def example(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Of a record's `text`, its `types`, and the places `start` and `end`."""
        del rng
        ends = {name: np.int32(record[name]) for name in ENDS}
        return {**filled(record, self.length), **ends}

    def measure(
        self, model: nn.Module, params: Any, batch: dict[str, Array], rngs: dict | None = None
    ) -> dict[str, Mean]:
        """Total loss in nats and weight over the batch's windows, and how many spans are right."""
        return self.loss(self.scores(model, params, batch, rngs), batch)

    def loss(self, scores: Array, batch: dict[str, Array]) -> dict[str, Mean]:
        """What `measure` says of scores [B, T, 2]."""
        real = batch["segments"][..., None] > 0
        scores = jnp.where(real, scores, jnp.finfo(scores.dtype).min)
        ends = jnp.stack([batch[name] for name in ENDS], -1)  # [B, 2]
        own = jnp.take_along_axis(jax.nn.log_softmax(scores, 1), ends[:, None], 1)[:, 0]
        right = (scores.argmax(1) == ends).all(-1)
        weights = batch["weights"]
        return {
            "loss": Mean((-own.mean(-1) * weights).sum(), weights.sum()),
            "accuracy": Mean((right * weights).sum(), weights.sum()),
        }
