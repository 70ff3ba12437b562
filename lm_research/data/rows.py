"""`Rows`: several short records in one row of fixed length, by a plan made once."""

import dataclasses
import functools
from typing import Any

import numpy as np

from lm_research.data.permutation import permuted
from lm_research.data.source import within
from lm_research.data.texts import TokenTexts

OPEN = 64  # rows that are filled at once: more are slower and hardly fuller


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of records: of each name their ids, one text after another, and `counts` of each text.

    Attributes:
      texts: the records.
      length: of a row; each of the texts of its records fits.
    """

    texts: TokenTexts
    length: int

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> dict[str, Any]:
        records = [self.texts[place] for place in self.plan[within(index, len(self))].tolist()]
        row = {name: np.concatenate([r[name] for r in records]) for name in self.texts.names}
        counts = {n: np.array([len(r[n]) for r in records]) for n in self.texts.names}
        return {**row, "counts": counts}

    def __reduce__(self):
        return Rows, (self.texts, self.length)

    @functools.cached_property
    def plan(self) -> list[np.ndarray]:
        """Which records each row has: in a random order, each goes where it leaves least room."""
        sizes = np.minimum(self.texts.lengths, self.length).T  # [records, names]
        left = np.zeros((0, sizes.shape[1]), np.int64)  # of the open rows
        opened: list[list[int]] = []
        closed: list[list[int]] = []
        for place in permuted(np.arange(len(sizes)), len(sizes), seed=0).tolist():
            after = left - sizes[place]
            fits = (after >= 0).all(1)
            if fits.any():
                best = int(np.where(fits, after.sum(1), np.iinfo(np.int64).max).argmin())
                opened[best].append(place)
                left[best] = after[best]
                continue
            if len(opened) == OPEN:
                fullest = int(left.sum(1).argmin())
                closed.append(opened.pop(fullest))
                left = np.delete(left, fullest, 0)
            opened.append([place])
            left = np.concatenate([left, self.length - sizes[place][None]])
        return [np.array(row) for row in closed + opened]


def numbered(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which text of a row each token is of, from 1 on, and its position there; of sizes."""
    number = np.repeat(np.arange(1, len(counts) + 1), counts)
    return number, np.arange(len(number)) - np.repeat(np.cumsum(counts) - counts, counts)


def filled(array: np.ndarray, length: int, dtype: Any = np.int32) -> np.ndarray:
    """An array, and zeros after it up to a length."""
    result = np.zeros(length, dtype)
    result[: len(array)] = array
    return result
