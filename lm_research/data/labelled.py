"""Texts, or pairs of them, that belong to classes or have scores, as token arrays."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lm_research.config import at_least
from lm_research.data import tokenizer as tokenizers
from lm_research.data.prepare import (
    Part,
    Prepared,
    Preparing,
    check_classes,
    check_parts,
    determined,
    held_out,
    listed,
    naming,
    prepared_facts,
    texts,
    where,
    with_others,
)
from lm_research.data.shards import replacing
from lm_research.data.source import Source
from lm_research.data.texts import PairTexts, TokenTexts, read_pairs, read_texts, write_texts
from lm_research.data.vocabulary import Trains
from lm_research.errors import UserError

NAMES, PAIR = ("text",), ("text", "pair")
LABELS = "{}_labels"  # a directory by part
SCORE = "score"  # the one class of data whose labels are numbers


@dataclasses.dataclass(frozen=True)
class LabelledTexts:
    """Records {"text": ids, "label": number of a class, or score}; of pairs also the `types`.

    Attributes:
      texts: the records without labels.
      directory: has their labels; None where they have none.
    """

    texts: TokenTexts | PairTexts
    directory: Path | None

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        label = {} if self.directory is None else {"label": self.labels[index]}
        return {**self.texts[index], **label}

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """int32 [records] of classes, or float32 [records] of scores."""
        return np.load(self.directory / "labels.npy")

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of the longest text of each record: int64 [records]."""
        return np.minimum(self.texts.lengths.max(0), self.texts.length)

    def __reduce__(self):
        return LabelledTexts, (self.texts, self.directory)


@dataclasses.dataclass(frozen=True)
class Labelled(Preparing):
    """Texts and the class or the score of each, for `Classify` and `Regress`.

    Attributes:
      source: records with a `text` and a `label`. Where they have a `pair` besides, it follows the
        text as their tokenizer frames two; where they have an `id`, no two have the same.
      tokenizer: trained on the texts of the train part.
      heldout: the share of records to hold out, or a source of its own.
      classes: names of the classes in their order; None is those of the train part, or where a
        share of it is held out, of both, sorted.
      shuffle: whether records come in random order.
      others: further sources to be judged by, under names of their own.
      numeric: whether labels are scores: numbers.
      grouped: batches that share out their texts by length, so that less of them is padding; 1
        leaves each batch as the shuffle makes it.
    """

    source: Source
    tokenizer: Trains
    heldout: float | Source = 0.05
    classes: tuple[str, ...] | None = None
    shuffle: bool = True
    others: Mapping[str, Source] = dataclasses.field(default_factory=dict)
    numeric: bool = False
    grouped: int = 1

    def __post_init__(self):
        check_parts(self.heldout, self.others)
        at_least(self, "data", 1, "grouped")
        check_classes(self.classes)
        if self.numeric and self.classes:
            raise UserError("data.numeric is True and data.classes is set; scores have no classes")

    def prepared(self, directory: Path, length: int) -> Prepared:
        """What `prepare` left in a directory, whatever has become of the texts since.

        Raises:
          UserError: there is nothing, or it is damaged.
        """
        directory, facts = Path(directory), prepared_facts(directory)
        tokenizer = tokenizers.load(directory / "tokenizer")
        if facts.get("pairs"):
            names, read, what, frame = PAIR, read_pairs, "pairs", tokenizer.added_to_pairs
        else:
            names, read, what, frame = NAMES, read_texts, "texts", tokenizer.added
        parts = {}
        for part in ("train", "heldout", *facts.get("others", ())):
            found = read(directory, part, names, frame, length)
            facts[f"{part}_tokens"] = int(found.lengths.sum())  # before any is cut
            found.tell_cut(f"{part} {what}")
            parts[part] = LabelledTexts(found, directory / LABELS.format(part))
        train, heldout = parts.pop("train"), parts.pop("heldout")
        classes = tuple(facts["classes"])
        return Prepared(train, heldout, tokenizer, facts, classes, others=parts)

    def _asked(self) -> dict[str, Any]:
        """What the prepared data hangs on."""
        found = determined(self.source, self.tokenizer, self.heldout, self.others)
        return {**found, "classes": self.classes, **({"numeric": True} if self.numeric else {})}

    def _made(self, directory: Path) -> dict[str, Any]:
        """Writes tokenizer, shards and labels; what the run should say of them.

        Raises:
          UserError: a label is missing, no number, or in a part to be judged by that of no class;
            an id comes twice.
        """
        parts = with_others(held_out(self.source, self.heldout), self.others)
        names = PAIR if _paired(parts) else NAMES
        check_ids(parts)
        if self.numeric:
            classes, dtype, numbered = (SCORE,), np.float32, scores
        else:
            named = (parts[part] for part in naming(self.heldout))
            seen = (_name(label) for part in named for _, label in _labels(part))
            classes = self.classes or tuple(sorted(set(seen)))
            dtype, numbered = np.int32, lambda part: _numbers(part, classes)
        for part, given in parts.items():
            write_labels(directory, part, np.fromiter(numbered(given), dtype))
        train = itertools.chain(*(texts(parts["train"], name) for name in names))
        tokenizer = self.tokenizer.train(train)
        tokenizer.save(directory / "tokenizer")
        facts = write_texts(directory, names, parts, tokenizer)
        named = {"tokenizer": tokenizer.hash, "vocab": tokenizer.vocab, "classes": classes}
        told = {"pairs": names == PAIR, "others": list(self.others)}
        return {**named, **told, **facts, "content": facts["train_text_texts"]}


