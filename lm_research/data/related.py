"""`Related`: texts that belong together, each as a token array of its own."""

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lm_research.data import tokenizer as tokenizers
from lm_research.data.labelled import LABELS, LabelledTexts, scores, write_labels
from lm_research.data.prepare import (
    Prepared,
    Preparing,
    check_parts,
    determined,
    held_out,
    prepared_facts,
    texts,
    where,
    with_others,
)
from lm_research.data.source import Source
from lm_research.data.texts import read_texts, write_texts
from lm_research.data.vocabulary import Trains
from lm_research.errors import UserError

NAMES = ("text", "pair", "negative")


@dataclasses.dataclass(frozen=True)
class Related(Preparing):
    """Texts that belong together, for `Contrast`.

    Attributes:
      source: records with a `text`, perhaps a `pair` that belongs to it, and then perhaps a
        `negative`, which does not. Where pairs have a `label`, it is a score of how alike they are.
      tokenizer: trained on the texts of the train part.
      heldout: the share of records to hold out, or a source of its own.
      shuffle: whether records come in random order.
      others: further sources to be judged by, under names of their own.
    """

    source: Source
    tokenizer: Trains
    heldout: float | Source = 0.05
    shuffle: bool = True
    others: Mapping[str, Source] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        check_parts(self.heldout, self.others)

    def prepared(self, directory: Path, length: int) -> Prepared:
        """What `prepare` left in a directory, whatever has become of the texts since.

        Raises:
          UserError: there is nothing, or it is damaged.
        """
        directory, facts = Path(directory), prepared_facts(directory)
        tokenizer = tokenizers.load(directory / "tokenizer")
        parts = {}
        for part, told in facts["parts"].items():
            found = read_texts(directory, part, tuple(told["texts"]), tokenizer.frame, length)
            facts[f"{part}_tokens"] = int(found.lengths.sum())  # before any is cut
            found.tell_cut(f"{part} records")
            labels = directory / LABELS.format(part) if told["scored"] else None
            parts[part] = LabelledTexts(found, labels)
        train, heldout = parts.pop("train"), parts.pop("heldout")
        return Prepared(train, heldout, tokenizer, facts, others=parts)

    def _asked(self) -> dict[str, Any]:
        """What the prepared data hangs on."""
        return determined(self.source, self.tokenizer, self.heldout, self.others)

    def _made(self, directory: Path) -> dict[str, Any]:
        """Writes tokenizer, shards and scores; what the run should say of them.

        Raises:
          UserError: a record lacks a text that the first of its part has; a score is no number.
        """
        parts = with_others(held_out(self.source, self.heldout), self.others)
        names = {part: _names(*given) for part, given in parts.items()}
        scored = {part: "label" in source[0] for part, (source, _) in parts.items()}
        for part in (part for part in parts if scored[part]):
            write_labels(directory, part, np.fromiter(scores(parts[part]), np.float32))
        train = itertools.chain(*(texts(parts["train"], name) for name in names["train"]))
        tokenizer = self.tokenizer.train(train)
        tokenizer.save(directory / "tokenizer")
        facts: dict[str, Any] = {"tokenizer": tokenizer.hash, "vocab": tokenizer.vocab}
        for part, given in parts.items():
            facts |= write_texts(directory, names[part], {part: given}, tokenizer)
        told = {part: {"texts": names[part], "scored": scored[part]} for part in parts}
        return {**facts, "parts": told, "content": facts["train_text_texts"]}


def _names(source: Source, places: np.ndarray) -> tuple[str, ...]:
    """Which texts the records of a part have.

    Raises:
      UserError: they have a negative or a score, and no pair that it could be of.
    """
    first = source[int(places[0])]
    if beside := [name for name in ("negative", "label") if name in first and "pair" not in first]:
        here = where(source, int(places[0]))
        raise UserError(f"{here} has a {beside[0]} and no pair; it takes a text and a pair")
    return tuple(name for name in NAMES if name in first)
