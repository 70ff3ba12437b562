"""`PairFrame`: two texts as one sequence, as a tokenizer frames them."""

import dataclasses

import numpy as np

from lm_research.errors import UserError

Parts = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class PairFrame:
    """What stands before, between and after two texts.

    Attributes:
      tokens: ids, int32, of those three.
      types: of the same tokens, int32.
      texts: types of the tokens of both texts.
    """

    tokens: Parts
    types: Parts
    texts: tuple[int, int] = (0, 1)

    @classmethod
    def classic(cls, first: int, last: int) -> "PairFrame":
        """BERT's: `cls FIRST sep SECOND sep`, of types 0 up to the `sep` in the middle, then 1."""
        ids = [np.array([token], np.int32) for token in (first, last, last)]
        return cls(tuple(ids), tuple(np.array([kind], np.int32) for kind in (0, 0, 1)))

    @property
    def size(self) -> int:
        """How many tokens it adds."""
        return sum(map(len, self.tokens))

    def roomy(self, length: int) -> "PairFrame":
        """This frame, if `length` tokens have room for it and a token of each text.

        Raises:
          UserError: they have not.
        """
        if length < self.size + 2:
            raise UserError(
                f"objective.length is {length}; pairs take {self.size + 2} or more, of which "
                f"{self.size} are special tokens"
            )
        return self

    def joined(self, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids and types of both texts in the frame, int32."""
        kinds = [np.full(len(text), kind) for text, kind in zip((first, second), self.texts)]
        types = around(self.types, *kinds).astype(np.int32)
        return around(self.tokens, first, second).astype(np.int32), types

    def kept(self, first: int, second: int, length: int) -> tuple[int, int]:
        """How many tokens of texts of so many are left where both make `length` at most, framed.

        The longer text is cut first, and then both alike, as `longest_first` in `tokenizers`.
        """
        room = max(0, length - self.size)
        if first + second <= room:
            return first, second
        less = min(first, second, room // 2)
        return (room - less, less) if first > second else (less, room - less)


def around(parts: Parts, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """What stands before, between and after two things, with them in their places."""
    before, between, after = parts
    return np.concatenate([before, first, between, second, after])
