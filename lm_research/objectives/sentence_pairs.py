"""Masked language modelling of two texts at once, and how they belong together."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm_research.data.frame import PairFrame, around
from lm_research.errors import UserError
from lm_research.layers import Output
from lm_research.metrics import Mean
from lm_research.objectives.masked import Example, Masked

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class SentenceOrder(Masked):
    """Lan et al. (2020): hidden tokens, and whether two texts that follow each other were swapped.

    A window is cut in two at random, between its quarters, and makes a row

        cls FIRST sep SECOND sep

    of types 0, for the first three parts, and 1. Half of the time the texts change places. The loss
    is the mean over hidden tokens plus the mean over rows, in nats: each row's pair weighs as much
    as the tokens that it hides, so that both are one total and one weight.

    Attributes: as `Masked`; texts are always framed.
    """

    framed: bool = True

    def __post_init__(self):
        super().__post_init__()
        if not self.framed or self.length < 7:
            raise ValueError(
                f"a pair is framed and has 7 tokens or more, not length {self.length} and "
                f"framed {self.framed}"
            )

    def refusal(self, model: nn.Module) -> str:
        """Why this cannot train `model`; empty where it can."""
        pooler = getattr(model, "pooler", None)
        without = "" if pooler is not None and pooler.pair else "it classifies no pairs"
        return super().refusal(model) or (without and f"{without}; give it model.pair=True")

    def example(self, record: Example, rng: np.random.Generator) -> Example:
        """A row of two texts; `pair` is 1 where they changed places."""
        rng = self.generator(record["tokens"], rng)
        first, second = self._cut(record, rng)
        swapped = rng.random() < 0.5
        return self._row(*((second, first) if swapped else (first, second)), swapped, rng)

    def _cut(self, record: Example, rng: np.random.Generator) -> tuple:
        """Two texts that follow each other, as tokens and whether they are real."""
        room = self.length - 3
        place = int(rng.integers(room // 4, room - room // 4 + 1))
        both = record["tokens"][:room], record["weights"][:room] > 0
        return tuple(x[:place] for x in both), tuple(x[place:] for x in both)

    def _row(self, first: tuple, second: tuple, label: bool, rng: np.random.Generator) -> Example:
        frame = PairFrame.classic(self.words.cls, self.words.sep)
        tokens, types = frame.joined(first[0], second[0])
        real = around(tuple(part >= 0 for part in frame.tokens), first[1], second[1])
        return {
            "types": types,
            "segments": real.astype(np.int32),
            "pair": np.int32(label),
            **self.hidden(tokens, real, rng),
        }

    def loss(self, output: Output, batch: dict[str, Array]) -> dict[str, Mean]:
        """Of hidden tokens and of pairs, together and apart."""
        measured = super().loss(output, batch)
        weights = batch["weights"].sum(1)  # [B]
        each = jax.nn.log_softmax(output.pair)
        pair = -jnp.take_along_axis(each, batch["pair"][:, None], 1)[:, 0]
        right = output.pair.argmax(-1) == batch["pair"]
        hidden = measured["loss"]
        return {
            "cross_entropy": hidden,
            **measured,
            "loss": Mean(hidden.total + (pair * weights).sum(), hidden.weight),
            "pair_loss": Mean((pair * weights).sum(), weights.sum()),
            "pair_accuracy": Mean((right * weights).sum(), weights.sum()),
        }


@dataclasses.dataclass(frozen=True)
class NextSentence(SentenceOrder):
    """Devlin et al. (2019): hidden tokens, and whether the second text is from somewhere else.

    As `SentenceOrder`, but half of the time another window's beginning takes the second text's
    place. That window may be of the same document; the authors' is of another one.

    Attributes: as `Masked`; texts are always framed.
      others: the windows that an example takes besides its own.
    """

    others: ClassVar[int] = 1

    def example(self, record: Example, rng: np.random.Generator) -> Example:
        """A row of two texts; `pair` is 1 where the second does not follow the first."""
        if "others" not in record:
            raise UserError("NextSentence takes two windows, and the text has one; give more text")
        rng = self.generator(record["tokens"], rng)
        first, second = self._cut(record, rng)
        foreign = rng.random() < 0.5
        if foreign:
            [other] = record["others"]
            second = tuple(x[: len(second[0])] for x in (other["tokens"], other["weights"] > 0))
        return self._row(first, second, foreign, rng)
