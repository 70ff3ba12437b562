"""`MultipleChoice`: questions with choices, from ARC's files, PIQA's, or one's own."""

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lm_research import log
from lm_research.data.source import ReadWhole, plain
from lm_research.data.text import (
    csv_rows,
    named_files,
    numbered_lines,
    parsed_object,
    stamps,
    whole_text,
)
from lm_research.errors import UserError

SUFFIXES = (".csv", ".jsonl")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
WITHOUT = "; flawed='leave out' does without such rows (the knob flawed=true, evaluate --flawed)"
TAKES = (
    '{"question": ..., "choices": [...], "answer": number from 0 on, letter or text}, ARC\'s '
    '{"question": ..., "choices": {"text": [...], "label": [...]}, "answerKey": ...}, or PIQA\'s '
    '{"goal": ..., "sol1": ..., "sol2": ..., "label": 0 or 1}'
)


@dataclasses.dataclass(frozen=True)
class MultipleChoice(ReadWhole):
    """Records of one question each, as `asked` gives them, held in memory once one is asked for.

    Attributes:
      paths: .jsonl files of objects, each in one of the forms that `asked` knows; where PIQA's have
        no labels, they are in the file NAME-labels.lst beside NAME.jsonl, if it is there. Or .csv
        files without a first row of names: a question, its choices and the letter of the answer, or
        its number from 1 on; empty cells after the last choice are none. All may end in .gz.
      flawed: what to do with a row that is no question with two choices or more and a right answer
        among them: refuse the file, or leave out the row.
    """

    paths: str | tuple[str, ...]
    flawed: Literal["refuse", "leave out"] = "refuse"

    @functools.cached_property
    def files(self) -> tuple[Path, ...]:
        """Every file, in order.

        Raises:
          UserError: one is missing, or of a kind that is not read.
        """
        return named_files(self.paths, "questions with choices", SUFFIXES)

    def fingerprint(self) -> str:
        """Changes when a file does: of names, sizes and times of writing."""
        labels = [path for file in self.files if (path := _labels_of(file)).is_file()]
        return json.dumps([self.flawed, *stamps((*self.files, *labels))])

    @functools.cached_property
    def _read(self) -> tuple[list[str], list[dict[str, Any]]]:
        """Where each record is from, and the records."""
        places, records, left_out = [], [], []
        for file in self.files:
            for line, given in _rows(file):
                here = f"{file}:{line}"
                try:
                    records.append(asked(given, here))
                    places.append(here)
                except UserError as error:
                    if self.flawed == "refuse":
                        raise UserError(f"{error}{WITHOUT}") from None
                    left_out.append(str(error))
        if left_out:
            asked_for = f"{len(left_out) + len(records):,} questions of {self.files[0]}"
            log.fallback(asked_for, f"{len(records):,} of them", f"the first flaw: {left_out[0]}")
        if not records:
            raise UserError(f"{self.files[0]} holds no questions")
        return places, records


