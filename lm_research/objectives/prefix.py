"""Predict what follows the beginning of a text, all of which every token sees."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import numpy as np

from lm_research.layers import Mask
from lm_research.metrics import Mean
from lm_research.models.two_stream import TwoStream
from lm_research.objectives.token_loss import token_loss

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Prefix:
    """Prefix language modelling (Dong et al., 2019; Raffel et al., 2020, section 3.2.3).

    The first tokens of a document, any number of them with the same probability, are its prefix:
    they see one another, and only what follows them is predicted. Where documents are separate each
    has a prefix of its own; joined ones are cut once for the whole window.

    Attributes:
      length: T, the tokens that a model reads at once.
      z_loss, smoothing, chunk: see `token_loss`.
      likelihood: the loss says nothing of the prefix.
    """

    length: int
    z_loss: float = 0.0
    smoothing: float = 0.0
    chunk: int | None = None
    likelihood: ClassVar[bool] = False

    def __post_init__(self):
        if self.chunk is not None and (self.chunk < 1 or self.length % self.chunk):
            raise ValueError(f"chunk {self.chunk} does not divide length {self.length}")

    def refusal(self, model: nn.Module) -> str:
        """Why this cannot train `model`; empty where it can."""
        if isinstance(model, TwoStream):
            return "its second stream is what predicts; use Permutation"
        return "" if model.causal else "an encoder sees the token that it would have to predict"

    def bound(self, tokenizer: Any) -> "Prefix":
        """This objective, with what it needs to know of the tokenizer: nothing."""
        del tokenizer
        return self

    def example(
        self, record: dict[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """T inputs, which of them are a prefix, and the T tokens that follow them.

        The last token of a prefix is the first that predicts.
        """
        tokens, real = record["tokens"], record["weights"] > 0
        segments = record.get("segments", real.astype(np.int32))[:-1]
        prefix = np.zeros(self.length, bool)
        for segment in range(1, segments.max(initial=0) + 1):
            places = np.flatnonzero(segments == segment)
            prefix[places[: rng.integers(1, len(places), endpoint=True)]] = True
        follows = np.append(prefix[1:] & (segments[1:] == segments[:-1]), False)
        example = {
            "tokens": tokens[:-1],
            "targets": tokens[1:],
            "weights": np.where(follows, 0, record["weights"][1:]).astype(np.float32),
            "prefix": prefix,
        }
        if "segments" in record:
            example |= {"segments": segments, "position": record["position"][:-1]}
        return example

    def measure(
        self, model: nn.Module, params: Any, batch: dict[str, Array], rngs: dict | None = None
    ) -> dict[str, Mean]:
        """Total loss in nats and weight over the batch's targets."""
        segments = batch.get("segments")
        segments = None if segments is None else (segments, segments)
        output = model.apply(
            {"params": params},
            batch["tokens"],
            position=batch.get("position"),
            mask=Mask(prefix=batch["prefix"], segments=segments),
            rngs=rngs,
        )
        return token_loss(
            output,
            batch["targets"],
            batch["weights"],
            z_loss=self.z_loss,
            smoothing=self.smoothing,
            chunk=self.chunk,
        )
