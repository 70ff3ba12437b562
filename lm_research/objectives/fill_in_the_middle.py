"""Predict each token from those before it, in texts whose middle was moved to their end."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from lm_research.errors import UserError
from lm_research.objectives.causal import Causal

SENTINELS = 3


@dataclasses.dataclass(frozen=True)
class FillInTheMiddle(Causal):
    """Fill-in-the-middle (Bavarian et al., 2022).

    Some of a window's documents are cut at two places into prefix, middle and suffix, and read in
    another order behind sentinels, of which the tokenizer's first three begin the prefix (P), the
    suffix (S) and the middle (M): P prefix S suffix M middle ("PSM"), or P S suffix M prefix middle
    ("SPM", the paper's variant 2, section 4.3). All tokens are predicted. Windows are transformed,
    not whole documents ("context-level", section 3), so that each begins and ends with its own
    sentinels, but for the few tokens that the sentinels crowd out at the end of a window. Places
    are between tokens, where the paper's are between characters.

    Attributes:
      rate: the share of documents that are transformed.
      spm: the share of those that are read as SPM.
      length, z_loss, smoothing, chunk: as in `Causal`.
      likelihood: the loss is not that of the text as it was written.
      sentinels, eos: filled in by `bound`.
    """

    rate: float = 0.5
    spm: float = 0.5
    sentinels: tuple[int, ...] = dataclasses.field(default=(), repr=False)
    eos: int | None = dataclasses.field(default=None, repr=False)
    likelihood: ClassVar[bool] = False

    def __post_init__(self):
        super().__post_init__()
        for name in ("rate", "spm"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it takes a share from 0 to 1")

    def bound(self, tokenizer: Any) -> "FillInTheMiddle":
        """This objective, with a tokenizer's sentinels and the token that ends its texts.

        Raises:
          UserError: it has fewer than three sentinels.
        """
        found = tuple(tokenizer.sentinels[:SENTINELS])
        if len(found) < SENTINELS:
            raise UserError(
                f"objective FillInTheMiddle needs {SENTINELS} sentinel tokens, and the tokenizer "
                f"has {len(found)}; train one that has them (data.tokenizer.sentinels={SENTINELS}),"
                " or give one that has"
            )
        return dataclasses.replace(self, sentinels=found, eos=tokenizer.eos)

    def example(
        self, record: dict[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """T inputs and the T tokens that follow them, some documents transformed."""
        tokens = record["tokens"]
        count = 1 + int(np.flatnonzero(record["weights"])[-1])  # what follows is padding
        pieces = [
            self._transformed(piece, rng)
            for piece in np.split(tokens[:count], self._begins(record, count))
        ]
        size = self.length + 1
        fitted = lambda parts: np.resize(
            np.append(np.concatenate(parts), np.zeros(size, int)), size
        )
        lengths = [len(piece) for piece in pieces]
        new = {"tokens": fitted(pieces).astype(np.int32)}
        new["weights"] = fitted([np.ones(n, int) for n in lengths]).astype(np.float32)
        if "segments" in record:
            numbered = [np.full(n, i) for i, n in enumerate(lengths, 1)]
            new["segments"] = fitted(numbered).astype(np.int32)
            new["position"] = fitted([np.arange(n) for n in lengths]).astype(np.int32)
        return super().example(new, rng)

    def _begins(self, record: dict[str, np.ndarray], count: int) -> np.ndarray:
        """Where documents begin, but for the first: with the token that ends the one before."""
        if "segments" in record:
            return np.flatnonzero(np.diff(record["segments"][:count])) + 1
        return np.flatnonzero(record["tokens"][1:count] == self.eos) + 1

    def _transformed(self, tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A document in the order in which it is read; what ended the one before stays first."""
        if rng.random() >= self.rate:
            return tokens
        spm = rng.random() < self.spm
        first = int(tokens[0] == self.eos)
        text = tokens[first:]
        cuts = np.sort(rng.integers(0, len(text), size=2, endpoint=True))
        prefix, middle, suffix = np.split(text, cuts)
        p, s, m = ([sentinel] for sentinel in self.sentinels)
        parts = (p, s, suffix, m, prefix, middle) if spm else (p, prefix, s, suffix, m, middle)
        return np.concatenate([tokens[:first], *parts])
