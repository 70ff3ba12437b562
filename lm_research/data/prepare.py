"""What preparing data has in common: made once, found again, and never replaced under a run."""

import dataclasses
import filecmp
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lm_research import log
from lm_research.config import known
from lm_research.data import shards
from lm_research.data.bag import Bag
from lm_research.data.permutation import permuted
from lm_research.data.source import Source, print_of
from lm_research.data.text import check_unicode
from lm_research.data.tokenizer import Tokenizer
from lm_research.data.vocabulary import Pretrained, Trains
from lm_research.errors import UserError

PREPARED = "prepared.json"
Part = tuple[Source, np.ndarray]  # a source, and places in it


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Data, ready to be read by index.

    Attributes:
      train: windows to learn from.
      heldout: windows to be judged by.
      tokenizer: what the ids mean.
      facts: what the run should say of its data; `..._tokens` are those that one pass predicts.
      classes: names of the classes that records belong to, by number; none of plain text.
      texts: what was held out as it was written, records {"source": str, "targets": [str, ...]};
        None where the data has no targets.
      others: further windows to be judged by, under names of their own.
    """

    train: Source
    heldout: Source
    tokenizer: Tokenizer
    facts: dict[str, Any]
    classes: tuple[str, ...] = ()
    texts: Source | None = None
    others: Mapping[str, Source] = dataclasses.field(default_factory=dict)

    def part(self, name: str) -> Source:
        """What is to be judged by, under its name.

        Raises:
          UserError: there is no such part.
        """
        parts = {"heldout": self.heldout, **self.others}
        known(name, parts, "part of the data")
        return parts[name]


def check_parts(heldout: float | Source, others: Mapping[str, Source]) -> None:
    """`check_heldout`; and refuses other parts under names that are taken.

    Raises:
      UserError: names it.
    """
    check_heldout(heldout)
    if taken := {"train", "heldout"} & set(others):
        raise UserError(f"data.others has a {min(taken)!r}; give it another name")


def check_heldout(heldout: float | Source) -> None:
    """Refuses a share that holds out nothing or everything.

    Raises:
      UserError: names it.
    """
    if isinstance(heldout, float | int) and not 0 < heldout < 1:
        raise UserError(f"data.heldout is {heldout}; it takes a share between 0 and 1, or a source")


def determined(
    source: Source,
    tokenizer: Trains,
    heldout: float | Source,
    others: Mapping[str, Source] | None = None,
) -> dict[str, Any]:
    """What prepared data hangs on; fingerprints of files stand for their texts."""
    given = not isinstance(heldout, float | int)
    sources = (source, heldout) if given else (source,)
    prints = [print_of(one) for one in sources]
    described = repr(tokenizer)
    if isinstance(tokenizer, Pretrained):
        described = tokenizer.train(()).hash
    further = {name: print_of(one) for name, one in (others or {}).items()}
    known = None not in prints and None not in further.values()
    found = {
        "tokenizer": described,
        "heldout": "given" if given else heldout,
        "fingerprints": prints if known else None,
    }
    return {**found, "others": further} if further else found


def preparation(path: Path) -> dict[str, Any]:
    """What was written of prepared data; nothing where there is no such file, or a torn one."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


class Preparing:
    """Data that is prepared once, in a directory of its own, and found there afterwards.

    A kind of data says what its preparation hangs on (`_asked`), makes it (`_made`), and reads what
    was made (`prepared`).
    """

    def prepare(self, directory: Path, length: int, kept: bool = False) -> Prepared:
        """Tokenizer, shards and facts, made now or found as an earlier call left them.

        Args:
          directory: of this data alone.
          length: tokens at most of what its objective calls a text, a pair or a row.
          kept: a run lives by what is there, which is never replaced.

        Raises:
          UserError: the records cannot be read, are others than a run began with, or are not what
            this kind of data takes; says which.
        """
        directory = Path(directory)
        with shards.locked(directory):
            self._prepare(directory, kept)
        return self.prepared(directory, length)

    def _prepare(self, directory: Path, kept: bool) -> None:
        """Makes the data, unless an earlier call left there what would be made."""
        path = directory / PREPARED
        stored = preparation(path)
        try:
            asked = self._asked()
        except (UserError, OSError) as error:
            if not (kept and stored):
                raise
            log.fallback("a look at the texts of the run", "what was prepared of them", str(error))
            return
        # Sources that cannot say whether they changed are read again, but for a run's sake.
        known = kept or asked["fingerprints"] is not None
        if stored and known and _plain(asked) == stored["asked"]:
            return
        if not (kept and stored):
            facts = self._made(directory)
        elif self._made_again(directory, asked, stored):
            facts = stored["facts"]
        else:
            raise UserError(
                f"{directory} was prepared from other texts or in another way; give a new "
                "--workdir, or --config.resume=changed to go on with the new ones"
            )
        log.write_text(path, json.dumps({"asked": asked, "facts": facts}, indent=2) + "\n")

    def _made_again(self, directory: Path, asked: dict[str, Any], stored: dict[str, Any]) -> bool:
        """Whether what differs is files alone, and the same would be made of them.

        Files that were copied to another machine, or written anew, have other fingerprints.
        """
        asked, before = _plain(asked), stored["asked"]
        files = {"fingerprints", "others"}
        if any(asked.get(name) != before.get(name) for name in {*asked, *before} - files):
            return False
        with tempfile.TemporaryDirectory(dir=directory) as again:
            try:
                facts = self._made(Path(again))
            except UserError:  # what is there now cannot be prepared at all
                return False
            return _plain(facts) == stored["facts"] and _holds(directory, Path(again))


