"""Predict each token from those before it."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import numpy as np

from lm_research.layers import Mask, Output
from lm_research.metrics import Mean
from lm_research.models.encoder_decoder import EncoderDecoder
from lm_research.models.two_stream import TwoStream
from lm_research.objectives.token_loss import check_chunk, token_loss

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Causal:
    """Next-token prediction, the chain rule of a language model.

    Attributes:
      length: T, the tokens that a model reads at once.
      z_loss, smoothing, chunk: see `token_loss`.
      likelihood: the loss is the negative log-probability of the text.
    """

    length: int
    z_loss: float = 0.0
    smoothing: float = 0.0
    chunk: int | None = None
    likelihood: ClassVar[bool] = True

    def __post_init__(self):
        check_chunk(self.chunk, self.length, f"length {self.length}")

    def refusal(self, model: nn.Module) -> str:
        """Why this cannot train `model`; empty where it can."""
        if isinstance(model, TwoStream):
            return "its second stream is what predicts; use Permutation"
        if isinstance(model, EncoderDecoder):
            return "it reads a source, and Causal has none; use SpanCorruption or Seq2Seq"
        return "" if model.causal else "an encoder sees the token that it would have to predict"

    def bound(self, tokenizer: Any) -> "Causal":
        """This objective, with what it needs to know of the tokenizer: nothing."""
        del tokenizer
        return self

    def example(
        self, record: dict[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """A window of T + 1 tokens as T inputs and the T tokens that follow them.

        Where documents are separate, each begins with the token that ends the one before it, so
        that every token is predicted from its own document alone.
        """
        del rng
        tokens = record["tokens"]
        example = {
            "tokens": tokens[:-1],
            "targets": tokens[1:],
            "weights": record["weights"][1:],
        }
        if "segments" in record:
            example["segments"] = record["segments"][:-1]
            example["position"] = record["position"][:-1]
        return example

    def measure(
        self, model: nn.Module, params: Any, batch: dict[str, Array], rngs: dict | None = None
    ) -> dict[str, Mean]:
        """Total loss in nats and weight over the batch's [B, T] targets."""
        output = self.read(model, params, batch, rngs)
        return self.loss(output, batch["targets"], batch["weights"])

    def read(
        self, model: nn.Module, params: Any, batch: dict[str, Array], rngs: dict | None
    ) -> Output:
        """What the model says of a batch."""
        segments = batch.get("segments")
        segments = None if segments is None else (segments, segments)
        return model.apply(
            {"params": params},
            batch["tokens"],
            position=batch.get("position"),
            mask=Mask(prefix=batch.get("prefix"), segments=segments),
            rngs=rngs,
        )

    def loss(self, output: Output, targets: Array, weights: Array) -> dict[str, Mean]:
        """Total loss in nats and weight over targets [B, T]."""
        return token_loss(
            output,
            targets,
            weights,
            z_loss=self.z_loss,
            smoothing=self.smoothing,
            chunk=self.chunk,
        )
