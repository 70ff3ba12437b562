"""Questions about contexts, as windows of tokens with the places where answers begin and end."""

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lm_research import log
from lm_research.config import at_least
from lm_research.data import shards
from lm_research.data import tokenizer as tokenizers
from lm_research.data.frame import PairFrame
from lm_research.data.permutation import permuted
from lm_research.data.prepare import (
    Part,
    Prepared,
    Preparing,
    check_parts,
    check_running,
    determined,
    prepared_facts,
    where,
    with_others,
)
from lm_research.data.shards import Shards, replacing
from lm_research.data.source import Source, plain, within
from lm_research.data.squad import check_answer
from lm_research.data.texts import document, sizes
from lm_research.data.tokenizer import Tokenizer
from lm_research.data.vocabulary import Trains
from lm_research.errors import UserError

ASKED, READ, ANSWERS = "{}_question", "{}_context", "{}_answers"  # directories by part
CLASSES = ("start", "end")
NONE = -1  # the place of an answer that there is not


@dataclasses.dataclass(frozen=True)
class Windowing:
    """How a question and a part of its context make a sequence.

    Attributes:
      frame: what stands around and between them.
      length: tokens of a sequence at most.
      question: tokens of a question at most; longer ones lose what is too much, at their end.
      stride: tokens that a window begins after the one before it; fewer where a window is shorter.
    """

    frame: PairFrame
    length: int
    question: int
    stride: int

    def __post_init__(self):
        if self.length <= self.frame.size + self.question:
            raise UserError(
                f"objective.length is {self.length}, and questions of {self.question} tokens "
                f"(data.question) with {self.frame.size} special ones leave no room for contexts"
            )

    def room(self, question: np.ndarray) -> np.ndarray:
        """Tokens of a window of the context, beside questions of so many tokens."""
        return self.length - self.frame.size - np.minimum(question, self.question)

    def counts(self, question: np.ndarray, context: np.ndarray) -> np.ndarray:
        """How many windows texts of so many tokens make."""
        room = self.room(question)
        return 1 + -(-np.maximum(0, context - room) // np.minimum(self.stride, room))

    def window(
        self, question: np.ndarray, context: np.ndarray, number: int
    ) -> tuple[np.ndarray, np.ndarray, int, int]:
        """One window.

        Returns:
          its ids and types; the token of the context that it begins with; and that one's place.
        """
        question = question[: self.question]
        room = int(self.room(len(question)))
        first = number * min(self.stride, room)
        kept = context[first : first + room]
        ids, types = self.frame.joined(question, kept)
        return ids, types, first, len(ids) - len(self.frame.tokens[2]) - len(kept)


@dataclasses.dataclass(frozen=True)
class AnswerWindows:
    """Records {"text": ids, "types": of each, "start": place, "end": place}, one of each window.

    Where the window has not the whole of the answer, both places are 0.

    Attributes:
      questions: one document each.
      contexts: each once.
      directory: has which context a question is about, its answer's tokens and its texts.
      windowing: how both make sequences.
    """

    questions: Shards
    contexts: Shards
    directory: Path
    windowing: Windowing

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> dict[str, Any]:
        question, number = self.plan[within(index, len(self))].tolist()
        ids, types, first, place = self.window(question, number)
        start, end = (self.answers[question] - first + place).tolist()
        stop = len(ids) - len(self.windowing.frame.tokens[2])
        if self.answers[question, 0] == NONE or start < place or end >= stop:
            start = end = 0
        return {"text": ids, "types": types, "start": start, "end": end}

    def window(self, question: int, number: int) -> tuple[np.ndarray, np.ndarray, int, int]:
        """See `Windowing`."""
        asked = document(self.questions, question)
        context = document(self.contexts, int(self.context[question]))
        return self.windowing.window(asked, context, number)

    def spans(self, question: int) -> np.ndarray:
        """The characters that the tokens of a question's context begin and end at: [tokens, 2]."""
        number = int(self.context[question])
        begin = int(self._begins[number])
        return self._spans[begin : begin + int(self._sizes[1][number])]

    @functools.cached_property
    def plan(self) -> np.ndarray:
        """The question and the number of each window: int64 [windows, 2]."""
        asked, read = self._sizes
        counts = self.windowing.counts(asked, read[self.context])
        question = np.repeat(np.arange(len(counts)), counts)
        number = np.arange(len(question)) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.stack([question, number], 1)

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each record: int64 [windows]."""
        question, number = self.plan.T
        asked, read = self._sizes
        room = self.windowing.room(asked[question])
        first = number * np.minimum(self.windowing.stride, room)
        kept = np.minimum(room, read[self.context][question] - first)
        short = np.minimum(asked[question], self.windowing.question)
        return self.windowing.frame.size + short + kept

    @functools.cached_property
    def texts(self) -> dict[str, Any]:
        """`contexts`, and `questions` {"id", "question", "context": number, "answers": texts}."""
        return json.loads((self.directory / "texts.json").read_text("utf-8"))

    context = functools.cached_property(lambda self: np.load(self.directory / "context.npy"))
    answers = functools.cached_property(lambda self: np.load(self.directory / "answers.npy"))

    @functools.cached_property
    def _spans(self) -> np.ndarray:
        return np.load(self.directory / "spans.npy", mmap_mode="r")

    @functools.cached_property
    def _sizes(self) -> tuple[np.ndarray, np.ndarray]:
        return sizes(self.questions), sizes(self.contexts)

    @functools.cached_property
    def _begins(self) -> np.ndarray:
        return np.cumsum(self._sizes[1]) - self._sizes[1]

    def tell_cut(self, part: str) -> None:
        """Says how many questions lose something, if any do."""
        most = self.windowing.question
        if long := int((self._sizes[0] > most).sum()):
            asked = f"{long:,} of {len(self.context):,} {part} questions, longer than {most} tokens"
            log.fallback(asked, f"their first {most} tokens", "data.question is no more")

    def __reduce__(self):
        return AnswerWindows, (self.questions, self.contexts, self.directory, self.windowing)


@dataclasses.dataclass(frozen=True)
class Questions(Preparing):
    """Questions about contexts and their answers, for `Span`.

    A question and its context make a sequence as their tokenizer frames two texts; of a context
    that is too long, windows do, which overlap. Of several answers the first is learned.

    Attributes:
      source: records as `SQuAD` has them.
      tokenizer: trained on contexts and questions of the train part.
      heldout: the share of contexts to hold out, or a source of its own.
      question: tokens of a question at most.
      stride: tokens that a window begins after the one before it.
      shuffle: whether windows come in random order.
      others: further sources to be judged by, under names of their own.
      grouped: see `Labelled`.
    """

    source: Source
    tokenizer: Trains
    heldout: float | Source = 0.05
    question: int = 64
    stride: int = 128
    shuffle: bool = True
    others: Mapping[str, Source] = dataclasses.field(default_factory=dict)
    grouped: int = 1

    def __post_init__(self):
        check_parts(self.heldout, self.others)
        at_least(self, "data", 1, "question", "stride", "grouped")

    def prepared(self, directory: Path, length: int) -> Prepared:
        """What `prepare` left in a directory, whatever has become of the texts since.

        Raises:
          UserError: there is nothing, or it is damaged; or `length` leaves no room.
        """
        directory, facts = Path(directory), prepared_facts(directory)
        tokenizer = tokenizers.load(directory / "tokenizer")
        windowing = Windowing(tokenizer.pair_frame, length, self.question, self.stride)
        parts = {}
        for part in ("train", "heldout", *facts["others"]):
            both = [Shards(directory / name.format(part)) for name in (ASKED, READ)]
            for found in both:
                found.verify_cheaply()
            parts[part] = AnswerWindows(*both, directory / ANSWERS.format(part), windowing)
            facts[f"{part}_windows"] = len(parts[part])
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
          UserError: a question has no answer, and is not said to be impossible.
        """
        parts = with_others(_parts(self.source, self.heldout), self.others)
        for part in parts.values():
            _check(part)
        tokenizer = self.tokenizer.train(_running(parts["train"]))
        check_running(tokenizer)
        tokenizer.save(directory / "tokenizer")
        facts: dict[str, Any] = {}
        for name, part in parts.items():
            facts |= _written(directory, name, part, tokenizer)
        named = {"tokenizer": tokenizer.hash, "vocab": tokenizer.vocab}
        return {**named, **facts, "others": list(self.others), "content": facts["train_texts"]}


def _parts(source: Source, heldout: float | Source) -> dict[str, Part]:
    """The parts `train` and `heldout`: of a share, the same random contexts every time.

    Raises:
      UserError: there are too few contexts.
    """
    every = np.arange(len(source))
    if not isinstance(heldout, float | int):
        return {"train": (source, every), "heldout": (heldout, np.arange(len(heldout)))}
    numbers: dict[str, int] = {}
    context = [numbers.setdefault(source[i]["context"], len(numbers)) for i in every.tolist()]
    if (count := len(numbers)) < 2:
        raise UserError("the data source has one context; it takes two or more, to hold one out")
    taken = permuted(np.arange(count), count, seed=0)[: max(1, min(round(heldout * count), count))]
    out = np.isin(context, taken[: count - 1])
    return {"train": (source, every[~out]), "heldout": (source, every[out])}


def _check(part: Part) -> None:
    """Refuses a question that is neither answered nor said to be impossible.

    Raises:
      UserError: says which.
    """
    for here, record in _records(part):
        if not record["answers"] and not record["impossible"]:
            raise UserError(f"{here} has no answer, and is not said to be impossible")


def _records(part: Part) -> Iterator[tuple[str, dict[str, Any]]]:
    source, places = part
    for place in places.tolist():
        here = where(source, place)
        yield here, _record(source[place], here)


def _record(record: Mapping[str, Any], here: str) -> dict[str, Any]:
    """A record as `SQuAD` has it, from one of TFDS or the Hub.

    Their answers are {"text": texts, "answer_start": places}; where they do not say whether a
    question is impossible, one without answers is.

    Raises:
      UserError: an answer is not in its context; says which.
    """
    record = plain(record)
    given = record.get("answers") or ()
    unsaid = isinstance(given, Mapping)
    if unsaid:
        given = tuple(zip(given["text"], given["answer_start"]))
    for text, start in given:
        check_answer(text, start, record["context"], here)
    impossible = record.get("impossible", record.get("is_impossible", unsaid and not given))
    return {**record, "answers": given, "impossible": impossible}


def _running(part: Part) -> Iterator[str]:
    """Contexts, each once, and questions."""
    seen: set[str] = set()
    for _, record in _records(part):
        if record["context"] not in seen:
            seen.add(record["context"])
            yield record["context"]
        yield record["question"]


def _written(directory: Path, name: str, part: Part, tokenizer: Tokenizer) -> dict[str, Any]:
    """Writes a part; what a run should say of it."""
    numbers: dict[str, int] = {}
    records = list(_records(part))
    context = [numbers.setdefault(record["context"], len(numbers)) for _, record in records]
    encoded = tokenizer.encode_spans(list(numbers))
    answers = np.full((len(records), 2), NONE, np.int32)
    for i, (here, record) in enumerate(records):
        if record["answers"]:
            text, start = record["answers"][0]
            answers[i] = covering(encoded[context[i]][1], start, start + len(text))
            if answers[i, 0] > answers[i, 1]:
                raise UserError(f"{here} has the answer {text!r}, of which there are no tokens")
    asked = (record["question"] for _, record in records)
    shards.write(directory / ASKED.format(name), asked, tokenizer)
    pairs = ((text, ids) for text, (ids, _) in zip(numbers, encoded))
    written = shards.write_encoded(directory / READ.format(name), pairs, tokenizer)
    questions = [
        {
            "id": record.get("id", str(i)),
            "question": record["question"],
            "context": context[i],
            "answers": [text for text, _ in record["answers"]],
        }
        for i, (_, record) in enumerate(records)
    ]
    with replacing(directory / ANSWERS.format(name)) as temporary:
        np.save(temporary / "context.npy", np.array(context, np.int32))
        np.save(temporary / "answers.npy", answers)
        np.save(temporary / "spans.npy", np.concatenate([spans for _, spans in encoded]))
        told = {"contexts": list(numbers), "questions": questions}
        (temporary / "texts.json").write_text(json.dumps(told, ensure_ascii=False), "utf-8")
    return {
        f"{name}_questions": len(records),
        f"{name}_documents": len(numbers),
        f"{name}_bytes": written.index["bytes"],
        f"{name}_texts": written.index["texts"],
    }


def refuses(directory: Path) -> bool:
    """Whether the train part of the data that a directory holds has impossible questions."""
    path = Path(directory) / ANSWERS.format("train") / "answers.npy"
    return path.is_file() and bool((np.load(path) == NONE).any())


def covering(spans: np.ndarray, start: int, end: int) -> tuple[int, int]:
    """The first and the last of tokens [tokens, 2] that have any of the characters of a text."""
    first = int(np.searchsorted(spans[:, 1], start, "right"))
    return first, int(np.searchsorted(spans[:, 0], end, "left")) - 1
