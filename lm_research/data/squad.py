"""`SQuAD`: questions about contexts, with answers that are parts of them, from SQuAD's JSON."""

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lm_research.data.source import ReadWhole
from lm_research.data.text import named_files, parsed, stamps, whole_text
from lm_research.errors import UserError

Place = tuple[Path, str]  # a file, and an id in it


@dataclasses.dataclass(frozen=True)
class SQuAD(ReadWhole):
    """Records of one question each, held in memory.

    They have an `id`, a `question`, a `context`, `answers` (each a text and the character of the
    context that it begins at), and whether it is `impossible` to answer. Of versions 1.1
    (Rajpurkar et al., 2016) and 2.0 (2018), and what is written like them.

    Attributes:
      paths: .json files, which may end in .gz; several as a tuple or with commas between.
    """

    paths: str | tuple[str, ...]

    def where(self, index: int) -> str:
        """The file that a question is from, and its id."""
        file, name = self._read[0][index]
        return f"{file}: the question {name!r}"

    @functools.cached_property
    def files(self) -> tuple[Path, ...]:
        """Every file, in order.

        Raises:
          UserError: one is missing.
        """
        return named_files(self.paths, "questions")

    def fingerprint(self) -> str:
        """Changes when a file does: of names, sizes and times of writing."""
        return json.dumps(stamps(self.files))

    @functools.cached_property
    def _read(self) -> tuple[list[Place], list[dict[str, Any]]]:
        """Where each record is from, and the records."""
        places: dict[str, Path] = {}
        records = []
        for file in self.files:
            for record in _records(file):
                if (name := record["id"]) in places:
                    raise UserError(f"{file} has the id {name!r} of a question of {places[name]}")
                places[name] = file
                records.append(record)
        if not records:
            raise UserError(f"{self.files[0]} holds no questions")
        return [(file, name) for name, file in places.items()], records


def _records(file: Path) -> Iterator[dict[str, Any]]:
    """The questions of a file.

    Raises:
      UserError: it is not as SQuAD's are; says where.
    """
    content = parsed(whole_text(file), str(file))
    for i, article in enumerate(_field(content, "data", list, str(file))):
        where = f"{file}: article {i}"
        for j, paragraph in enumerate(_field(article, "paragraphs", list, where)):
            where = f"{file}: article {i}, paragraph {j}"
            context = _field(paragraph, "context", str, where)
            for question in _field(paragraph, "qas", list, where):
                yield _record(file, question, context, where)


def _record(file: Path, given: Any, context: str, where: str) -> dict[str, Any]:
    name = _field(given, "id", str, where)
    where = f"{file}: the question {name!r}"
    question = _field(given, "question", str, where)
    if not question.strip():
        raise UserError(f"{where} is empty")
    answers = []
    for answer in _field(given, "answers", list, where) if given.get("answers") else ():
        text = _field(answer, "text", str, where)
        start = _field(answer, "answer_start", int, where)
        check_answer(text, start, context, where)
        answers.append((text, start))
    impossible = bool(given.get("is_impossible", False))
    if impossible and answers:
        raise UserError(f"{where} is impossible to answer, and has the answer {answers[0][0]!r}")
    told = {"question": question, "context": context, "answers": tuple(answers)}
    return {"id": name, **told, "impossible": impossible}


def check_answer(text: str, start: int, context: str, where: str) -> None:
    """Refuses an answer that is not in its context, at its place.

    Raises:
      UserError: says what is there.
    """
    if not text or start < 0 or context[start : start + len(text)] != text:
        found = context[max(0, start) : max(0, start) + len(text)]
        raise UserError(
            f"{where} has the answer {text!r} at {start}, where its context has {found!r}"
        )


def _field(section: Any, name: str, kind: type, where: str) -> Any:
    """What an object has under a name.

    Raises:
      UserError: it is no object, has none, or one of another type.
    """
    value = section.get(name) if isinstance(section, Mapping) else None
    if not isinstance(value, kind):
        what = {list: "list", str: "text", int: "number"}[kind]
        raise UserError(f"{where} has no {what} {name!r}; SQuAD's JSON has one there")
    return value
