"""Token shards: the ids of many documents in one file, memory-mapped, with where each begins."""

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lm_research.data.tokenizer import Tokenizer
from lm_research.errors import UserError

FORMAT = 1
# Characters to encode at once: enough for `encode_batch` to use every core, and little memory.
BATCH = 2**22
# Up to here a hash takes about a second, so it is checked whenever shards are opened.
CHEAP = 2**30
_INDEX, _TOKENS, _OFFSETS = "index.json", "tokens.bin", "offsets.bin"


@dataclasses.dataclass(frozen=True)
class Shards:
    """Documents as ids, on disk.

    With an end-of-text token the tokens are: end, document, end, document, ..., end. So every
    document follows the token that ends another, and the last token is the first again. Without one
    they are the documents, joined.

    Attributes:
      directory: where they are.
    """

    directory: Path

    @functools.cached_property
    def index(self) -> dict[str, Any]:
        """How many tokens, documents and bytes of text, which tokenizer, and SHA-256 of all."""
        path = Path(self.directory) / _INDEX
        try:
            index = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise UserError(f"{self.directory} holds no token shards: it has no {_INDEX}") from None
        except ValueError:
            raise UserError(
                f"{path} is damaged; remove {self.directory} to make it again"
            ) from None
        for name, file in index["files"].items():
            size = _size(Path(self.directory) / name)
            if size != file["bytes"]:
                raise UserError(
                    f"{Path(self.directory) / name} is damaged: it has {size} bytes, it was "
                    f"written with {file['bytes']}; remove {self.directory} to make it again"
                )
        return index

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """uint16 or uint32 ids of everything, mapped."""
        return self._map(_TOKENS, self.index["dtype"])

    @functools.cached_property
    def offsets(self) -> np.ndarray:
        """int64, where each document begins; with an end-of-text token, at the one before it."""
        return self._map(_OFFSETS, "int64")

    @property
    def eos(self) -> int | None:
        """The token around documents."""
        return self.index["eos"]

    def verify(self) -> None:
        """Compares the files with the hashes that they were written with.

        Raises:
          UserError: one differs.
        """
        for name, file in self.index["files"].items():
            path = Path(self.directory) / name
            with path.open("rb") as opened:
                found = hashlib.file_digest(opened, "sha256").hexdigest()
            if found != file["sha256"]:
                raise UserError(
                    f"{path} is damaged: its SHA-256 is {found[:12]}..., it was written with "
                    f"{file['sha256'][:12]}...; remove {self.directory} to make it again"
                )

    def verify_cheaply(self) -> None:
        """`verify`, unless that would take long; sizes are compared always."""
        if sum(file["bytes"] for file in self.index["files"].values()) <= CHEAP:
            self.verify()

    def __reduce__(self):
        return Shards, (self.directory,)  # maps are opened anew, not copied

    def _map(self, name: str, dtype: str) -> np.ndarray:
        path = Path(self.directory) / name
        mapped = np.memmap(path, dtype, "r") if self.index["files"][name]["bytes"] else []
        return np.asarray(mapped, dtype)  # slices of a plain array are ten times as fast


def write(directory: Path, texts: Iterable[str], tokenizer: Tokenizer, key: str = "") -> Shards:
    """Encodes texts into shards, in constant memory; they are there all at once, or not at all.

    Args:
      directory: is replaced.
      texts: the documents.
      tokenizer: encodes them.
      key: what was asked for, kept in the index.
    """
    batches = ((batch, tokenizer.encode_batch(batch)) for batch in _batches(texts))
    encoded = (pair for batch, ids in batches for pair in zip(batch, ids))
    return write_encoded(directory, encoded, tokenizer, key)


def write_encoded(
    directory: Path,
    encoded: Iterable[tuple[str, np.ndarray]],
    tokenizer: Tokenizer,
    key: str = "",
) -> Shards:
    """Writes documents, each as a text and its ids, into shards; see `write`."""
    with replacing(Path(directory)) as temporary:
        dtype = np.dtype("uint16" if tokenizer.vocab <= 2**16 else "uint32")
        tokens, offsets = _Writer(temporary / _TOKENS), _Writer(temporary / _OFFSETS)
        content, size, place, documents = TextHash(), 0, 0, 0
        end = np.array([] if tokenizer.eos is None else [tokenizer.eos], dtype)
        with tokens, offsets:
            for text, ids in encoded:
                size += content.add(text)
                offsets.write(np.array([place], np.int64))
                tokens.write(end)
                tokens.write(ids.astype(dtype))
                place += len(end) + len(ids)
                documents += 1
            tokens.write(end)
        index = {
            "format": FORMAT,
            "key": key,
            "tokens": place + len(end),
            "documents": documents,
            "bytes": size,
            "eos": tokenizer.eos,
            "dtype": dtype.name,
            "texts": content.hexdigest(),
            "tokenizer": tokenizer.hash,
            "files": {_TOKENS: tokens.described(), _OFFSETS: offsets.described()},
        }
        (temporary / _INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    return Shards(Path(directory))


def written(directory: Path, tokenizer: Tokenizer, key: str) -> Shards | None:
    """The shards in `directory`, if they are what `write` would write there.

    Raises:
      UserError: they are, and are damaged.
    """
    if not (Path(directory) / _INDEX).is_file():
        return None
    shards = Shards(Path(directory))
    asked = {"format": FORMAT, "key": key, "tokenizer": tokenizer.hash}
    if any(shards.index.get(name) != value for name, value in asked.items()):
        return None
    shards.verify_cheaply()
    return shards


class TextHash:
    """SHA-256 of a sequence of texts: of the length and the UTF-8 of each."""

    def __init__(self):
        self._hash = hashlib.sha256()
        self.hexdigest = self._hash.hexdigest

    def add(self, text: str) -> int:
        """Takes one more text in; returns how many bytes of UTF-8 it has."""
        encoded = text.encode()
        self._hash.update(len(encoded).to_bytes(8, "little"))
        self._hash.update(encoded)
        return len(encoded)


@contextlib.contextmanager
def replacing(directory: Path) -> Iterator[Path]:
    """A new directory to fill, which takes the place of `directory` at the end of the block.

    One process at a time: hold `locked` around it.
    """
    new, old = (directory.with_name(f".{directory.name}.{state}") for state in ("new", "old"))
    for left in (new, old):  # by a process that was killed here
        shutil.rmtree(left, ignore_errors=True)
    new.mkdir(parents=True)
    yield new
    if directory.exists():
        directory.rename(old)
    new.rename(directory)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keeps other processes out of the same block; a process that dies lets the next one in."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _Writer:
    def __init__(self, path: Path):
        self._path, self._hash, self._bytes = path, hashlib.sha256(), 0
        self._file: BinaryIO

    def __enter__(self) -> "_Writer":
        self._file = self._path.open("wb", buffering=2**20)
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def write(self, array: np.ndarray) -> None:
        data = array.tobytes()
        self._hash.update(data)
        self._file.write(data)
        self._bytes += len(data)

    def described(self) -> dict[str, Any]:
        return {"bytes": self._bytes, "sha256": self._hash.hexdigest()}


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
