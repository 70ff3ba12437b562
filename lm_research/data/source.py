"""Sources of records: random access by index, picklable, opened lazily."""

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Protocol, runtime_checkable

import numpy as np

from lm_research.errors import UserError

# Mix keeps one period of its interleaving, of at most so many records.
PERIOD = 2**16


@runtime_checkable
class Source(Protocol):
    """`len(source)` records; `source[i]` is one of them, a dict, always the same."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class Memory:
    """Records that are there already."""

    records: Sequence[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.records[within(index, len(self))]


class ReadWhole:
    """A source whose files are read once a record is asked for, and then held in memory.

    A frozen dataclass that says in `_read` where each record is from, and the records. To another
    process go its fields alone, which reads the files for itself.
    """

    _read: tuple[list[Any], list[Any]]

    def __len__(self) -> int:
        return len(self._read[1])

    def __getitem__(self, index: int) -> Any:
        return self._read[1][within(index, len(self))]

    def where(self, index: int) -> str:
        """The file and the line, or the row, that a record is from."""
        return self._read[0][index]

    def __reduce__(self):
        return type(self), tuple(getattr(self, field.name) for field in dataclasses.fields(self))


@dataclasses.dataclass(frozen=True)
class Slice:
    """Records `start` to `stop` of a source, as Python slices: negative counts from the end."""

    source: Source
    start: int = 0
    stop: int | None = None

    @functools.cached_property
    def _range(self) -> range:
        return range(*slice(self.start, self.stop).indices(len(self.source)))

    def __len__(self) -> int:
        return len(self._range)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.source[self._range[within(index, len(self))]]

    def fingerprint(self) -> str | None:
        """That of the source, and the part."""
        found = print_of(self.source)
        return None if found is None else json.dumps([self.start, self.stop, found])


@dataclasses.dataclass(frozen=True)
class Mix:
    """Sources interleaved by weight; which record index `i` is depends on `i` alone.

    The first n records hold n * weight of each source, to less than one record, for every n. It
    ends when every record of every source has come; smaller sources start again until then.

    Attributes:
      sources: what to mix.
      weights: shares of the records, in any unit; beyond 65,536ths of the whole they are rounded.
    """

    sources: tuple[Source, ...]
    weights: tuple[float, ...]

    def __post_init__(self):
        if not self.sources or len(self.sources) != len(self.weights):
            raise UserError(
                f"Mix has {len(self.sources)} sources and {len(self.weights)} weights; "
                "it takes one weight for each source"
            )
        for weight in self.weights:
            if not (weight > 0 and math.isfinite(weight)):
                raise UserError(f"Mix has the weight {weight}; it takes positive numbers")

    @functools.cached_property
    def _schedule(self) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Source [period] and count within the period [period] of each record, and totals."""
        totals = _totals(self.weights)
        source = interleaving(totals)
        rank = np.zeros(len(source), np.int64)
        for number, total in enumerate(totals):
            rank[source == number] = np.arange(total)
        return source, rank, totals

    @functools.cached_property
    def _length(self) -> int:
        _, _, totals = self._schedule
        period = sum(totals)
        return max(-(-len(s) * period // total) for s, total in zip(self.sources, totals))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        source, rank, totals = self._schedule
        turn, place = divmod(within(index, len(self)), len(source))
        number = int(source[place])
        chosen = self.sources[number]
        return chosen[(turn * totals[number] + int(rank[place])) % len(chosen)]

    def fingerprint(self) -> str | None:
        """Those of the sources, and the weights."""
        prints = [print_of(source) for source in self.sources]
        return None if None in prints else json.dumps([self.weights, prints])


def print_of(source: Source) -> str | None:
    """A source's fingerprint; None where it cannot say whether it changed."""
    return getattr(source, "fingerprint", lambda: None)()


def plain(value: Any) -> Any:
    """What TFDS has in records as JSON would have it: bytes as texts, arrays as lists."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


def within(index: int, length: int) -> int:
    """`index`, if it is one of `length`.

    Raises:
      IndexError: it is not, which also ends a loop over a source.
    """
    if not 0 <= index < length:
        raise IndexError(f"record {index} of {length}")
    return int(index)


def interleaving(totals: Sequence[int]) -> np.ndarray:
    """An order in which source k comes `totals[k]` times, evenly to less than one at every prefix.

    Record x of a source with share w may come from place floor(x / w) on and must have come by
    ceil((x + 1) / w); of those that may, the one that must first is taken (Tijdeman, 1980, the
    chairman assignment problem).
    """
    period = sum(totals)
    used = [0] * len(totals)
    order = np.zeros(period, np.int32)
    for place in range(period):
        ready = [
            (-(-(used[k] + 1) * period // total), k)
            for k, total in enumerate(totals)
            if used[k] < total and used[k] * period // total <= place
        ]
        _, chosen = min(ready)
        order[place] = chosen
        used[chosen] += 1
    return order


def _totals(weights: Sequence[float]) -> list[int]:
    shares = [Fraction(str(weight)) for weight in weights]
    shares = [share / sum(shares) for share in shares]
    period = math.lcm(*(share.denominator for share in shares))
    if period > PERIOD:
        totals = [max(1, round(share * PERIOD)) for share in shares]
        return [total // math.gcd(*totals) for total in totals]
    return [int(share * period) for share in shares]
