"""`TokenTexts`: records of one or more texts as tokens, each of limited length."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np

from lm_research import log
from lm_research.data import shards
from lm_research.data.prepare import Part, texts
from lm_research.data.shards import Shards
from lm_research.data.source import within
from lm_research.data.tokenizer import Tokenizer


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
    frame: tuple[np.ndarray, np.ndarray]
    length: int

    def __len__(self) -> int:
        return self.shards[0].index["documents"]

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        index = within(index, len(self))
        return {name: self._text(part, index) for name, part in zip(self.names, self.shards)}

    def _text(self, part: Shards, index: int) -> np.ndarray:
        begin = part.offsets[index] + (part.eos is not None)
        last = index + 1 == len(self)
        end = part.index["tokens"] - (part.eos is not None) if last else part.offsets[index + 1]
        before, after = self.frame
        room = max(0, self.length - len(before) - len(after))
        return np.concatenate([before, part.tokens[begin : min(end, begin + room)], after])

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, before any is cut: int64 [names, records]."""
        framed = sum(map(len, self.frame))
        ends = ([*part.offsets[1:], part.index["tokens"]] for part in self.shards)
        gaps = [part.eos is not None for part in self.shards]
        ends = [np.array(end, np.int64) for end in ends]
        for end, gap in zip(ends, gaps):
            end[-1] -= gap
        each = zip(self.shards, ends, gaps)
        return np.stack([end - part.offsets - gap + framed for part, end, gap in each])

    def tell_cut(self, what: str) -> None:
        """Says how many records lose something, if any do."""
        if long := int((self.lengths > self.length).any(0).sum()):
            asked = f"{long:,} of {len(self):,} {what}, longer than {self.length} tokens"
            log.fallback(asked, f"their first {self.length} tokens", "objective.length is no more")


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
    directory: Path, part: str, names: tuple[str, ...], tokenizer: Tokenizer, length: int
) -> TokenTexts:
    """A part that `write_texts` wrote.

    Raises:
      UserError: it is damaged.
    """
    found = tuple(Shards(Path(directory) / f"{part}_{name}") for name in names)
    for one in found:
        one.verify_cheaply()
    return TokenTexts(names, found, tokenizer.frame, length)
