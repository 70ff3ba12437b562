"""From a corpus to windows of tokens: split, tokenizer, shards and the arithmetic of packing."""

import dataclasses
import hashlib
import json
import lzma
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lm_research import log
from lm_research.data import shards as shards_
from lm_research.data import tokenizer as tokenizers
from lm_research.data.shards import Shards
from lm_research.data.source import Source, within
from lm_research.data.split import Part, Survey, split, survey
from lm_research.data.tokenizer import Tokenizer
from lm_research.data.vocabulary import Characters, Pretrained, Trains
from lm_research.errors import UserError

# xz -9 takes a second per megabyte.
COMPRESSED = 64 * 2**20
_PREPARED = "prepared.json"


@dataclasses.dataclass(frozen=True)
class Windows:
    """Token shards as windows; window i begins at token i * length and predicts `length` tokens.

    So every token but the very first is predicted once; the last window may be padded.

    Attributes:
      shards: the tokens.
      length: T; a window holds T + 1 tokens.
      documents: "separate" adds `segments` and `position`, by which each document is read alone.
    """

    shards: Shards
    length: int
    documents: Literal["separate", "joined"] = "separate"

    @property
    def tokens(self) -> int:
        """How many tokens are predicted in one pass."""
        return self.shards.index["tokens"] - 1

    def __len__(self) -> int:
        return -(-self.tokens // self.length)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {name: rows[0] for name, rows in self.gather([within(index, len(self))]).items()}

    def gather(
        self, indices: Iterable[int], shifts: Iterable[int] | int = 0
    ) -> dict[str, np.ndarray]:
        """Many windows at once, stacked.

        Args:
          indices: which, [B].
          shifts: tokens by which each window is moved along the text, [B] or one for all, less than
            `tokens`. The text is a ring: what is moved over its end comes from its beginning.

        Returns:
          tokens int32 [B, T + 1]; weights float32 [B, T + 1], 0 for padding; and for separate
          documents, int32 [B, T + 1] each, segments (from 1 in each window, 0 for padding) and
          position (from 0 in each segment).
        """
        indices = np.asarray(indices, np.int64)
        starts = (indices * self.length + shifts) % self.tokens
        # How many tokens of a row are not padding.
        counts = np.minimum(self.length, self.tokens - indices * self.length) + 1
        rows = {
            "tokens": np.zeros((len(indices), self.length + 1), np.int32),
            "weights": (np.arange(self.length + 1) < counts[:, None]).astype(np.float32),
        }
        for row, (start, count) in enumerate(zip(starts.tolist(), counts.tolist())):
            self._fill(rows["tokens"][row], rows["weights"][row], start, count)
        if self.documents == "separate":
            rows |= self._documents(starts.tolist(), counts)
        return rows

    def _fill(self, tokens: np.ndarray, weights: np.ndarray, start: int, count: int) -> None:
        stream = self.shards.tokens
        first = min(count, self.tokens + 1 - start)
        tokens[:first] = stream[start : start + first]
        if first < count:  # the last token is the first again, so go on with the second
            tokens[first:count] = stream[1 : 1 + count - first]
            if self.shards.eos is None:
                weights[first] = 0.0  # it does not follow the last one

    def _documents(self, starts: list[int], counts: np.ndarray) -> dict[str, np.ndarray]:
        begins = np.zeros((len(starts), self.length + 1), np.int32)
        for row, start in enumerate(starts):
            begins[row, self._boundaries(start, start + self.length + 1)] = 1
        begins[:, 0] = 1
        place = np.arange(self.length + 1, dtype=np.int32)
        real = place < counts[:, None]
        since = np.maximum.accumulate(begins * place, axis=1)
        return {
            "segments": np.cumsum(begins, axis=1, dtype=np.int32) * real,
            "position": (place - since) * real,
        }

    def _boundaries(self, start: int, stop: int) -> np.ndarray:
        """Where in a window documents begin."""
        offsets = self.shards.offsets
        found = offsets[slice(*np.searchsorted(offsets, (start, stop)))] - start
        if stop <= self.tokens:
            return found
        again = offsets[: np.searchsorted(offsets, stop - self.tokens)] + (self.tokens - start)
        if self.shards.eos is None:
            again = again[1:]
            again = np.append(again, self.tokens + 1 - start)
        return np.concatenate([found, again[again < stop - start]])


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Data, ready to be read by index.

    Attributes:
      train: windows to learn from.
      heldout: windows to be judged by.
      tokenizer: what the ids mean.
      facts: what the run should say of its data; `..._tokens` are those that one pass predicts.
    """

    train: Source
    heldout: Source
    tokenizer: Tokenizer
    facts: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Packed:
    """Text as windows of tokens, all full: documents one after another, cut by arithmetic.

    Attributes:
      source: records with a field "text".
      tokenizer: trained on the train part, or on all text where it only lists characters.
      heldout: the share of the text to hold out, or a source of its own.
      split: "documents" holds documents out, "tail" the end of the text; "auto" takes "documents"
        from 20 on.
      documents: whether each document is read alone ("separate") or sees those before it
        ("joined").
      shuffle: whether windows come in random order.
      cache: where runs share prepared data, each in a folder named by its content; None keeps it in
        the run.
    """

    source: Source
    tokenizer: Trains
    heldout: float | Source = 0.05
    split: Literal["auto", "documents", "tail"] = "auto"
    documents: Literal["separate", "joined"] = "separate"
    shuffle: bool = True
    cache: str | None = None

    def __post_init__(self):
        if isinstance(self.heldout, float | int) and not 0 < self.heldout < 1:
            raise UserError(
                f"data.heldout is {self.heldout}; it takes a share between 0 and 1, or a source"
            )
        for name in ("source", "heldout"):
            if isinstance(given := getattr(self, name), str | bytes | dict | list | tuple):
                raise UserError(f"data.{name} is {given!r}; it takes a source, such as TextFiles")

    def prepare(self, directory: Path, length: int) -> Prepared:
        """Tokenizer, shards and facts, made now or found as an earlier call left them.

        Args:
          directory: of this data alone.
          length: T.

        Raises:
          UserError: the text cannot be read, is too short, or what was prepared is damaged.
        """
        directory = Path(directory)
        with shards_.locked(directory):
            path = directory / _PREPARED
            stored, asked = _stored(path), self._asked()
            if asked["fingerprints"] is None or stored.get("asked") != asked:
                stored = {**self._find_or_make(directory, asked), "asked": asked}
                log.write_text(path, json.dumps(stored, indent=2) + "\n")
        # A run's directory may have been moved since.
        place = directory if self.cache is None else Path(stored["place"])
        tokenizer = tokenizers.load(place / "tokenizer")
        parts = {}
        for name in ("train", "heldout"):
            found = shards_.written(place / name, tokenizer, f"{stored['key']}/{name}")
            if found is None:
                raise UserError(f"{place / name} is damaged; remove {directory} to make it again")
            parts[name] = Windows(found, length, self.documents)
        self._check(parts, length)
        return Prepared(parts["train"], parts["heldout"], tokenizer, stored["facts"])

    def _asked(self) -> dict[str, Any]:
        """What determines the prepared data; fingerprints of files stand for their texts."""
        given = not isinstance(self.heldout, float | int)
        sources = (self.source, self.heldout) if given else (self.source,)
        prints = [getattr(source, "fingerprint", lambda: None)() for source in sources]
        described = repr(self.tokenizer)
        if isinstance(self.tokenizer, Pretrained):
            described = self.tokenizer.train(()).hash
        return {
            "tokenizer": described,
            "heldout": "given" if given else self.heldout,
            "split": self.split,
            "cache": self.cache,
            "fingerprints": None if None in prints else prints,
        }

    def _find_or_make(self, directory: Path, asked: dict[str, Any]) -> dict[str, Any]:
        found = survey(self.source)
        given = None if asked["heldout"] != "given" else survey(self.heldout)
        content = [found.content, given and given.content]
        key = _key(
            [shards_.FORMAT, content, *(asked[n] for n in ("tokenizer", "heldout", "split"))]
        )
        if self.cache is None:
            return self._made(directory, key, found, given)
        place = Path(self.cache) / key[:16]
        with shards_.locked(place):
            made = self._made(place, key, found, given)
            log.write_text(place / _PREPARED, json.dumps(made, indent=2) + "\n")
        return made

    def _made(self, place: Path, key: str, found: Survey, given: Survey | None) -> dict[str, Any]:
        if (stored := _stored(place / _PREPARED)).get("key") == key:
            return {**stored, "place": str(place)}
        if not found.characters.any():
            raise UserError(f"the text is empty: {len(found.bytes)} documents without a character")
        if given is None:
            train, heldout, how = split(self.source, found, self.heldout, self.split)
        else:
            train, heldout = (
                Part(source, np.arange(len(source))) for source in (self.source, self.heldout)
            )
            how = "given"
        for name, part in (("train", train), ("held-out", heldout)):
            if not any(part.texts()):
                raise UserError(
                    f"the {name} part of the text is empty: {len(found.bytes)} documents, "
                    f"{found.bytes.sum():,} bytes, split {how!r}; give more text"
                )
        everything = Part(self.source, np.arange(len(found.bytes)))
        lists = isinstance(self.tokenizer, Characters)  # as nanoGPT does
        tokenizer = self.tokenizer.train((everything if lists else train).texts())
        written = {}
        for name, part in (("train", train), ("heldout", heldout)):
            there = shards_.written(place / name, tokenizer, f"{key}/{name}")
            written[name] = there or shards_.write(
                place / name, part.texts(), tokenizer, f"{key}/{name}"
            )
        tokenizer.save(place / "tokenizer")
        facts = {
            "content": found.content,
            "tokenizer": tokenizer.hash,
            "vocab": tokenizer.vocab,
            "split": how,
            **_sizes(written),
            **_compressed(heldout, written["heldout"].index["bytes"]),
        }
        return {"key": key, "place": str(place), "facts": facts}

    def _check(self, parts: dict[str, Windows], length: int) -> None:
        tokens = parts["train"].tokens
        if tokens < length:
            raise UserError(
                f"the train part of the text has {max(tokens, 0)} tokens to predict, fewer than "
                f"one sequence of {length} (objective.length); give more text or a shorter length"
            )
        if parts["heldout"].tokens < 1:
            raise UserError("the held-out part of the text has no token to predict; give more text")
        several = max(part.shards.index["documents"] for part in parts.values()) > 1
        if self.documents == "separate" and several and parts["train"].shards.eos is None:
            raise UserError(
                "data.documents is 'separate', and the tokenizer has no token that ends a "
                "document; use 'joined', or another tokenizer"
            )


def _sizes(written: dict[str, Shards]) -> dict[str, Any]:
    facts = {}
    for name, shards in written.items():
        facts[f"{name}_tokens"] = shards.index["tokens"] - 1
        for what in ("documents", "bytes", "texts"):
            facts[f"{name}_{what}"] = shards.index[what]
    return facts


def _compressed(part: Part, size: int) -> dict[str, Any]:
    """Bits per byte of what a run without a model would do."""
    if size > COMPRESSED:
        return {"compressed": f"not measured: held-out text is over {COMPRESSED:,} bytes"}
    gzip, xz = zlib.compressobj(9, wbits=31), lzma.LZMACompressor(preset=9)
    sizes = [0, 0]
    for text in part.texts():
        for number, compressor in enumerate((gzip, xz)):
            sizes[number] += len(compressor.compress(text.encode()))
    bits = [8 * (done + len(c.flush())) / size for done, c in zip(sizes, (gzip, xz))]
    return {"gzip_bits_per_byte": bits[0], "xz_bits_per_byte": bits[1]}


def _key(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _stored(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
