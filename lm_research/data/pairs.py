"""Pairs of texts: from files with both or parallel ones to token arrays of limited length."""

import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lm_research import log
from lm_research.data import shards
from lm_research.data import tokenizer as tokenizers
from lm_research.data.pack import PREPARED, Prepared, check_heldout, determined, preparation
from lm_research.data.permutation import permuted
from lm_research.data.shards import Shards
from lm_research.data.source import Source, within
from lm_research.data.text import opened
from lm_research.data.vocabulary import Trains
from lm_research.errors import UserError

SIDES = ("source", "target")


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Records {"source": str, "target": str}, held in memory once one is asked for.

    Attributes:
      paths: a .tsv file, whose lines are a source, a tab and a target; a .jsonl file, whose lines
        have both as fields; or two text files whose lines belong together. All may end in .gz.
      fields: of JSON.
    """

    paths: str | tuple[str, ...]
    fields: tuple[str, str] = SIDES

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, str]:
        return dict(zip(SIDES, self._records[within(index, len(self))]))

    @functools.cached_property
    def files(self) -> tuple[Path, ...]:
        """The one file, or both.

        Raises:
          UserError: there are others than one or two, or one is missing.
        """
        names = self.paths.split(",") if isinstance(self.paths, str) else self.paths
        files = tuple(Path(name.strip()) for name in names if name.strip())
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
        stats = [(str(file.resolve()), file.stat()) for file in self.files]
        return json.dumps([self.fields, *((p, s.st_size, s.st_mtime_ns) for p, s in stats)])

    def __reduce__(self):
        return Pairs, (self.paths, self.fields)

    @functools.cached_property
    def _records(self) -> list[tuple[str, str]]:
        if len(self.files) == 1:
            file = self.files[0]
            numbered = enumerate(_lines(file), 1)
            records = [self._both(f"{file}:{i}", line) for i, line in numbered if line.strip()]
        else:
            one, other = (_lines(file) for file in self.files)
            if len(one) != len(other):
                raise UserError(
                    f"{self.files[0]} has {len(one)} lines and {self.files[1]} {len(other)}; "
                    "the lines of both belong together"
                )
            records = [pair for pair in zip(one, other) if all(text.strip() for text in pair)]
        if not records:
            raise UserError(f"{self.files[0]} holds no pairs")
        return records

    def _both(self, where: str, line: str) -> tuple[str, str]:
        if not self.files[0].name.removesuffix(".gz").endswith(".jsonl"):
            pair = tuple(line.split("\t"))
            if len(pair) != 2:
                raise UserError(f"{where} has {len(pair)} columns; it takes a source and a target")
            return pair
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where} is not JSON: {error}") from None
        pair = tuple(
            record.get(field) if isinstance(record, dict) else None for field in self.fields
        )
        if not all(isinstance(text, str) for text in pair):
            raise UserError(f"{where} is {line[:60]}; it takes texts {' and '.join(self.fields)}")
        return pair


@dataclasses.dataclass(frozen=True)
class TokenPairs:
    """Records {"source": ids, "target": ids}, each framed as its tokenizer does, int32.

    Attributes:
      sides: documents of sources and of targets.
      frame: ids before and after every text.
      length: tokens of each side at most; longer texts lose what is too much, at their end.
    """

    sides: tuple[Shards, Shards]
    frame: tuple[np.ndarray, np.ndarray]
    length: int

    def __len__(self) -> int:
        return self.sides[0].index["documents"]

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        index = within(index, len(self))
        return {name: self._text(side, index) for name, side in zip(SIDES, self.sides)}

    def _text(self, side: Shards, index: int) -> np.ndarray:
        begin = side.offsets[index] + (side.eos is not None)
        last = index + 1 == len(self)
        end = side.index["tokens"] - (side.eos is not None) if last else side.offsets[index + 1]
        before, after = self.frame
        room = max(0, self.length - len(before) - len(after))
        return np.concatenate([before, side.tokens[begin : min(end, begin + room)], after])

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, before any is cut: int64 [2, pairs]."""
        framed = sum(map(len, self.frame))
        ends = ([*side.offsets[1:], side.index["tokens"]] for side in self.sides)
        gaps = [side.eos is not None for side in self.sides]
        ends = [np.array(end, np.int64) for end in ends]
        for end, gap in zip(ends, gaps):
            end[-1] -= gap
        pairs = zip(self.sides, ends, gaps)
        return np.stack([end - side.offsets - gap + framed for side, end, gap in pairs])