def write_labels(directory: Path, part: str, labels: np.ndarray) -> None:
    """Keeps the labels of a part of the data, [records]."""
    with replacing(directory / LABELS.format(part)) as temporary:
        np.save(temporary / "labels.npy", labels)


def check_ids(parts: Mapping[str, Part]) -> None:
    """Refuses parts from a source of which two records have the same `id`, where they have one.

    Raises:
      UserError: says which.
    """
    for source in {id(source): source for source, _ in parts.values()}.values():
        if "id" in source[0]:
            check_distinct(source)


def check_distinct(source: Source, called: str = "id") -> None:
    """Refuses a source of which two records have the same `id`, whatever it is `called` there.

    Raises:
      UserError: says which.
    """
    seen: dict[Any, int] = {}
    for place in range(len(source)):
        own = source[place].get("id")
        if own is not None and (first := seen.setdefault(own, place)) != place:
            raise UserError(
                f"{where(source, place)} has the {called} {own!r} of {where(source, first)}"
            )


def _paired(parts: Mapping[str, Part]) -> bool:
    """Whether records are pairs.

    Raises:
      UserError: those of some parts are, and of others not.
    """
    found = {name: "pair" in source[0] for name, (source, _) in parts.items()}
    if len(set(found.values())) > 1:
        names = [", ".join(name for name in found if found[name] == own) for own in (True, False)]
        raise UserError(f"the records of {names[0]} are pairs, and those of {names[1]} are not")
    return found["train"]


def _labels(part: Part) -> Iterator[tuple[str, Any]]:
    """Where each record is from, and its label.

    Raises:
      UserError: a record has none, or one of another type than those before it; says which.
    """
    source, places = part
    first = None
    for place in places.tolist():
        label, here = source[place].get("label"), where(source, place)
        if label is None or label == "":
            raise UserError(f"{here} has no label; it takes a text and a label")
        if label != label:  # NaN
            raise UserError(f"{here} has the label {label!r}, which is no number and no class")
        kind = _kind(label)
        first = first or kind
        if kind != first:
            raise UserError(f"{here} has the label {label!r}, {kind}; those before it are {first}")
        yield here, label


def _kind(label: Any) -> str:
    if isinstance(label, bool | np.bool_):
        return "of true and false"
    return "of text" if isinstance(label, str) else "of numbers"


def _numbers(part: Part, classes: Sequence[str]) -> Iterator[int]:
    """The number of each record's class.

    Raises:
      UserError: a record has no label, or that of no class; says which.
    """
    number = {name: i for i, name in enumerate(classes)}
    for here, label in _labels(part):
        name = str(label) if str(label) in number else _name(label)
        if name not in number:
            raise UserError(
                f"{here} has the label {name!r}, of no class; they are {listed(classes)}"
            )
        yield number[name]


def _name(label: Any) -> str:
    """A label as the name of a class: 1.0 is 1, as a text would have it."""
    whole = isinstance(label, float | np.floating) and float(label).is_integer()
    return str(int(label)) if whole else str(label)


def scores(part: Part) -> Iterator[float]:
    """The score of each record.

    Raises:
      UserError: a record has none, or one that is no number; says which.
    """
    for here, label in _labels(part):
        try:
            score = float(label)
        except (TypeError, ValueError):
            score = math.nan
        if not math.isfinite(score):
            raise UserError(
                f"{here} has the label {label!r}, which is no number; scores are numbers"
            )
        yield score
