"""Predict several tokens at each place, each with a block of its own."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from lm_research.metrics import Mean
from lm_research.objectives.causal import Causal

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class MultiToken(Causal):
    """Multi-token prediction (Gloeckle et al., 2024, equation 2): the sum of `ahead` losses.

    The loss is that per predicted place; the first of the sum, which is the next token's, stands
    beside it as `cross_entropy`, and the others as `cross_entropy_2` and so on. A token further on
    is a target only where it is in the window, and in the document.

    Attributes:
      ahead: tokens to predict at each place; as many as the model has blocks for (model.ahead).
      length, z_loss, smoothing, chunk: as in `Causal`.
    """

    ahead: int = 4

    def refusal(self, model: nn.Module) -> str:
        """Why this cannot train `model`; empty where it can."""
        found = len(getattr(model, "ahead", ()))
        if found != self.ahead:
            return (
                f"objective.ahead is {self.ahead}, and the model has blocks for {found} tokens; "
                f"take a Llama with model.ahead={self.ahead}"
            )
        return super().refusal(model)

    def example(
        self, record: dict[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """T inputs, and as `targets` and `weights` [T, ahead] the tokens after each."""
        example = super().example(record, rng)
        targets, weights = example["targets"], example["weights"]
        segments = example.get("segments", np.ones_like(targets))
        later = lambda array, i: np.append(array[i:], np.zeros(min(i, len(array)), array.dtype))
        steps = range(self.ahead)
        same = [later(segments, i) == segments for i in steps]
        return example | {
            "targets": np.stack([later(targets, i) for i in steps], -1),
            "weights": np.stack([later(weights, i) * same[i] for i in steps], -1),
        }

    def measure(
        self, model: nn.Module, params: Any, batch: dict[str, Array], rngs: dict | None = None
    ) -> dict[str, Mean]:
        """Total loss in nats over all targets, and the weight of the next ones."""
        output = self.read(model, params, batch, rngs)
        measured, total = {}, 0.0
        for i, hidden in enumerate((output.hidden, *output.ahead)):
            targets, weights = batch["targets"][..., i], batch["weights"][..., i]
            found = self.loss(output.replace(hidden=hidden), targets, weights)
            name = "cross_entropy" + (f"_{i + 1}" if i else "")
            measured[name] = found.get("cross_entropy", found["loss"])
            total += found["loss"].total
        return {**measured, "loss": Mean(total, measured["cross_entropy"].weight)}