def asked(record: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A question as {"question": text, "choices": texts, "answer": number from 0 on, or None}.

    It keeps an `id` that the record has.

    Args:
      record: in one of the forms of `TAKES`, of JSON or of TFDS, whose texts may be bytes; ARC's
        also nested, as it is published: {"question": {"stem", "choices": [{"text", "label"}]}}.
        An answer that is a text is that of a choice, or else a choice's letter; an empty one is
        none.
      where: what to call it in messages.

    Raises:
      UserError: it is in none of them, a text is empty, there are fewer than two choices, or the
        answer is none of them.
    """
    record = plain(record)
    question, choices, labels, answer = _parts(record, where)
    answer = None if answer == "" else answer
    texts = [question, *choices] if isinstance(choices, list) else [None]
    if not all(isinstance(text, str) for text in texts):
        raise UserError(f"{where} is no question with choices; it takes {TAKES}")
    if not question.strip():
        raise UserError(f"{where} has an empty question")
    if len(choices) < 2:
        raise UserError(f"{where} has {len(choices)} choices; it takes two or more")
    if empty := [i for i, text in enumerate(choices) if not text.strip()]:
        raise UserError(f"{where} has an empty choice, number {empty[0]}")
    number = _number(answer, choices, labels)
    if answer is not None and number is None:
        told = ", ".join(map(str, labels if labels is not None else range(len(choices))))
        raise UserError(f"{where} has the answer {answer!r}, which is no choice; they are {told}")
    found = {"question": question, "choices": tuple(choices), "answer": number}
    return {**found, "id": record["id"]} if isinstance(record.get("id"), str | int) else found


def _parts(record: Mapping[str, Any], where: str) -> tuple[Any, Any, list | None, Any]:
    """A question, its choices, what labels they have, if any, and the answer."""
    if {"goal", "sol1", "sol2"} <= set(record):
        answer = record.get("label")
        answer = None if answer == -1 else answer  # of a test set
        return record["goal"], [record["sol1"], record["sol2"]], None, answer
    question, choices = record.get("question"), record.get("choices")
    if isinstance(question, Mapping):
        question, choices = question.get("stem"), question.get("choices")
    if isinstance(choices, list) and all(isinstance(one, Mapping) for one in choices):
        choices = {name: [one.get(name) for one in choices] for name in ("text", "label")}
    if not isinstance(choices, Mapping):
        return question, choices, None, record.get("answer")
    texts, labels = choices.get("text"), choices.get("label")
    if not isinstance(texts, list) or not isinstance(labels, list):
        raise UserError(f"{where} is no question with choices; it takes {TAKES}")
    if len(texts) != len(labels):
        raise UserError(f"{where} has {len(texts)} choices and {len(labels)} labels of them")
    return question, texts, labels, record.get("answerKey", record.get("answer"))


def _number(answer: Any, choices: Sequence[str], labels: list | None) -> int | None:
    """Which choice is the answer; None where none is."""
    if answer is None:
        return None
    if labels is not None:
        named, key = [str(label) for label in labels], str(answer).strip()
        return named.index(key) if named.count(key) == 1 else None
    if isinstance(answer, str):
        if choices.count(answer) == 1:
            return choices.index(answer)
        if answer.isdecimal():
            answer = int(answer)
        else:
            answer = LETTERS.find(answer) if len(answer) == 1 else -1
    inside = type(answer) is int and 0 <= answer < len(choices)
    return answer if inside else None


def _rows(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Line numbers, and what stands there."""
    text = whole_text(file)
    rows = _cells if file.name.removesuffix(".gz").endswith(".csv") else _objects
    return rows(file, text)


def _cells(file: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line, row in csv_rows(file, text):
        question, *choices = row[:-1] or [""]
        while choices and not choices[-1].strip():
            choices.pop()
        numbered = row[-1].strip().isdecimal()
        labels = range(1, len(choices) + 1) if numbered else LETTERS[: len(choices)]
        told = {"text": choices, "label": list(labels)}
        yield line, {"question": question, "choices": told, "answerKey": row[-1]}


def _objects(file: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    numbered = numbered_lines(text)
    path = _labels_of(file)
    labels = whole_text(path).split() if path.is_file() else None
    if labels is not None and len(labels) != len(numbered):
        raise UserError(f"{path} has {len(labels)} labels for {len(numbered)} lines of {file}")
    for place, (number, line) in enumerate(numbered):
        record = parsed_object(line, f"{file}:{number}")
        if labels is not None and "label" not in record:
            label = labels[place]
            record["label"] = int(label) if label.lstrip("-").isdecimal() else label
        yield number, record


def _labels_of(file: Path) -> Path:
    """Where PIQA's labels of a file are, if they are not in it."""
    return file.with_name(f"{file.name.removesuffix('.gz').removesuffix('.jsonl')}-labels.lst")
