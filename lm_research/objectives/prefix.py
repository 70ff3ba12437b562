"""Predict what follows the beginning of a text, all of which every token sees."""

import dataclasses
from typing import ClassVar

import numpy as np

from lm_research.objectives.causal import Causal


@dataclasses.dataclass(frozen=True)
class Prefix(Causal):
    """Prefix language modelling (Dong et al., 2019; Raffel et al., 2020, section 3.2.3).

    The first tokens of a document, any number of them with the same probability, are its prefix:
    they see one another, and only what follows them is predicted. Where documents are separate each
    has a prefix of its own; joined ones are cut once for the whole window.

    Attributes:
      length, z_loss, smoothing, chunk: as in `Causal`.
      likelihood: the loss says nothing of the prefix.
      prefix: texts are to be continued from a prefix, as they are learned.
    """

    likelihood: ClassVar[bool] = False
    prefix: ClassVar[bool] = True

    def example(
        self, record: dict[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """T inputs, which of them are a prefix, and the T tokens that follow them.

        The last token of a prefix is the first that predicts.
        """
        example = super().example(record, rng)
        real = (record["weights"] > 0).astype(np.int32)
        segments = record.get("segments", real)[:-1]
        prefix = np.zeros(self.length, bool)
        for segment in range(1, segments.max(initial=0) + 1):
            places = np.flatnonzero(segments == segment)
            prefix[places[: rng.integers(1, len(places), endpoint=True)]] = True
        follows = np.append(prefix[1:] & (segments[1:] == segments[:-1]), False)
        weights = np.where(follows, 0, example["weights"]).astype(np.float32)
        return example | {"weights": weights, "prefix": prefix}
