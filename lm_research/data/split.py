"""The train and the held-out part of a corpus."""

import dataclasses
from collections.abc import Iterator
from typing import Literal

import numpy as np

from lm_research.data.permutation import permuted
from lm_research.data.shards import TextHash
from lm_research.data.source import Source
from lm_research.errors import UserError

# With fewer documents than this, "auto" cuts the text instead: a share of few documents is a coarse
# one.
DOCUMENTS = 20


@dataclasses.dataclass(frozen=True)
class Survey:
    """What one reading of a corpus finds.

    Attributes:
      content: SHA-256 of its texts.
      bytes: of UTF-8, int64 [documents].
      characters: int64 [documents].
    """

    content: str
    bytes: np.ndarray
    characters: np.ndarray


@dataclasses.dataclass(frozen=True)
class Part:
    """Some documents of a source; the first may lack its beginning, the last its end.

    Attributes:
      source: the corpus.
      documents: their indices, ascending.
      begin: where the first one begins, in characters.
      end: where the last one ends, None for where it does in the source.
    """

    source: Source
    documents: np.ndarray
    begin: int = 0
    end: int | None = None

    def texts(self) -> Iterator[str]:
        """The texts, in order."""
        for place, document in enumerate(self.documents):
            begin = self.begin if place == 0 else None
            end = self.end if place == len(self.documents) - 1 else None
            yield text_of(self.source, int(document))[begin:end]


def text_of(source: Source, index: int) -> str:
    """The text of a record.

    Raises:
      UserError: the record has none.
    """
    record = source[index]
    text = record.get("text")
    if not isinstance(text, str):
        what = "no" if text is None else "a non-text"
        raise UserError(
            f"record {index} of the data source has {what} field 'text'; "
            f"it has {', '.join(map(repr, record))}"
        )
    return text


def survey(source: Source) -> Survey:
    """Reads the corpus once.

    Raises:
      UserError: a record has no text, or one that is not Unicode.
    """
    content = TextHash()
    sizes: list[tuple[int, int]] = []
    for index in range(len(source)):
        text = text_of(source, index)
        try:
            sizes.append((content.add(text), len(text)))
        except UnicodeEncodeError as error:
            raise UserError(
                f"record {index} of the data source has half a surrogate pair at character "
                f"{error.start}, which is not Unicode text"
            ) from None
    bytes_, characters = np.array(sizes, np.int64).reshape(-1, 2).T
    return Survey(content.hexdigest(), bytes_, characters)


def split(
    source: Source,
    found: Survey,
    heldout: float,
    how: Literal["auto", "documents", "tail"],
) -> tuple[Part, Part, str]:
    """The train part, the held-out part, and how they were split.

    Args:
      source: the corpus.
      found: its survey.
      heldout: the share of the second part; of bytes, or of characters for "tail".
      how: "documents" takes documents by a fixed shuffle, "tail" the end of the text, as nanoGPT
        does; "auto" is "documents" from 20 documents on.
    """
    if how == "auto":
        how = "documents" if len(found.bytes) >= DOCUMENTS else "tail"
    parts = (
        _by_documents(source, found, heldout)
        if how == "documents"
        else _by_tail(source, found, heldout)
    )
    return *parts, how


def _by_documents(source: Source, found: Survey, heldout: float) -> tuple[Part, Part]:
    count = len(found.bytes)
    order = permuted(np.arange(count), count, seed=0)
    so_far = np.cumsum(found.bytes[order])
    # The fewest documents that reach the share; the train part keeps one.
    taken = int(np.searchsorted(so_far, heldout * so_far[-1])) + 1
    taken = min(taken, count - 1)
    return Part(source, np.sort(order[taken:])), Part(source, np.sort(order[:taken]))


def _by_tail(source: Source, found: Survey, heldout: float) -> tuple[Part, Part]:
    ends = np.cumsum(found.characters)
    cut = int(ends[-1] * (1 - heldout))
    at = int(np.searchsorted(ends, cut))  # the document that the cut falls into, or ends
    within = cut - int(ends[at] - found.characters[at])
    train = Part(source, np.arange(at + 1), end=within)
    if within == found.characters[at]:
        return train, Part(source, np.arange(at + 1, len(ends)))
    return train, Part(source, np.arange(at, len(ends)), begin=within)
