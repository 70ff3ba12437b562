"""Token shards as windows of equal length: the arithmetic of packing."""

import dataclasses
from collections.abc import Iterable
from typing import Literal

import numpy as np

from lm_research.data.shards import Shards
from lm_research.data.source import within


@dataclasses.dataclass(frozen=True)
class Windows:
    """Token shards as windows; window i begins at token i * length and predicts `length` tokens.

    So every token but the very first is predicted once; the last window may be padded.

    Attributes:
      shards: the tokens.
      length: T; a window holds T + 1 tokens.
      documents: "separate" adds `segments` and `position`, by which each document is read alone.
    """

    shards: Shards
    length: int
    documents: Literal["separate", "joined"] = "separate"

    @property
    def tokens(self) -> int:
        """How many tokens are predicted in one pass."""
        return self.shards.index["tokens"] - 1

    def __len__(self) -> int:
        return -(-self.tokens // self.length)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {name: rows[0] for name, rows in self.gather([within(index, len(self))]).items()}

    def gather(
        self, indices: Iterable[int], shifts: Iterable[int] | int = 0
    ) -> dict[str, np.ndarray]:
        """Many windows at once, stacked.

        Args:
          indices: which, [B].
          shifts: tokens by which each window is moved along the text, [B] or one for all, less than
            `tokens`. The text is a ring: what is moved over its end comes from its beginning.

        Returns:
          tokens int32 [B, T + 1]; weights float32 [B, T + 1], 0 for padding; and for separate
          documents, int32 [B, T + 1] each, segments (from 1 in each window, 0 for padding) and
          position (from 0 in each segment).
        """
        indices = np.asarray(indices, np.int64)
        starts = (indices * self.length + shifts) % self.tokens
        # How many tokens of a row are not padding.
        counts = np.minimum(self.length, self.tokens - indices * self.length) + 1
        rows = {
            "tokens": np.zeros((len(indices), self.length + 1), np.int32),
            "weights": (np.arange(self.length + 1) < counts[:, None]).astype(np.float32),
        }
        for row, (start, count) in enumerate(zip(starts.tolist(), counts.tolist())):
            self._fill(rows["tokens"][row], rows["weights"][row], start, count)
        if self.documents == "separate":
            rows |= self._documents(starts.tolist(), counts)
        return rows

    def _fill(self, tokens: np.ndarray, weights: np.ndarray, start: int, count: int) -> None:
        stream = self.shards.tokens
        first = min(count, self.tokens + 1 - start)
        tokens[:first] = stream[start : start + first]
        if first < count:  # the last token is the first again, so go on with the second
            tokens[first:count] = stream[1 : 1 + count - first]
            if self.shards.eos is None:
                weights[first] = 0.0  # it does not follow the last one

    def _documents(self, starts: list[int], counts: np.ndarray) -> dict[str, np.ndarray]:
        begins = np.zeros((len(starts), self.length + 1), np.int32)
        for row, start in enumerate(starts):
            begins[row, self._boundaries(start, start + self.length + 1)] = 1
        begins[:, 0] = 1
        place = np.arange(self.length + 1, dtype=np.int32)
        real = place < counts[:, None]
        since = np.maximum.accumulate(begins * place, axis=1)
        return {
            "segments": np.cumsum(begins, axis=1, dtype=np.int32) * real,
            "position": (place - since) * real,
        }

    def _boundaries(self, start: int, stop: int) -> np.ndarray:
        """Where in a window documents begin."""
        offsets = self.shards.offsets
        found = offsets[slice(*np.searchsorted(offsets, (start, stop)))] - start
        if stop <= self.tokens:
            return found
        again = offsets[: np.searchsorted(offsets, stop - self.tokens)] + (self.tokens - start)
        if self.shards.eos is None:
            again = again[1:]
            again = np.append(again, self.tokens + 1 - start)
        return np.concatenate([found, again[again < stop - start]])
