"""From a source to batches: which example has global index g depends on (seed, g) alone."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from lm_research.data.permutation import permuted
from lm_research.data.source import Source
from lm_research.errors import UserError

Batch = dict[str, np.ndarray]

# Two threads make batches ahead: numpy leaves the interpreter to the other for much of the time.
THREADS = 2
AHEAD = 8  # at least so many
# Random numbers of held-out examples are no training example's.
_HELDOUT_SEED = 2**63


@dataclasses.dataclass(frozen=True)
class Plan:
    """Batches by index, made on demand.

    Attributes:
      source: records; one with `gather(indices, shifts)` gives many at once.
      objective: makes an example of a record, and of so many others as its `others` says; what its
        `ragged` names is cut to the longest record of a batch, where the source has `lengths`.
      seed: of order and of examples.
      size: examples per batch, in all parts.
      start: global index of the first example.
      shuffle: whether records come in random order, another in each epoch.
      share: which part of a batch's rows to make, and how many parts there are.
      grouped: batches that share out their examples by length, where the source has `lengths`.
    """

    source: Source
    objective: Any
    seed: int
    size: int
    start: int = 0
    shuffle: bool = True
    share: tuple[int, int] = (0, 1)
    grouped: int = 1

    def __post_init__(self):
        count = self.share[1]
        if self.size % count:
            raise UserError(
                f"the batch of {self.size} examples does not divide among {count} parts of the mesh"
            )
        if not len(self.source):
            raise UserError("the data source has no records")

    def indices(self, number: int) -> np.ndarray:
        """Global indices of batch `number`, int64 [size]."""
        first = self.start + number * self.size
        found = np.arange(first, first + self.size, dtype=np.int64)
        if self.grouped == 1 or ragged(self.source, self.objective) is None:
            return found
        windows, slots = np.divmod(found, self.grouped * self.size)
        return np.concatenate(
            [self._window(w)[slots[windows == w]] for w in np.unique(windows).tolist()]
        )

    @functools.cached_property
    def _window(self) -> Callable[[int], np.ndarray]:
        """`_regrouped`, of which each is asked for once for every batch that it has."""
        return functools.lru_cache(4)(self._regrouped)

    def _regrouped(self, number: int) -> np.ndarray:
        """The global indices of so many batches, those of like length together, in random order."""
        lengths = ragged(self.source, self.objective)
        size = self.grouped * self.size
        indices = number * size + np.arange(size)
        order = np.argsort(lengths[self._places(indices)[1]], kind="stable")
        batches = permuted(np.arange(self.grouped), self.grouped, self.seed, number)
        return indices[order].reshape(self.grouped, self.size)[batches].ravel()

    def _places(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The epochs of examples, and which records they are made of."""
        epochs, places = np.divmod(indices, len(self.source))
        if self.shuffle:
            places = permuted(places, len(self.source), self.seed, epochs)
        return epochs, places

    def batch(self, number: int) -> Batch:
        """The part's rows of batch `number`, stacked."""
        part, count = self.share
        rows = self.size // count
        whole = self.indices(number)
        indices = whole[part * rows : (part + 1) * rows]
        epochs, places = self._places(indices)
        shifts = self._shifts(epochs)
        found = records(self.source, places, shifts)
        made = stacked(
            self._example(record, place, index)
            for record, place, index in zip(found, places.tolist(), indices)
        )
        return self._shortened(made, whole)

    def _shortened(self, batch: Batch, whole: np.ndarray) -> Batch:
        """A batch without what is padding in every row, of all parts; a few lengths occur."""
        lengths = ragged(self.source, self.objective)
        if lengths is None:
            return batch
        T = padded_length(int(lengths[self._places(whole)[1]].max()), parts=4)
        return {k: v[..., :T] if k in self.objective.ragged else v for k, v in batch.items()}

    def _example(self, record: dict[str, Any], place: int, index: int) -> dict[str, Any]:
        """Of the record at `place`, and where the objective asks for `others`, of those, too."""
        rng, most = generator(self.seed, index), len(self.source)
        if (count := getattr(self.objective, "others", 0)) and most > 1:
            away = rng.integers(1, most, count).tolist()
            record = {**record, "others": [self.source[(place + i) % most] for i in away]}
        return self.objective.example(record, rng)

    def _shifts(self, epochs: np.ndarray) -> np.ndarray:
        """How far the epoch of each example moves its windows, so that texts are cut elsewhere."""
        if not self.shuffle or not epochs.any() or not hasattr(self.source, "gather"):
            return np.zeros_like(epochs)
        size = getattr(self.source, "length", 1)
        shifts = permuted(np.zeros_like(epochs), size, self.seed, epochs)
        return np.where(epochs > 0, shifts, 0)


