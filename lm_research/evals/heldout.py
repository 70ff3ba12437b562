"""Held-out loss, perplexity and bits per byte."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from lm_research import mesh, metrics
from lm_research.data import pipeline


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Scores held-out text with the training objective.

    Attributes:
      every: steps between evaluations.
      batch: examples at once; None is the training batch.
      batches: how many of them, from the start of the held-out text; None is all of it.
    """

    every: int
    batch: int | None = None
    batches: int | None = None

    def __post_init__(self):
        for name in ("batch", "batches"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it takes a number from 1 on")

    def bind(
        self, objective: Any, data: Any, size: int
    ) -> Callable[[nn.Module, Any], dict[str, float]]:
        """The evaluator of an objective on prepared data: takes a model and its parameters."""
        rows = self.batch or size
        mesh.check_batch(rows, "the evaluation batch")
        measure = jax.jit(objective.measure, static_argnums=0)

        def evaluate(model: nn.Module, params: Any) -> dict[str, float]:
            total = None
            batches = pipeline.heldout_batches(data.heldout, objective, rows, mesh.share())
            for i, batch in enumerate(batches):
                if self.batches is not None and i == self.batches:
                    break
                measured = measure(model, params, mesh.place(batch))
                jax.block_until_ready(total)  # or else all batches are placed at once
                total = measured if total is None else metrics.add(total, measured)
            numbers = {name: float(mean.value()) for name, mean in total.items()}
            return numbers | (derived(numbers, data.facts) if objective.likelihood else {})

        return evaluate


def derived(numbers: dict[str, float], facts: dict[str, Any]) -> dict[str, float]:
    """Perplexity per token, and bits per byte of UTF-8: nats per token x tokens per byte / ln 2."""
    nats = numbers.get("cross_entropy", numbers["loss"])
    per_byte = facts["heldout_tokens"] / facts["heldout_bytes"]
    perplexity = math.exp(nats) if nats < 700 else math.inf
    return {"perplexity": perplexity, "bits_per_byte": nats * per_byte / math.log(2)}
