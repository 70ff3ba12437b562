"""Pairs of texts: from files with both or parallel ones to token arrays of limited length."""

import dataclasses
import functools
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lm_research import log
from lm_research.data import tokenizer as tokenizers
from lm_research.data.prepare import (
    Prepared,
    Preparing,
    check_heldout,
    determined,
    held_out,
    prepared_facts,
    texts,
)
from lm_research.data.rows import Rows
from lm_research.data.source import Source, print_of, within
from lm_research.data.text import file_names, parsed, stamps, whole_text
from lm_research.data.texts import read_texts, write_texts
from lm_research.data.vocabulary import Trains
from lm_research.errors import UserError

SIDES = ("source", "target")
ORIGINALS = "heldout.jsonl"


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Records {"source": str, "target": str}, held in memory once one is asked for.

    Where JSON has a list of several targets, the first of them is the `target`, and `targets` are
    all; a list as a source is one text, of its sentences.

    Attributes:
      paths: a .tsv file, whose lines are a source, a tab and a target; a .jsonl file, whose lines
        have both as fields; or two text files whose lines belong together. All may end in .gz.
      fields: of JSON.
    """

    paths: str | tuple[str, ...]
    fields: tuple[str, str] = SIDES

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        source, targets = self._records[within(index, len(self))]
        several = {"targets": targets} if len(targets) > 1 else {}
        return {"source": source, "target": targets[0], **several}

    @functools.cached_property
    def files(self) -> tuple[Path, ...]:
        """The one file, or both.

        Raises:
          UserError: there are others than one or two, or one is missing.
        """
        files = tuple(map(Path, file_names(self.paths)))
        both = len(files) == 1 and files[0].name.removesuffix(".gz").endswith((".tsv", ".jsonl"))
        if not both and len(files) != 2:
            raise UserError(
                f"pairs come from one .tsv or .jsonl file or from two text files, not from "
                f"{', '.join(map(str, files)) or 'none'}"
            )
        if missing := [str(file) for file in files if not file.is_file()]:
            raise UserError(f"there is no file {missing[0]}")
        return files

    def fingerprint(self) -> str:
        """Changes when a file does: of names, sizes and times of writing."""
        return json.dumps([self.fields, *stamps(self.files)])

    def __reduce__(self):
        return Pairs, (self.paths, self.fields)

    @functools.cached_property
    def _records(self) -> list[tuple[str, tuple[str, ...]]]:
        if len(self.files) == 1:
            file = self.files[0]
            records, half = [], []
            for number, line in enumerate(_lines(file), 1):
                if not line.strip():
                    continue
                source, given = self._both(f"{file}:{number}", line)
                if source.strip() and (full := tuple(text for text in given if text.strip())):
                    records.append((source, full))
                else:
                    half.append(number)
            _tell_half(half, str(file))
        else:
            one, other = (_lines(file) for file in self.files)
            if len(one) != len(other):
                raise UserError(
                    f"{self.files[0]} has {len(one)} lines and {self.files[1]} {len(other)}; "
                    "the lines of both belong together"
                )
            full = [[bool(text.strip()) for text in pair] for pair in zip(one, other)]
            half = [line for line, sides in enumerate(full, 1) if sum(sides) == 1]
            _tell_half(half, f"{self.files[0]} and {self.files[1]}")
            both = (pair for pair, sides in zip(zip(one, other), full) if all(sides))
            records = [(source, (target,)) for source, target in both]
        if not records:
            raise UserError(f"{self.files[0]} holds no pairs")
        return records

    def _both(self, where: str, line: str) -> tuple[str, tuple[str, ...]]:
        if not self.files[0].name.removesuffix(".gz").endswith(".jsonl"):
            pair = line.split("\t")
            if len(pair) != 2:
                raise UserError(f"{where} has {len(pair)} columns; it takes a source and a target")
            return pair[0], (pair[1],)
        record = parsed(line, where)
        source, target = (
            _texts(record.get(field)) if isinstance(record, dict) else () for field in self.fields
        )
        if not source or not target:
            raise UserError(f"{where} is {line[:60]}; it takes texts {' and '.join(self.fields)}")
        return " ".join(source), target


@dataclasses.dataclass(frozen=True)
class EachTarget:
    """Of records with several `targets`, a pair of each of them with its source.

    Attributes:
      source: records with a `source`, a `target` and perhaps `targets`.
    """

    source: Source

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict[str, str]:
        place, number = self._places[within(index, len(self))]
        record = self.source[place]
        return {"source": record["source"], "target": targets(record)[number]}

    def fingerprint(self) -> str | None:
        """That of the source."""
        return print_of(self.source)

    def __reduce__(self):
        return EachTarget, (self.source,)

    @functools.cached_property
    def _places(self) -> list[tuple[int, int]]:
        counts = (len(targets(self.source[i])) for i in range(len(self.source)))
        return [(i, number) for i, count in enumerate(counts) for number in range(count)]


@dataclasses.dataclass(frozen=True)
class Tagged:
    """Records whose source begins with a tag: what one model for several tasks is asked to do.

    Attributes:
      source: records with a `source`.
      tag: such as <2de>, for a translation into German; `BPE.tags` makes it one token.
    """

    source: Source
    tag: str

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.source[index]
        return {**record, "source": f"{self.tag} {record['source']}"}

    def fingerprint(self) -> str | None:
        """That of the source, and the tag."""
        found = print_of(self.source)
        return None if found is None else json.dumps([self.tag, found])


@dataclasses.dataclass(frozen=True)
class Originals:
    """Records {"source": str, "targets": [str, ...]} as data keeps those that it holds out.

    Attributes:
      path: a file of a JSON object per line.
    """

    path: Path

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._records[within(index, len(self))]

    def __reduce__(self):
        return Originals, (self.path,)

    @functools.cached_property
    def _records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in _lines(self.path)]

    @classmethod
    def written(cls, path: Path, records: Iterable[dict[str, Any]]) -> "Originals":
        """Records, kept in a file."""
        log.write_text(path, "".join(json.dumps(record) + "\n" for record in records))
        return cls(path)


def targets(record: dict[str, Any]) -> tuple[str, ...]:
    """All the targets of a record: its `targets`, or where it has none such, its `target`."""
    return tuple(record.get("targets") or (record["target"],))


@dataclasses.dataclass(frozen=True)
class Parallel(Preparing):
    """Pairs of texts as token arrays, for `Seq2Seq`.

    Attributes:
      source: records with texts `source` and `target`.
      tokenizer: trained on both sides of the train part; one for both.
      heldout: the share of pairs to hold out, or a source of its own.
      shuffle: whether pairs come in random order.
      packed: whether several pairs share a row, which sees none of the others; short pairs are
        learned from several times as fast, and a batch holds more of them.
    """

    source: Source
    tokenizer: Trains
    heldout: float | Source = 0.05
    shuffle: bool = True
    packed: bool = False

    def __post_init__(self):
        check_heldout(self.heldout)

    def prepared(self, directory: Path, length: int) -> Prepared:
        """What `prepare` left in a directory, whatever has become of the texts since.

        Raises:
          UserError: there is nothing, or it is damaged.
        """
        facts = prepared_facts(directory)
        tokenizer = tokenizers.load(Path(directory) / "tokenizer")
        parts = {}
        for part in ("train", "heldout"):
            parts[part] = read_texts(directory, part, SIDES, tokenizer.frame, length)
            facts[f"{part}_tokens"] = int(parts[part].lengths[1].sum())  # of targets, uncut
            parts[part].tell_cut(f"{part} pairs")
        originals = Path(directory) / ORIGINALS
        texts = Originals(originals) if originals.is_file() else None
        if self.packed:
            parts = {name: Rows(part, length) for name, part in parts.items()}
            facts["train_rows"] = len(parts["train"])
        return Prepared(parts["train"], parts["heldout"], tokenizer, facts, texts=texts)

    def _asked(self) -> dict[str, Any]:
        """What the prepared data hangs on."""
        return determined(self.source, self.tokenizer, self.heldout)

    def _made(self, directory: Path) -> dict[str, Any]:
        """Writes tokenizer and shards; what the run should say of them.

        Raises:
          UserError: the texts cannot be read, or are too few.
        """
        parts = held_out(self.source, self.heldout)
        sides = (texts(parts["train"], side) for side in SIDES)
        tokenizer = self.tokenizer.train(itertools.chain.from_iterable(sides))
        tokenizer.save(directory / "tokenizer")
        facts = write_texts(directory, SIDES, parts, tokenizer)
        source, places = parts["heldout"]
        records = (source[place] for place in places.tolist())
        kept = ({"source": r["source"], "targets": list(targets(r))} for r in records)
        Originals.written(directory / ORIGINALS, kept)
        named = {"tokenizer": tokenizer.hash, "vocab": tokenizer.vocab}
        return {**named, **facts, "content": facts["train_target_texts"]}


def _tell_half(lines: list[int], of: str) -> None:
    """Says which lines are left out, if any are."""
    if lines:
        why = f"one side is blank (the first is line {lines[0]})"
        log.fallback(f"{len(lines):,} lines of {of}", "the others", why)


def _texts(value: Any) -> tuple[str, ...]:
    """A text, or a list of them; nothing where it is neither."""
    found = tuple(value) if isinstance(value, list) else (value,)
    return found if all(isinstance(text, str) for text in found) else ()


def _lines(path: Path) -> list[str]:
    lines = [line.removesuffix("\r") for line in whole_text(path).split("\n")]
    return lines[:-1] if lines and not lines[-1] else lines