class Batches:
    """An iterator of (indices int64 [size], batch), read ahead on threads; `close` ends them."""

    def __init__(self, plan: Plan, stop: int | None = None, at_once: int = 1):
        import grain

        ahead = max(AHEAD, 2 * at_once)
        options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=ahead)
        count = 2**62 if stop is None else max(0, (stop - plan.start) // plan.size)
        self._iterator = iter(
            grain.MapDataset.source(_Numbered(plan, count)).to_iter_dataset(options)
        )

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> tuple[np.ndarray, Batch]:
        return next(self._iterator)

    def close(self) -> None:
        """Stops reading ahead."""
        self._iterator.close()

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *error) -> None:
        self.close()


@dataclasses.dataclass(frozen=True)
class _Numbered:
    plan: Plan
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> tuple[np.ndarray, Batch]:
        return self.plan.indices(number), self.plan.batch(number)


def batches(
    source: Source,
    objective: Any,
    *,
    seed: int,
    size: int,
    start: int = 0,
    stop: int | None = None,
    shuffle: bool = True,
    share: tuple[int, int] = (0, 1),
    at_once: int = 1,
    grouped: int = 1,
) -> Batches:
    """Training batches, without end or up to global index `stop`; only whole ones.

    Example g is made of record permuted(g mod n) in epoch g div n, with random numbers of (seed,
    g). A source of windows is also moved along its text, by another length in each epoch after the
    first. Grouped, examples change places within so many batches; each stays what it was.

    Args:
      source, objective, seed, size, start, shuffle, share, grouped: see `Plan`.
      stop: global index to end at.
      at_once: how many batches are taken one after another, before the next are made.

    Raises:
      UserError: the size does not divide among the parts.
    """
    plan = Plan(source, objective, seed, size, start, shuffle, share, grouped)
    return Batches(plan, stop, at_once)


def heldout_batches(
    source: Source, objective: Any, size: int, share: tuple[int, int] = (0, 1)
) -> Iterator[Batch]:
    """Every record once, in order; the last batch is filled up with rows of weight 0.

    Raises:
      UserError: the size does not divide among the parts.
    """
    plan = Plan(source, objective, _HELDOUT_SEED, size, shuffle=False, share=share)
    part, count = share
    rows = size // count
    for number in range(-(-len(source) // size)):
        batch = plan.batch(number)  # goes on at the beginning, which fills it up
        mine = plan.indices(number)[part * rows : (part + 1) * rows]
        batch["weights"][mine >= len(source)] = 0
        yield batch


def generator(seed: int, index: int) -> np.random.Generator:
    """Random numbers of one example."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64)))


def records(source: Source, places: np.ndarray, shifts: np.ndarray) -> Iterator[dict[str, Any]]:
    """The records at `places`; at once where the source can do that."""
    if not hasattr(source, "gather"):
        yield from (source[int(place)] for place in places)
        return
    rows = source.gather(places, shifts)
    names = list(rows)
    yield from (dict(zip(names, values)) for values in zip(*rows.values()))


def ragged(source: Source, objective: Any) -> np.ndarray | None:
    """Tokens of each record, where the objective names arrays in which the others are padding."""
    return getattr(source, "lengths", None) if hasattr(objective, "ragged") else None


def padded_length(length: int, parts: int = 2) -> int:
    """The least of a few sizes that holds `length` tokens: 16, 24, 32, 48, 64, 96, 128, ...

    Args:
      length: tokens.
      parts: of what lies between two powers of two; more of them are more programs, and of what is
        read, less is padding.
    """
    power = 1 << (length - 1).bit_length()
    step = max(8, power // 2 // parts)
    return max(16, -(-length // step) * step)


def together(batches: Sequence[Batch]) -> Batch:
    """Batches [count, B, ...], all as long as the longest of them."""
    shape = {name: np.max([b[name].shape for b in batches], 0) for name in batches[0]}

    def filled(name: str, rows: np.ndarray) -> np.ndarray:
        more = shape[name] - rows.shape
        return np.pad(rows, [(0, n) for n in more]) if more.any() else rows

    return {name: np.stack([filled(name, b[name]) for b in batches]) for name in shape}


def stacked(examples: Iterator[dict[str, Any]]) -> Batch:
    """Examples as one batch."""
    examples = list(examples)
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}