def _plain(given: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives it back: a tuple is a list there."""
    return json.loads(json.dumps(given))


def _holds(directory: Path, other: Path) -> bool:
    """Whether each file below `other` is in `directory`, too, with the same bytes."""
    names = [file.relative_to(other) for file in other.rglob("*") if file.is_file()]
    _, differ, missing = filecmp.cmpfiles(directory, other, names, shallow=False)
    return not differ and not missing


def prepared_facts(directory: Path) -> dict[str, Any]:
    """What `Preparing` wrote of the data in a directory.

    Raises:
      UserError: there is nothing.
    """
    if not (stored := preparation(Path(directory) / PREPARED)):
        raise UserError(f"{directory} holds no prepared data")
    return stored["facts"]


def held_out(source: Source, heldout: float | Source) -> dict[str, Part]:
    """The parts `train` and `heldout`: of a share, the same random records every time.

    Raises:
      UserError: there are too few records.
    """
    count = len(source)
    if not isinstance(heldout, float | int):
        return {"train": (source, np.arange(count)), "heldout": (heldout, np.arange(len(heldout)))}
    if count < 2:
        raise UserError("the data source has one record; it takes two or more, to hold one out")
    order = permuted(np.arange(count), count, seed=0)
    taken = min(max(1, round(heldout * count)), count - 1)
    return {
        "train": (source, np.sort(order[taken:])),
        "heldout": (source, np.sort(order[:taken])),
    }


def with_others(parts: Mapping[str, Part], others: Mapping[str, Source]) -> dict[str, Part]:
    """The parts of the data, and all of each further source.

    Raises:
      UserError: one has no records.
    """
    found = dict(parts) | {name: (one, np.arange(len(one))) for name, one in others.items()}
    for name, (_, places) in found.items():
        if not len(places):
            raise UserError(f"the {name} part of the data has no records")
    return found


def naming(heldout: float | Source) -> tuple[str, ...]:
    """The parts whose labels are the classes: a share that is held out is as known as the rest."""
    return ("train", "heldout") if isinstance(heldout, int | float) else ("train",)


def check_classes(classes: Sequence[str] | None) -> None:
    """Refuses names of classes of which two are the same.

    Raises:
      UserError: says which.
    """
    for i, name in enumerate(classes or ()):
        if name in classes[:i]:
            raise UserError(f"data.classes has {name!r} twice; it takes different names")


def where(source: Source, place: int) -> str:
    """What to call a record in a message: its file and line, where the source knows them."""
    return source.where(place) if hasattr(source, "where") else f"record {place}"


def listed(classes: Sequence[str]) -> str:
    """The names of classes for a message, which ends after ten."""
    return ", ".join(map(repr, classes[:10])) + (", ..." if len(classes) > 10 else "")


def check_running(tokenizer: Any) -> None:
    """Refuses a tokenizer whose tokens do not follow each other as words do.

    Raises:
      UserError: it is a bag.
    """
    if isinstance(tokenizer, Bag):
        raise UserError("data.tokenizer Words is a bag of words and n-grams; take BPE or Bytes")


def texts(part: Part, name: str) -> Iterator[str]:
    """The texts that the records of a part have under a name.

    Raises:
      UserError: one has none.
    """
    source, places = part
    for place in places.tolist():
        text = source[place].get(name)
        if not isinstance(text, str):
            has = ", ".join(map(repr, source[place])) or "nothing"
            raise UserError(f"record {place} of the data source has no text {name!r}; it has {has}")
        check_unicode(text, where(source, place))
        yield text
