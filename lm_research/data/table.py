"""`Table`: records from the rows of TSV, CSV and JSON lines files."""

import csv
import dataclasses
import functools
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from lm_research import log
from lm_research.data.source import ReadWhole
from lm_research.data.text import named_files, numbered_lines, parsed_object, stamps, whole_text
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
      short: what to do with a row that lacks columns: refuse the table, or leave out the row.
      unlabelled: what the label of a row says that has none and is left out, such as SNLI's "-".
      columns: what a record has, and the column that it is in: its name in the first row, or of
        JSON; or, where files have no such row, its number from 0 on.
    """

    paths: str | tuple[str, ...]
    columns: Mapping[str, str | int] = dataclasses.field(default_factory=lambda: dict(_COLUMNS))
    form: Literal["tsv", "csv", "jsonl", "txt"] | None = None
    short: Literal["refuse", "leave out"] = "refuse"
    unlabelled: str | None = None

    def __getitem__(self, index: int) -> dict[str, str]:
        return dict(zip(self.columns, super().__getitem__(index)))

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
    return _cells(file, text, columns, "," if form == "csv" else "\t", table.short)


def _cells(file: Path, text: str, columns: Mapping[str, str | int], comma: str, short: str):
    quoting = csv.QUOTE_MINIMAL if comma == "," else csv.QUOTE_NONE
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=comma, quoting=quoting)
    numbered = all(isinstance(column, int) for column in columns.values())
    places, left_out = list(columns.values()), []
    try:
        if not numbered:
            heads = next(rows, [])
            places = [_place(file, column, heads) for column in places]
        for row in rows:
            if not row:
                continue
            if len(row) > max(places):
                yield rows.line_num, tuple(row[place] for place in places)
            elif short == "refuse":
                raise UserError(
                    f"{file}:{rows.line_num} has {len(row)} columns; it takes {max(places) + 1}"
                )
            else:
                left_out.append(rows.line_num)
    except csv.Error as error:
        raise UserError(f"{file}:{rows.line_num} is no row of a table: {error}") from None
    if left_out:
        what = f"{len(left_out):,} rows of {file} (the first is line {left_out[0]})"
        log.fallback(what, "the others", f"they have fewer than {max(places) + 1} columns")


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
        # A label keeps its type, so that a column of several types is noticed.
        yield number, tuple(x if name == "label" else str(x) for name, x in zip(columns, found))


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
