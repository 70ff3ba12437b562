"""`CoNLL`: sentences of labelled words, from CoNLL-U files and from files of columns."""

import dataclasses
import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from lm_research.config import known
from lm_research.data.source import within
from lm_research.data.text import named_files, stamps, whole_text
from lm_research.errors import UserError

SUFFIXES = (".conllu", ".conll", ".txt", ".tsv", ".iob", ".iob2", ".bio")
# The columns of CoNLL-U (https://universaldependencies.org/format.html), and those that must be.
COLUMNS = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
SPELLED = {"conllu": 1, "columns": 0}  # the column of the words, by form, where none is named
NEEDED = ("upos", "xpos", "deprel")
WORD, SKIPPED = re.compile(r"\d+"), re.compile(r"\d+-\d+|\d+\.\d+")
DOCUMENT = "-DOCSTART-"  # in the place of a word where a document of CoNLL-2003 begins

Row = tuple[int, list[str]]  # the number of a line, and its cells


@dataclasses.dataclass(frozen=True)
class CoNLL:
    """Records {"words": [...], "labels": [...]}, one of each sentence, held in memory.

    Of CoNLL-U, multiword tokens (1-2) and empty nodes (8.1) are left out: their words, or none,
    stand in lines of their own.

    Attributes:
      paths: .conllu files; and files of columns with spaces or tabs between (.conll, .txt, .tsv,
        .iob, .bio), an empty line after each sentence. All may end in .gz.
      column: of the labels: its name, such as upos or xpos, in CoNLL-U; or its number, from 0 on,
        or from -1, the last, back.
      words: the column of the words, likewise; None is `form`, or the first.
      form: which of both the files are, whatever they are called; None goes by their names.
      comment: what lines begin with that are left out; None is "#" in CoNLL-U, and else nothing,
        since it may be a word.
    """

    paths: str | tuple[str, ...]
    column: str | int = "upos"
    words: str | int | None = None
    form: Literal["conllu", "columns"] | None = None
    comment: str | None = None

    def __len__(self) -> int:
        return len(self._sentences)

    def __getitem__(self, index: int) -> dict[str, Any]:
        _, _, words, labels = self._sentences[within(index, len(self))]
        return {"words": words, "labels": labels}

    def where(self, index: int, word: int = 0) -> str:
        """The file and the line that a word of a sentence is from."""
        file, lines, *_ = self._sentences[index]
        return f"{file}:{lines[word]}"

    @functools.cached_property
    def files(self) -> tuple[Path, ...]:
        """Every file, in order.

        Raises:
          UserError: one is missing, or of a kind that is not read.
        """
        suffixes = () if self.form else SUFFIXES
        return named_files(self.paths, "labelled words", suffixes, ", or a source with its form")

    def fingerprint(self) -> str:
        """Changes when a file does: of names, sizes and times of writing."""
        return json.dumps([self.column, self.words, self.form, self.comment, *stamps(self.files)])

    def __reduce__(self):
        return CoNLL, (self.paths, self.column, self.words, self.form, self.comment)

    @functools.cached_property
    def _sentences(self) -> list[tuple[Path, list[int], list[str], list[str]]]:
        """Of each sentence its file, lines, words and labels."""
        found = []
        for file in self.files:
            form = form_of(file, self.form)
            read = _universal if form == "conllu" else _columns
            comment = "#" if form == "conllu" and self.comment is None else self.comment
            for rows in _blocks(file, comment):
                if rows := read(file, rows):
                    words = _cells(file, form, rows, SPELLED[form], self.words)
                    labels = _cells(file, form, rows, None, self.column)
                    found.append((file, [line for line, _ in rows], words, labels))
        if not found:
            raise UserError(f"{self.files[0]} holds no sentences")
        return found


def form_of(file: Path, given: str | None) -> str:
    """Which of both forms a file is: what is given, or else as its name says."""
    universal = file.name.removesuffix(".gz").endswith(".conllu")
    return given or ("conllu" if universal else "columns")


def _blocks(file: Path, comment: str | None) -> Iterator[list[Row]]:
    """The lines between empty ones, cut at tabs, or where there are none, at spaces."""
    rows: list[Row] = []
    # Not splitlines: a word may hold the other characters that end lines.
    for number, line in enumerate(whole_text(file).split("\n"), 1):
        line = line.removesuffix("\r")
        if not line.strip():
            if rows:
                yield rows
            rows = []
        elif comment is None or not line.startswith(comment):
            # At spaces alone: a word may hold others, such as one that breaks no line.
            spaced = [cell for cell in line.split(" ") if cell]
            rows.append((number, line.split("\t") if "\t" in line else spaced))
    if rows:
        yield rows


def _universal(file: Path, rows: list[Row]) -> list[Row]:
    """The words of a sentence of CoNLL-U.

    Raises:
      UserError: a line has not ten columns, or not the id that comes next.
    """
    found: list[Row] = []
    for line, cells in rows:
        if len(cells) != len(COLUMNS):
            raise UserError(f"{file}:{line} has {len(cells)} columns; CoNLL-U has {len(COLUMNS)}")
        if SKIPPED.fullmatch(cells[0]):
            continue
        if not WORD.fullmatch(cells[0]) or int(cells[0]) != len(found) + 1:
            raise UserError(
                f"{file}:{line} has the id {cells[0]!r}; the next word is {len(found) + 1}"
            )
        found.append((line, cells))
    return found


def _columns(file: Path, rows: list[Row]) -> list[Row]:
    """The words of a sentence in columns.

    Raises:
      UserError: its lines have not equally many.
    """
    rows = [(line, cells) for line, cells in rows if cells[0] != DOCUMENT]
    for line, cells in rows:
        if len(cells) != len(rows[0][1]):
            raise UserError(
                f"{file}:{line} has {len(cells)} columns, and line {rows[0][0]} of the same "
                f"sentence {len(rows[0][1])}"
            )
    return rows


def _cells(
    file: Path, form: str, rows: list[Row], default: int | None, column: str | int | None
) -> list[str]:
    """What a column has for each word.

    Raises:
      UserError: there is no such column, or nothing in it.
    """
    place = default if column is None else column
    if isinstance(place, str):
        if form != "conllu":
            raise UserError(
                f"column {place!r} is a name, and {file} has columns without names; give a number "
                "from 0 on, or -1 for the last"
            )
        known(place, COLUMNS, "column of CoNLL-U")
        place = COLUMNS.index(place)
    count = len(rows[0][1])
    if not -count <= place < count:
        raise UserError(f"{file}:{rows[0][0]} has {count} columns, and none has number {place}")
    found = [cells[place] for _, cells in rows]
    for (line, _), cell in zip(rows, found):
        missing = form == "conllu" and cell == "_" and COLUMNS[place] in NEEDED
        if missing or not cell.strip():
            name = COLUMNS[place] if form == "conllu" else f"entry in column {place}"
            raise UserError(f"{file}:{line} has no {name}")
    return found
