"""Predict some tokens from all others and from one another, in an order drawn for each example."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import numpy as np

from lm_research.layers import Mask
from lm_research.metrics import Mean
from lm_research.models.two_stream import TwoStream
from lm_research.objectives.token_loss import check_chunk, token_loss

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Permutation:
    """Permutation language modelling (Yang et al., 2019, sections 2.2, 2.3 and appendix A).

    One token in `partial` is a target. Targets are spans: one of n tokens, 1 <= n <= `span` with
    probability in proportion to 1 / n, somewhere within a stretch of n times `partial`. They are
    predicted in a random order, each from those before it and from all tokens that are no targets;
    as in the paper's own code, the latter see one another.

    Attributes:
      length: T, the tokens that a model reads at once.
      partial: K of the paper.
      span: the longest.
      chunk: see `token_loss`; a divisor of the number of targets.
    """

    length: int
    partial: int = 6
    span: int = 5
    chunk: int | None = None
    likelihood: ClassVar[bool] = False

    def __post_init__(self):
        if not 1 <= self.partial <= self.length:
            raise ValueError(f"partial {self.partial} is not within 1 and length {self.length}")
        if self.span < 1:
            raise ValueError(f"span is {self.span}; it takes a number from 1 on")
        targets = self.length // self.partial
        check_chunk(self.chunk, targets, f"{targets} targets")

    def refusal(self, model: nn.Module) -> str:
        """Why this cannot train `model`; empty where it can."""
        if not isinstance(model, TwoStream):
            return "it has no second stream, which predicts a token without seeing it; use XLNet"
        if model.causal:
            return "it sees earlier tokens only, whatever the order; set model.causal=False"
        return ""

    def bound(self, tokenizer: Any) -> "Permutation":
        """This objective, with what it needs to know of the tokenizer: nothing."""
        del tokenizer
        return self

    def example(
        self, record: dict[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """The last T of T + 1 tokens, their order (0 for context), and the targets' slots and ids.

        Every token of a text is in one such window, and none is replaced.
        """
        tokens, slots = record["tokens"][1:], self._slots(rng)
        order = np.zeros(self.length, np.int32)
        order[slots] = 1 + rng.permutation(len(slots))
        example = {
            "tokens": tokens,
            "order": order,
            "slots": slots,
            "targets": tokens[slots],
            "weights": record["weights"][1:][slots],
        }
        if "segments" in record:
            example["segments"] = record["segments"][1:]
        return example

    def _slots(self, rng: np.random.Generator) -> np.ndarray:
        """Where the targets are, int32 [T / partial]."""
        wanted, found = self.length // self.partial, []
        start = rng.integers(self.length - wanted * self.partial + 1)
        lengths = np.arange(1, self.span + 1)
        while len(found) < wanted:
            n = min(rng.choice(lengths, p=1 / lengths / (1 / lengths).sum()), wanted - len(found))
            first = start + rng.integers((self.partial - 1) * n + 1)
            found += range(first, first + n)
            start += self.partial * n
        return np.array(found, np.int32)

    def measure(
        self, model: nn.Module, params: Any, batch: dict[str, Array], rngs: dict | None = None
    ) -> dict[str, Mean]:
        """Total loss in nats and weight over the batch's targets."""
        mask = Mask.factorised(batch["order"])
        if "segments" in batch:
            mask = mask.replace(segments=(batch["segments"], batch["segments"]))
        output = model.apply(
            {"params": params}, batch["tokens"], mask=mask, targets=batch["slots"], rngs=rngs
        )
        return token_loss(output, batch["targets"], batch["weights"], chunk=self.chunk)
