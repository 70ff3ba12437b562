"""`Table`: records from the rows of TSV, CSV and JSON lines files."""

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from lm_research import log
from lm_research.data.source import ReadWhole
from lm_research.data.text import (
    csv_rows,
    named_files,
    numbered_lines,
    parsed_object,
    stamps,
    whole_text,
)
from lm_research.errors import UserError

SUFFIXES = (".tsv", ".csv", ".jsonl", ".txt")
MARK = "__label__"  # how fastText's files write a label
_COLUMNS = {"text": "text", "label": "label"}


@dataclasses.dataclass(frozen=True)
class Table(ReadWhole):
    """Records of texts, one of each row, held in memory once one is asked for.

    Attributes:
      paths: .tsv files, which know no quotes; .csv files, which do; .jsonl files of objects; and
        .txt files as fastText's are, `__label__CLASS TEXT` a line. All may end in .gz.
      form: which of those files are, whatever they are called; None goes by their names.
      short: what to do with a row that lacks columns, or has more than the first row names: refuse
        the table, or leave out the row.
      unlabelled: what the label of a row says that has none and is left out, such as SNLI's "-".
      columns: what a record has, and the column that it is in: its name in the first row, or of
        JSON; or, where files have no such row, its number from 0 on. Where columns have names, and
        a file one called `id`, records have it besides. Labels lose blanks around them.
    """

    paths: str | tuple[str, ...]
    columns: Mapping[str, str | int] = dataclasses.field(default_factory=lambda: dict(_COLUMNS))
    form: Literal["tsv", "csv", "jsonl", "txt"] | None = None
    short: Literal["refuse", "leave out"] = "refuse"
    unlabelled: str | None = None

    def __getitem__(self, index: int) -> dict[str, str]:
        return dict(zip((*self.columns, "id"), super().__getitem__(index)))

    @functools.cached_property
    def files(self) -> tuple[Path, ...]:
        """Every file, in order.

        Raises:
          UserError: one is missing, or of a kind that is not read.
        """
        return named_files(self.paths, "rows", () if self.form else SUFFIXES)

    def fingerprint(self) -> str:
        """Changes when a file does: of names, sizes and times of writing."""
        options = self.form, self.short, self.unlabelled
        asked = [x for x in options if x not in (None, "refuse")]
        return json.dumps([dict(self.columns), *asked, *stamps(self.files)], sort_keys=True)

    @functools.cached_property
    def _read(self) -> tuple[list[str], list[tuple[str, ...]]]:
        """Where each record is from, and its values."""
        places, records, left_out = [], [], 0
        label = list(self.columns).index("label") if "label" in self.columns else None
        for file in self.files:
            for line, record in _rows(file, self):
                if label is not None and record[label] == self.unlabelled:
                    left_out += 1
                    continue
                places.append(f"{file}:{line}")
                records.append(record)
        if left_out:
            what = f"{left_out:,} rows of {self.files[0]} with the label {self.unlabelled!r}"
            log.fallback(what, "the others", "they have no label")
        if not records:
            raise UserError(f"{self.files[0]} holds no records")
        return places, records


def _rows(file: Path, table: Table) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line numbers, and what the columns hold there."""
    text, name, columns = whole_text(file), file.name.removesuffix(".gz"), table.columns
    form = table.form or name.rpartition(".")[2]
    if form == "jsonl":
        return _objects(file, text, columns)
    if form == "txt":
        return _marked(file, text, columns)
    return _cells(file, text, columns, form, table.short)


def _cells(file: Path, text: str, columns: Mapping[str, str | int], form: str, short: str):
    rows = csv_rows(file, text) if form == "csv" else _tab_rows(text)
    numbered = all(isinstance(column, int) for column in columns.values())
    places, own, heads, left_out = list(columns.values()), None, None, []
    if not numbered:
        if (first := next(rows, None)) is None:
            raise UserError(f"{file} is empty; it takes a row that names the columns, and others")
        _, heads = first
        places = [_place(file, column, heads) for column in places]
        own = heads.index("id") if "id" in heads and "id" not in columns else None
    label = list(columns).index("label") if "label" in columns else None
    for line, row in rows:
        if flaw := _flaw(row, max(places), heads):
            if short == "refuse":
                raise UserError(f"{file}:{line} has {len(row)} columns; {flaw}")
            left_out.append(line)
            continue
        found = [row[place].strip() if i == label else row[place] for i, place in enumerate(places)]
        yield line, (*found, *_id(row[own] if own is not None and own < len(row) else None))
    if left_out:
        what = f"{len(left_out):,} rows of {file} (the first is line {left_out[0]})"
        log.fallback(what, "the others", "they have too few columns, or more than the first row")


def _flaw(row: list[str], last: int, heads: list[str] | None) -> str | None:
    """What is wrong with a row's number of columns; empty ones at its end are none."""
    if len(row) <= last:
        return f"it takes {last + 1}"
    if heads is not None and any(cell.strip() for cell in row[len(heads) :]):
        return f"the first row names {len(heads)}"
    return None


def _tab_rows(text: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in numbered_lines(text):
        yield number, line.removesuffix("\r").split("\t")


def _id(value: Any) -> tuple[str, ...]:
    """What stands after a record's columns: its id, where it has one."""
    found = str(value).strip() if isinstance(value, str | int | float) else ""
    return (found,) if found else ()


def _place(file: Path, column: str | int, heads: list[str]) -> int:
    if isinstance(column, int):
        return column
    if column not in heads:
        raise UserError(f"{file} has no column {column!r}; it has {', '.join(map(repr, heads))}")
    return heads.index(column)


def _objects(file: Path, text: str, columns: Mapping[str, str | int]):
    for number, line in numbered_lines(text):
        record = parsed_object(line, f"{file}:{number}")
        found = [record.get(column) for column in columns.values()]
        for column, value in zip(columns.values(), found):
            if not isinstance(value, str | int | float):
                has = ", ".join(map(repr, record)) or "nothing"
                what = "is no text" if column in record else "is missing"
                raise UserError(f"{file}:{number}: the field {column!r} {what}; it has {has}")
        values = (_label(x) if name == "label" else str(x) for name, x in zip(columns, found))
        yield number, (*values, *_id(None if "id" in columns else record.get("id")))


def _label(value: str | int | float) -> str | int | float:
    """It keeps its type, so that a column of several types is noticed."""
    return value.strip() if isinstance(value, str) else value


def _marked(file: Path, text: str, columns: Mapping[str, str | int]):
    for number, line in numbered_lines(text):
        label, _, rest = line.strip().partition(" ")
        if not label.startswith(MARK) or rest.startswith(MARK):
            raise UserError(
                f"{file}:{number} is {line[:60]!r}; it takes one {MARK}CLASS and a text"
            )
        found = {"label": label.removeprefix(MARK), "text": rest}
        if lacking := [name for name in columns if name not in found]:
            raise UserError(f"{file} has label and text alone, and no {lacking[0]!r}")
        yield number, tuple(found[name] for name in columns)
