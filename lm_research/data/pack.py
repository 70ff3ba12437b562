"""From a corpus to windows of tokens: split, tokenizer, shards."""

import dataclasses
import hashlib
import json
import lzma
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lm_research import log
from lm_research.data import shards as shards_
from lm_research.data import tokenizer as tokenizers
from lm_research.data.prepare import (
    PREPARED,
    Prepared,
    check_heldout,
    determined,
    preparation,
)
from lm_research.data.shards import Shards
from lm_research.data.source import Source
from lm_research.data.split import Part, Survey, split, survey
from lm_research.data.vocabulary import Characters, Trains
from lm_research.data.windows import Windows
from lm_research.errors import UserError

# xz -9 takes a second per megabyte.
COMPRESSED = 64 * 2**20


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
        check_heldout(self.heldout)
        for name in ("source", "heldout"):
            if isinstance(given := getattr(self, name), str | bytes | dict | list | tuple):
                raise UserError(f"data.{name} is {given!r}; it takes a source, such as TextFiles")

    def prepare(self, directory: Path, length: int, kept: bool = False) -> Prepared:
        """Tokenizer, shards and facts, made now or found as an earlier call left them.

        Args:
          directory: of this data alone.
          length: T.
          kept: a run lives by what is there, which is never replaced: another text is refused, and
            one that cannot be read any more is not needed.

        Raises:
          UserError: the text cannot be read, is too short, or what was prepared is damaged.
        """
        directory = Path(directory)
        with shards_.locked(directory):
            path = directory / PREPARED
            if kept and (stored := preparation(path)):
                self._compare(directory, stored)
            else:
                stored, asked = preparation(path), self._asked()
                if asked["fingerprints"] is None or stored.get("asked") != asked:
                    stored = {**self._find_or_make(directory, asked), "asked": asked}
                    log.write_text(path, json.dumps(stored, indent=2) + "\n")
        return self.prepared(directory, length)

    def prepared(self, directory: Path, length: int) -> Prepared:
        """What `prepare` left in a directory, whatever has become of the text since.

        Raises:
          UserError: there is nothing, or it is damaged.
        """
        stored = preparation(directory / PREPARED)
        if not stored:
            raise UserError(f"{directory} holds no prepared data")
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
        found = determined(self.source, self.tokenizer, self.heldout)
        return {**found, "split": self.split, "cache": self.cache}

    def _compare(self, directory: Path, stored: dict[str, Any]) -> None:
        """Refuses a text or a tokenizer that is another than what was prepared in `directory`."""
        try:
            asked = self._asked()
            if asked["fingerprints"] is not None and stored["asked"] == asked:
                return
            found, _, key = self._surveyed(asked)
        except (UserError, OSError) as error:
            asked, got = "a look at the text of the run", f"what was prepared of it in {directory}"
            return log.fallback(asked, got, str(error))
        if key != stored["key"]:
            was = stored["facts"]["content"]
            another = f"text (SHA-256 {was[:8]} -> {found.content[:8]})"
            raise UserError(
                f"{directory} was prepared from another "
                f"{'tokenizer' if was == found.content else another}; give a new --workdir, or "
                "--config.resume=changed to go on with the new one"
            )
        log.write_text(
            directory / PREPARED, json.dumps({**stored, "asked": asked}, indent=2) + "\n"
        )

    def _surveyed(self, asked: dict[str, Any]) -> tuple[Survey, Survey | None, str]:
        """What the texts are, and the key of what is prepared from them."""
        found = survey(self.source)
        given = None if asked["heldout"] != "given" else survey(self.heldout)
        content = [found.content, given and given.content]
        choices = [asked[name] for name in ("tokenizer", "heldout", "split")]
        return found, given, _key([shards_.FORMAT, content, *choices])

    def _find_or_make(self, directory: Path, asked: dict[str, Any]) -> dict[str, Any]:
        found, given, key = self._surveyed(asked)
        if self.cache is None:
            return self._made(directory, key, found, given)
        place = Path(self.cache) / key[:16]
        with shards_.locked(place):
            made = self._made(place, key, found, given)
            log.write_text(place / PREPARED, json.dumps(made, indent=2) + "\n")
        return made

    def _made(self, place: Path, key: str, found: Survey, given: Survey | None) -> dict[str, Any]:
        if (stored := preparation(place / PREPARED)).get("key") == key:
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
