"""Records of texts as tokens of limited length: `TokenTexts` one by one, `PairTexts` as one."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np

from lm_research import log
from lm_research.data import shards
from lm_research.data.frame import PairFrame
from lm_research.data.prepare import Part, texts
from lm_research.data.shards import Shards
from lm_research.data.source import within
from lm_research.data.tokenizer import Tokenizer

Frame = tuple[np.ndarray, np.ndarray]  # ids before and after a text


@dataclasses.dataclass(frozen=True)
class TokenTexts:
    """Records of int32 ids by name, each framed as its tokenizer does.

    Attributes:
      names: of the texts of a record.
      shards: the documents of each name.
      frame: ids before and after every text.
      length: tokens of each text at most; longer ones lose what is too much, at their end.
    """

    names: tuple[str, ...]
    shards: tuple[Shards, ...]
    frame: Frame
    length: int

    def __len__(self) -> int:
        return self.shards[0].index["documents"]

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        index = within(index, len(self))
        return {name: self._text(part, index) for name, part in zip(self.names, self.shards)}

    def _text(self, part: Shards, index: int) -> np.ndarray:
        before, after = self.frame
        room = max(0, self.length - len(before) - len(after))
        return np.concatenate([before, document(part, index)[:room], after])

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, before any is cut: int64 [names, records]."""
        return np.stack([sizes(part) for part in self.shards]) + sum(map(len, self.frame))

    def tell_cut(self, what: str) -> None:
        """Says how many records lose something, if any do."""
        tell_cut(self, what, f"their first {self.length} tokens")


@dataclasses.dataclass(frozen=True)
class PairTexts:
    """Records {"text": ids, "types": of each} of two texts, framed as one by their tokenizer.

    Attributes:
      shards: the documents of the first and of the second text.
      frame: what stands around them.
      length: tokens of a record at most; of a longer one, the longer text is cut at its end.
    """

    shards: tuple[Shards, Shards]
    frame: PairFrame
    length: int

    def __len__(self) -> int:
        return self.shards[0].index["documents"]

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        both = [document(part, within(index, len(self))) for part in self.shards]
        kept = self.frame.kept(*map(len, both), self.length)
        tokens, types = self.frame.joined(*(ids[:count] for ids, count in zip(both, kept)))
        return {"text": tokens, "types": types}

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each record, before any is cut: int64 [1, records]."""
        return sum(sizes(part) for part in self.shards)[None] + self.frame.size

    def tell_cut(self, what: str) -> None:
        """Says how many records lose something, if any do."""
        tell_cut(self, what, f"{self.length} tokens, of which the longer text lost its end")


def document(part: Shards, index: int) -> np.ndarray:
    """The ids of one text, unframed."""
    gap = part.eos is not None
    last = index + 1 == part.index["documents"]
    end = part.index["tokens"] - gap if last else part.offsets[index + 1]
    return part.tokens[part.offsets[index] + gap : end]


def sizes(part: Shards) -> np.ndarray:
    """Tokens of each text, unframed: int64 [documents]."""
    gap = part.eos is not None
    ends = np.array([*part.offsets[1:], part.index["tokens"] - gap], np.int64)
    return ends - part.offsets - gap


def tell_cut(texts: TokenTexts | PairTexts, what: str, got: str) -> None:
    """Says how many records lose something, if any do, and what is left of them."""
    if long := int((texts.lengths > texts.length).any(0).sum()):
        asked = f"{long:,} of {len(texts):,} {what}, longer than {texts.length} tokens"
        log.fallback(asked, got, "objective.length is no more")


def write_texts(
    directory: Path, names: tuple[str, ...], parts: dict[str, Part], tokenizer: Tokenizer
) -> dict[str, Any]:
    """Writes the texts of parts of the data, by name, as shards; what a run should say of them.

    Bytes are those of the last name, which is what an encoder-decoder writes.
    """
    facts: dict[str, Any] = {}
    for part, (source, places) in parts.items():
        facts[f"{part}_documents"] = len(places)
        for name in names:
            found = texts((source, places), name)
            written = shards.write(directory / f"{part}_{name}", found, tokenizer)
            facts[f"{part}_{name}_texts"] = written.index["texts"]
        facts[f"{part}_bytes"] = written.index["bytes"]
    return facts


def read_texts(
    directory: Path, part: str, names: tuple[str, ...], frame: Frame, length: int
) -> TokenTexts:
    """A part that `write_texts` wrote, each text in a frame of its tokenizer's.

    Raises:
      UserError: it is damaged.
    """
    found = _verified(directory, part, names)
    return TokenTexts(names, found, frame, length)


def read_pairs(
    directory: Path, part: str, names: tuple[str, str], frame: PairFrame, length: int
) -> PairTexts:
    """A part that `write_texts` wrote, whose two texts are one sequence.

    Raises:
      UserError: it is damaged, or `length` leaves no room for two texts.
    """
    return PairTexts(_verified(directory, part, names), frame.roomy(length), length)


def _verified(directory: Path, part: str, names: tuple[str, ...]) -> tuple[Shards, ...]:
    found = tuple(Shards(Path(directory) / f"{part}_{name}") for name in names)
    for one in found:
        one.verify_cheaply()
    return found
