"""Texts that belong to classes, as token arrays."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lm_research.data import tokenizer as tokenizers
from lm_research.data.prepare import (
    Part,
    Prepared,
    check_heldout,
    determined,
    held_out,
    prepare_once,
    prepared_facts,
    texts,
)
from lm_research.data.shards import replacing
from lm_research.data.source import Source
from lm_research.data.texts import TokenTexts, read_texts, write_texts
from lm_research.data.vocabulary import Trains
from lm_research.errors import UserError

NAMES = ("text",)
LABELS = "{}_labels"  # a directory by part


@dataclasses.dataclass(frozen=True)
class LabelledTexts:
    """Records {"text": ids, "label": number of a class}.

    Attributes:
      texts: the records without labels.
      directory: has their labels.
    """

    texts: TokenTexts
    directory: Path

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.texts[index], "label": self.labels[index]}

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """int32 [records]."""
        return np.load(self.directory / "labels.npy")

    def __reduce__(self):
        return LabelledTexts, (self.texts, self.directory)


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Texts and the class of each, for `Classify`.

    Attributes:
      source: records with a `text` and a `label`.
      tokenizer: trained on the texts of the train part.
      heldout: the share of records to hold out, or a source of its own.
      classes: names of the classes in their order; None is those of the train part, sorted.
      shuffle: whether records come in random order.
    """

    source: Source
    tokenizer: Trains
    heldout: float | Source = 0.05
    classes: tuple[str, ...] | None = None
    shuffle: bool = True

    def __post_init__(self):
        check_heldout(self.heldout)

    def prepare(self, directory: Path, length: int, kept: bool = False) -> Prepared:
        """Tokenizer, shards, labels and facts, made now or found as an earlier call left them.

        Args:
          directory: of this data alone.
          length: tokens of a text at most.
          kept: a run lives by what is there, which is never replaced.

        Raises:
          UserError: the texts cannot be read or are others than a run began with; a label is
            missing or, in the held-out part, that of no class.
        """
        directory = Path(directory)
        asked = lambda: {
            **determined(self.source, self.tokenizer, self.heldout),
            "classes": self.classes,
        }
        prepare_once(directory, kept, asked, lambda: self._made(directory))
        return self.prepared(directory, length)

    def prepared(self, directory: Path, length: int) -> Prepared:
        """What `prepare` left in a directory, whatever has become of the texts since.

        Raises:
          UserError: there is nothing, or it is damaged.
        """
        directory, facts = Path(directory), prepared_facts(directory)
        tokenizer = tokenizers.load(directory / "tokenizer")
        parts = {}
        for part in ("train", "heldout"):
            found = read_texts(directory, part, NAMES, tokenizer, length)
            facts[f"{part}_tokens"] = int(found.lengths.sum())  # before any is cut
            found.tell_cut(f"{part} texts")
            parts[part] = LabelledTexts(found, directory / LABELS.format(part))
        return Prepared(**parts, tokenizer=tokenizer, facts=facts, classes=tuple(facts["classes"]))

    def _made(self, directory: Path) -> dict[str, Any]:
        """Writes tokenizer, shards and labels; what the run should say of them."""
        parts = held_out(self.source, self.heldout)
        classes = self.classes or tuple(sorted(set(_labels(parts["train"]))))
        for part, given in parts.items():
            labels = np.fromiter(_numbers(given, classes), np.int32)
            with replacing(directory / LABELS.format(part)) as temporary:
                np.save(temporary / "labels.npy", labels)
        tokenizer = self.tokenizer.train(texts(parts["train"], "text"))
        tokenizer.save(directory / "tokenizer")
        facts = write_texts(directory, NAMES, parts, tokenizer)
        named = {"tokenizer": tokenizer.hash, "vocab": tokenizer.vocab, "classes": classes}
        return {**named, **facts, "content": facts["train_text_texts"]}


def _labels(part: Part) -> Iterator[str]:
    """The label of each record.

    Raises:
      UserError: a record has none; says which.
    """
    source, places = part
    for place in places.tolist():
        label = source[place].get("label")
        if label is None or label == "":
            raise UserError(f"{_where(source, place)} has no label; it takes a text and a label")
        yield str(label)


def _numbers(part: Part, classes: Sequence[str]) -> Iterator[int]:
    """The number of each record's class.

    Raises:
      UserError: a record has no label, or that of no class; says which.
    """
    number = {name: i for i, name in enumerate(classes)}
    source, places = part
    for place, label in zip(places.tolist(), _labels(part)):
        if label not in number:
            known = ", ".join(map(repr, classes[:10])) + (", ..." if len(classes) > 10 else "")
            raise UserError(
                f"{_where(source, place)} has the label {label!r}, of no class; they are {known}"
            )
        yield number[label]


def _where(source: Source, place: int) -> str:
    return source.where(place) if hasattr(source, "where") else f"record {place}"
