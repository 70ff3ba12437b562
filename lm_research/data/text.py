"""Text files as a source: plain text and JSON lines, compressed or not."""

import bisect
import csv
import dataclasses
import functools
import glob
import gzip
import hashlib
import io
import itertools
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from lm_research.data.python_docs import PythonDocs
from lm_research.data.source import Source, within
from lm_research.errors import UserError

SUFFIXES = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz")
_MARK = b"\xef\xbb\xbf"  # a byte order mark is no text


@dataclasses.dataclass(frozen=True)
class TextFiles:
    """Records {"text": str} of text files, in the order of their sorted paths.

    Attributes:
      paths: files, directories (searched to the bottom) and patterns such as `books/*.txt`; several
        as a tuple or with commas between.
      field: where a line of JSON has its text.
      separator: what stands between the documents of a .txt file; None makes each file one
        document.
    """

    paths: str | tuple[str, ...]
    field: str = "text"
    separator: str | None = None

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict[str, str]:
        index = within(index, len(self))
        number = bisect.bisect_right(self._ends, index)
        place = index - (self._ends[number - 1] if number else 0)
        path, (starts, stops) = self.files[number], self._spans[number]
        start, stop = int(starts[place]), int(stops[place])
        raw = self._read(number, start, stop)
        if b"\0" in raw:
            raise UserError(
                f"{path} is binary, not text: it has a zero byte at {start + raw.index(0)}"
            )
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path} is not UTF-8: byte {raw[error.start]:#04x} at offset "
                f"{start + error.start}; convert it to UTF-8"
            ) from None
        return {"text": self._text(text, path, place) if _lines(path) else text}

    @functools.cached_property
    def files(self) -> tuple[Path, ...]:
        """Every file, in order.

        Raises:
          UserError: a path is missing, or of a kind that is not read.
        """
        if not (names := file_names(self.paths)):
            raise UserError("no path of a text file was given (paths is empty)")
        return tuple(itertools.chain.from_iterable(_files(name) for name in names))

    def fingerprint(self) -> str:
        """Changes when a file does: of names, sizes and times of writing."""
        described = [self.field, self.separator, *stamps(self.files)]
        return hashlib.sha256(json.dumps(described).encode()).hexdigest()

    def __reduce__(self):
        return TextFiles, (self.paths, self.field, self.separator)

    @functools.cached_property
    def _spans(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Where documents start and stop, by file, in bytes of its uncompressed content."""
        return [self._documents(path) for path in self.files]

    @functools.cached_property
    def _ends(self) -> list[int]:
        return list(itertools.accumulate(len(starts) for starts, _ in self._spans))

    @functools.cached_property
    def _open_file(self) -> list[tuple[int, IO[bytes]]]:
        return []  # the file that was read last, its number first

    def _read(self, number: int, start: int, stop: int) -> bytes:
        """Bytes of a file; reading on in order never starts a compressed file again."""
        held = self._open_file
        if not held or held[0][0] != number:
            for _, file in held:
                file.close()
            held[:] = [(number, opened(self.files[number]))]
        file = held[0][1]
        file.seek(start)
        return file.read(stop - start)

    def _documents(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        try:
            with opened(path) as file:
                if _lines(path):
                    spans = _lines_of(file)
                else:
                    spans = _pieces(file, self.separator)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path} cannot be read: {error}") from None
        if not spans:
            raise UserError(f"{path} is empty")
        starts, stops = np.array(spans, np.int64).T
        return starts, stops

    def _text(self, line: str, path: Path, place: int) -> str:
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}:{self._line(path, place)} is not JSON: {error}") from None
        if not isinstance(record, dict):
            raise UserError(
                f"{path}:{self._line(path, place)} is no JSON object: {line.strip()[:60]}"
            )
        text = record.get(self.field)
        if not isinstance(text, str):
            what = "is not text" if self.field in record else "is missing"
            raise UserError(
                f"{path}:{self._line(path, place)}: the field {self.field!r} {what}; "
                f"it has {', '.join(map(repr, record)) or 'none'}"
            )
        return text

    def _line(self, path: Path, place: int) -> int:
        start = int(self._spans[self.files.index(path)][0][place])
        with opened(path) as file:
            return 1 + sum(chunk.count(b"\n") for chunk in _chunks(file, start))


def Documents(paths: str | tuple[str, ...] | None = None) -> Source:
    """The text files at `paths`, or the documentation that Python carries."""
    return PythonDocs() if paths is None else TextFiles(paths)


def file_names(paths: str | Sequence[str]) -> list[str]:
    """Names of files, which one text may hold with commas between."""
    given = paths.split(",") if isinstance(paths, str) else paths
    return [name.strip() for name in given if name.strip()]


def named_files(
    paths: str | Sequence[str], what: str, suffixes: tuple[str, ...] = (), otherwise: str = ""
) -> tuple[Path, ...]:
    """The files of `paths`, in order.

    Args:
      paths: see `file_names`.
      what: they hold, for messages.
      suffixes: of the names that are read, perhaps with .gz after them; none reads any.
      otherwise: what else is read, for messages.

    Raises:
      UserError: there is none, one is missing, or of a kind that is not read.
    """
    files = tuple(map(Path, file_names(paths)))
    if not files:
        raise UserError(f"no path of a file of {what} was given (paths is empty)")
    for file in files:
        if suffixes and not file.name.removesuffix(".gz").endswith(suffixes):
            takes = f"{', '.join(suffixes)}{otherwise}"
            raise UserError(f"{file} is no file of {what} by its name; it takes {takes}")
        if not file.is_file():
            raise UserError(f"there is no file {file}")
    return files


def stamps(files: Iterable[Path]) -> list[tuple[str, int, int]]:
    """What changes when a file does: its path, size and time of writing."""
    stats = ((str(file.resolve()), file.stat()) for file in files)
    return [(path, found.st_size, found.st_mtime_ns) for path, found in stats]


def _files(name: str) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file() and p.name.endswith(SUFFIXES))
        if not found:
            raise UserError(f"the directory {path} holds no text file ({', '.join(SUFFIXES)})")
        return found
    if path.is_file():
        found = [path]
    elif glob.has_magic(name):
        found = sorted(p for p in map(Path, glob.glob(name, recursive=True)) if p.is_file())
        if not found:
            raise UserError(f"no file matches {name}")
    else:
        raise UserError(f"there is no file {name}")
    for file in found:
        if not file.name.endswith(SUFFIXES):
            raise UserError(f"{file} is not of a kind that is read; it takes {', '.join(SUFFIXES)}")
    return found


def _lines(path: Path) -> bool:
    return path.name.endswith((".jsonl", ".jsonl.gz"))


def opened(path: Path) -> IO[bytes]:
    """A file that may be compressed."""
    return gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb")


def whole_text(path: Path) -> str:
    """All the text of a file that may be compressed.

    Raises:
      UserError: it is not UTF-8, or cannot be read.
    """
    try:
        with opened(path) as file:
            return file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def numbered_lines(text: str) -> list[tuple[int, str]]:
    """The lines of a text that are not blank, and their numbers, from 1 on.

    Not `splitlines`: a JSON string may hold the other characters that end lines.
    """
    return [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]


def csv_rows(file: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of CSV that are not blank, and the numbers of the lines that they end in.

    Raises:
      UserError: its quotes or ends of lines are none of CSV's; names file and line.
    """
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    begun = 1
    try:
        for row in rows:
            if row[1:] or "".join(row).strip():
                yield rows.line_num, row
            begun = rows.line_num + 1
    except csv.Error as error:
        lines = f"{begun}" if begun >= rows.line_num else f"{begun} to {rows.line_num}"
        raise UserError(
            f"{file}:{lines} is no row of a table: {error}; a quote begins and ends a cell, and "
            "within it is written twice"
        ) from None


def parsed(text: str, where: str) -> Any:
    """A text as JSON.

    Raises:
      UserError: it is none; says where.
    """
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where} is not JSON: {error}") from None
    if "\\ud" in text.lower():  # as half of a character beyond the first 65,536 is written
        check_unicode(json.dumps(found, ensure_ascii=False), where)
    return found