@dataclasses.dataclass(frozen=True)
class Parallel:
    """Pairs of texts as token arrays, for `Seq2Seq`.

    Attributes:
      source: records with texts `source` and `target`.
      tokenizer: trained on both sides of the train part; one for both.
      heldout: the share of pairs to hold out, or a source of its own.
      shuffle: whether pairs come in random order.
    """

    source: Source
    tokenizer: Trains
    heldout: float | Source = 0.05
    shuffle: bool = True

    def __post_init__(self):
        check_heldout(self.heldout)

    def prepare(self, directory: Path, length: int, kept: bool = False) -> Prepared:
        """Tokenizer, shards and facts, made now or found as an earlier call left them.

        Args:
          directory: of this data alone.
          length: tokens of a source and of a target at most.
          kept: a run lives by what is there, which is never replaced.

        Raises:
          UserError: the texts cannot be read, are too few, or are others than a run began with.
        """
        directory = Path(directory)
        with shards.locked(directory):
            path = directory / PREPARED
            stored = preparation(path)
            asked = self._asked(kept and bool(stored))
            # Sources that cannot say whether they changed are read again, but for a run's sake.
            known = asked is None or kept or asked["fingerprints"] is not None
            if not stored or not known or asked not in (None, stored["asked"]):
                if kept and stored:
                    raise UserError(
                        f"{directory} was prepared from other texts or another tokenizer; give a "
                        "new --workdir, or --config.resume=changed to go on with the new ones"
                    )
                facts = self._made(directory)
                log.write_text(path, json.dumps({"asked": asked, "facts": facts}, indent=2) + "\n")
        return self.prepared(directory, length)

    def prepared(self, directory: Path, length: int) -> Prepared:
        """What `prepare` left in a directory, whatever has become of the texts since.

        Raises:
          UserError: there is nothing, or it is damaged.
        """
        path = Path(directory) / PREPARED
        if not (stored := preparation(path)):
            raise UserError(f"{directory} holds no prepared data")
        facts = stored["facts"]
        tokenizer = tokenizers.load(path.parent / "tokenizer")
        parts = {}
        for part in ("train", "heldout"):
            sides = tuple(Shards(path.parent / f"{part}_{side}") for side in SIDES)
            for side in sides:
                side.verify_cheaply()
            parts[part] = TokenPairs(sides, tokenizer.frame, length)
            lengths = parts[part].lengths
            facts[f"{part}_tokens"] = int(lengths[1].sum())  # of targets, before any is cut
            if long := int((lengths > length).any(0).sum()):
                asked = (
                    f"{long:,} of {len(parts[part]):,} {part} pairs, longer than {length} tokens"
                )
                log.fallback(asked, f"their first {length} tokens", "objective.length is no more")
        return Prepared(parts["train"], parts["heldout"], tokenizer, facts)

    def _asked(self, optional: bool) -> dict[str, Any] | None:
        """What determines the prepared data; None where the texts are gone and may be."""
        try:
            return determined(self.source, self.tokenizer, self.heldout)
        except (UserError, OSError) as error:
            if not optional:
                raise
            log.fallback("a look at the texts of the run", "what was prepared of them", str(error))
            return None

    def _made(self, directory: Path) -> dict[str, Any]:
        """Writes tokenizer and shards; what the run should say of them."""
        train, heldout = self._parts()
        tokenizer = self.tokenizer.train(_texts(*train))
        tokenizer.save(directory / "tokenizer")
        facts = {"tokenizer": tokenizer.hash, "vocab": tokenizer.vocab}
        for part, (source, places) in (("train", train), ("heldout", heldout)):
            facts[f"{part}_documents"] = len(places)
            for side in SIDES:
                texts = (_text(source, int(place), side) for place in places)
                written = shards.write(directory / f"{part}_{side}", texts, tokenizer)
                facts[f"{part}_{side}_texts"] = written.index["texts"]
            facts[f"{part}_bytes"] = written.index["bytes"]  # of targets
        facts["content"] = facts["train_target_texts"]
        return facts

    def _parts(self) -> tuple[tuple[Source, np.ndarray], tuple[Source, np.ndarray]]:
        """The train part and the held-out part: a source and places in it."""
        count = len(self.source)
        if not isinstance(self.heldout, float | int):
            return (self.source, np.arange(count)), (self.heldout, np.arange(len(self.heldout)))
        if count < 2:
            raise UserError("the data source has one pair; it takes two or more, to hold one out")
        order = permuted(np.arange(count), count, seed=0)
        taken = min(max(1, round(self.heldout * count)), count - 1)
        return (self.source, np.sort(order[taken:])), (self.source, np.sort(order[:taken]))


def _texts(source: Source, places: np.ndarray) -> Iterator[str]:
    """All texts of both sides."""
    for place in places:
        for side in SIDES:
            yield _text(source, int(place), side)


def _text(source: Source, index: int, side: str) -> str:
    text = source[index].get(side)
    if not isinstance(text, str):
        raise UserError(f"record {index} of the data source has no text {side!r}; use Pairs")
    return text


def _lines(path: Path) -> list[str]:
    try:
        with opened(path) as file:
            text = file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error}") from None
    except (OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines and not lines[-1] else lines
