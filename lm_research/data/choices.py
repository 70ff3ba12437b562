"""Questions with choices as token arrays: each choice and the question before it, framed as two."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lm_research import log
from lm_research.config import at_least
from lm_research.data import shards
from lm_research.data import tokenizer as tokenizers
from lm_research.data.frame import PairFrame
from lm_research.data.labelled import check_ids
from lm_research.data.multiple_choice import asked
from lm_research.data.prepare import (
    Part,
    Prepared,
    Preparing,
    check_parts,
    check_running,
    determined,
    held_out,
    prepared_facts,
    where,
    with_others,
)
from lm_research.data.shards import Shards, replacing
from lm_research.data.source import Source, within
from lm_research.data.texts import document, sizes
from lm_research.data.vocabulary import Trains
from lm_research.errors import UserError

QUESTION, CHOICE, ANSWERS = "{}_question", "{}_choice", "{}_answer"  # directories by part
CLASSES = ("choice",)  # what a model that scores choices by themselves tells


@dataclasses.dataclass(frozen=True)
class ChoiceTexts:
    """Records {"texts": N times ids, "types": of each, "label": number of the right one}.

    Questions of fewer choices than `most` end in texts of no tokens.

    Attributes:
      questions: one document each.
      choices: those of a question one after another.
      directory: has the right ones, and where each question's choices end.
      frame: what stands around and between a question and a choice.
      length: tokens of both at most; the longer one is cut at its end.
      most: N.
    """

    questions: Shards
    choices: Shards
    directory: Path
    frame: PairFrame
    length: int
    most: int

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        question = document(self.questions, within(index, len(self)))
        begin = int(self.ends[index - 1]) if index else 0
        texts, types = [], []
        for place in range(begin, int(self.ends[index])):
            choice = document(self.choices, place)
            first, second = self.frame.kept(len(question), len(choice), self.length)
            ids, kinds = self.frame.joined(question[:first], choice[:second])
            texts.append(ids)
            types.append(kinds)
        absent = [np.zeros(0, np.int32)] * (self.most - len(texts))
        return {"texts": texts + absent, "types": types + absent, "label": self.labels[index]}

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each record's longest text: int64 [records]."""
        starts = np.concatenate([[0], self.ends[:-1]])
        return np.minimum(np.maximum.reduceat(self._whole, starts), self.length)

    @functools.cached_property
    def _whole(self) -> np.ndarray:
        """Tokens of each choice with its question, before any is cut: int64 [choices]."""
        counts = np.diff(self.ends, prepend=0)
        return np.repeat(sizes(self.questions), counts) + sizes(self.choices) + self.frame.size

    labels = functools.cached_property(lambda self: np.load(self.directory / "labels.npy"))
    ends = functools.cached_property(lambda self: np.load(self.directory / "ends.npy"))

    def tell_cut(self, part: str) -> None:
        """Says how many choices lose something, if any do."""
        if long := int((self._whole > self.length).sum()):
            asked_for = f"{long:,} of {len(self._whole):,} {part} choices with their questions"
            got = f"{self.length} tokens, of which the longer text lost its end"
            log.fallback(asked_for, got, "objective.length is no more")

    def __reduce__(self):
        fields = (getattr(self, field.name) for field in dataclasses.fields(self))
        return ChoiceTexts, tuple(fields)


@dataclasses.dataclass(frozen=True)
class Choices(Preparing):
    """Questions of which one of several choices is right, for `Choose`.

    Attributes:
      source: records as `MultipleChoice` has them, or in another form that `asked` knows.
      tokenizer: trained on questions and choices of the train part.
      heldout: the share of questions to hold out, or a source of its own.
      shuffle: whether questions come in random order.
      others: further sources to be judged by, under names of their own.
      grouped: see `Labelled`.
    """

    source: Source
    tokenizer: Trains
    heldout: float | Source = 0.05
    shuffle: bool = True
    others: Mapping[str, Source] = dataclasses.field(default_factory=dict)
    grouped: int = 1

    def __post_init__(self):
        check_parts(self.heldout, self.others)
        at_least(self, "data", 1, "grouped")

    def prepared(self, directory: Path, length: int) -> Prepared:
        """What `prepare` left in a directory, whatever has become of the questions since.

        Raises:
          UserError: there is nothing, or it is damaged; or `length` leaves no room.
        """
        directory, facts = Path(directory), prepared_facts(directory)
        tokenizer = tokenizers.load(directory / "tokenizer")
        frame = tokenizer.pair_frame.roomy(length)
        parts = {}
        for part in ("train", "heldout", *facts["others"]):
            both = [Shards(directory / name.format(part)) for name in (QUESTION, CHOICE)]
            for found in both:
                found.verify_cheaply()
            answers = directory / ANSWERS.format(part)
            parts[part] = ChoiceTexts(*both, answers, frame, length, facts["most_choices"])
            facts[f"{part}_tokens"] = int(parts[part].lengths.sum())
            parts[part].tell_cut(part)
        train, heldout = parts.pop("train"), parts.pop("heldout")
        return Prepared(train, heldout, tokenizer, facts, CLASSES, others=parts)

    def _asked(self) -> dict[str, Any]:
        """What the prepared data hangs on."""
        return determined(self.source, self.tokenizer, self.heldout, self.others)

    def _made(self, directory: Path) -> dict[str, Any]:
        """Writes tokenizer, shards and answers; what the run should say of them.

        Raises:
          UserError: a question cannot be read, or has no answer; an id comes twice.
        """
        given = with_others(held_out(self.source, self.heldout), self.others)
        check_ids(given)
        parts = {name: list(_answered(part)) for name, part in given.items()}
        running = ([record["question"], *record["choices"]] for record in parts["train"])
        tokenizer = self.tokenizer.train(itertools.chain.from_iterable(running))
        check_running(tokenizer)
        tokenizer.save(directory / "tokenizer")
        facts: dict[str, Any] = {}
        for name, records in parts.items():
            counts = [len(record["choices"]) for record in records]
            both = {
                QUESTION: (record["question"] for record in records),
                CHOICE: (text for record in records for text in record["choices"]),
            }
            questions, choices = (
                shards.write(directory / what.format(name), texts, tokenizer)
                for what, texts in both.items()
            )
            with replacing(directory / ANSWERS.format(name)) as temporary:
                np.save(temporary / "labels.npy", np.int32([r["answer"] for r in records]))
                np.save(temporary / "ends.npy", np.cumsum(counts))
            told = {"documents": len(records), "choices": sum(counts)}
            told["bytes"] = questions.index["bytes"] + choices.index["bytes"]
            told["chance"] = float(np.mean(1 / np.array(counts)))
            told["texts"] = f"{questions.index['texts']} {choices.index['texts']}"
            facts |= {f"{name}_{key}": value for key, value in told.items()}
        most = max(len(record["choices"]) for records in parts.values() for record in records)
        named = {"tokenizer": tokenizer.hash, "vocab": tokenizer.vocab, "most_choices": most}
        told = {"others": list(self.others), "content": facts["train_texts"]}
        return {**named, **facts, **told}


def _answered(part: Part) -> Iterator[dict[str, Any]]:
    """The questions of a part.

    Raises:
      UserError: one has no answer; says which.
    """
    source, places = part
    for place in places.tolist():
        here = where(source, place)
        record = asked(source[place], here)
        if record["answer"] is None:
            raise UserError(f"{here} has no answer; training and evaluation take one")
        yield record