def check_unicode(text: str, where: str) -> None:
    """Refuses what no tokenizer reads: half of a surrogate pair.

    Raises:
      UserError: says where it is.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where} is not Unicode text: it has {text[error.start]!r}, half of a character"
        ) from None


def parsed_object(line: str, where: str) -> dict[str, Any]:
    """A line as an object of JSON.

    Raises:
      UserError: it is none; says where.
    """
    found = parsed(line, where)
    if not isinstance(found, dict):
        raise UserError(f"{where} is no JSON object: {line.strip()[:60]}")
    return found


def _lines_of(file: IO[bytes]) -> list[tuple[int, int]]:
    spans, start = [], 0
    for line in file:
        if line.strip() and line != _MARK:
            skipped = len(_MARK) if start == 0 and line.startswith(_MARK) else 0
            spans.append((start + skipped, start + len(line)))
        start += len(line)
    return spans


def _pieces(file: IO[bytes], separator: str | None) -> list[tuple[int, int]]:
    content = file.read()
    start = len(_MARK) if content.startswith(_MARK) else 0
    spans, mark = [], (separator or "").encode()
    while mark and (stop := content.find(mark, start)) >= 0:
        spans.append((start, stop))
        start = stop + len(mark)
    spans.append((start, len(content)))
    return [(start, stop) for start, stop in spans if content[start:stop].strip()]


def _chunks(file: IO[bytes], size: int):
    while size > 0 and (chunk := file.read(min(size, 2**20))):
        size -= len(chunk)
        yield chunk
