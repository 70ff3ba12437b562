"""safetensors files: read lazily and by slices, written whole or not at all."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from lm_research.errors import UserError

FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD = 5_000_000_000  # bytes; what the hub's tools have long split at
FLOATS = ("F32", "F16", "BF16")  # those that float32 holds exactly


class Stored:
    """The tensors in a directory; opening it reads their names and shapes only.

    A file is mapped only while something is read from it: mapped pages that were read count as this
    process's memory, and all weights would be in it twice.

    Args:
      directory: where they are.
      file: the only one to read; None takes a model's.

    Raises:
      UserError: there are none, a file is damaged, or one that the index names is absent.
    """

    def __init__(self, directory: Path, file: str | None = None):
        self.directory = directory
        self._tensors: dict[str, tuple[Path, tuple[int, ...], str]] = {}
        for path, names in ({directory / file: None} if file else _files(directory)).items():
            with _mapped(path) as file:
                held = set(file.keys())
                lacking = sorted((names or held) - held)
                if lacking:
                    raise UserError(f"{path} lacks {listed(lacking)}, which {INDEX} says it holds")
                for name in names or held:
                    tensor = file.get_slice(name)
                    self._tensors[name] = path, tuple(tensor.get_shape()), tensor.get_dtype()

    @property
    def names(self) -> set[str]:
        """Of every tensor."""
        return set(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one tensor."""
        return self._tensors[name][1]

    def dtype(self, name: str) -> str:
        """Of one tensor, as safetensors calls it: F32, BF16."""
        return self._tensors[name][2]

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """Slices of one tensor, as float32: exact for every dtype in `FLOATS`."""
        with _mapped(self._tensors[name][0]) as file:
            return file.get_slice(name)[index].astype(np.float32, copy=False)


def metadata(path: Path) -> dict[str, str]:
    """What a file says besides its tensors."""
    with _mapped(path) as file:
        return file.metadata() or {}


def _mapped(path: Path) -> Any:
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged: {_line(error)}; fetch it again") from error


def _files(directory: Path) -> dict[Path, set[str] | None]:
    """Each file, and which tensors the index says it has."""
    if (directory / INDEX).is_file():
        try:
            where = json.loads((directory / INDEX).read_text(encoding="utf-8"))["weight_map"]
            files: dict[Path, set[str] | None] = {}
            for name, file in where.items():
                files.setdefault(directory / file, set()).add(name)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{directory / INDEX} is no index of tensors: {error!r}") from error
        absent = [path.name for path in files if not path.is_file()]
        if absent:
            raise UserError(f"{directory} lacks {listed(absent)}, which {INDEX} names")
        return files
    if (directory / FILE).is_file():
        return {directory / FILE: None}
    found = sorted(directory.glob("*.safetensors"))
    if len(found) == 1:
        return {found[0]: None}
    if found:
        raise UserError(
            f"{directory} has {listed([p.name for p in found])} and no {INDEX} to say which count"
        )
    pickled = sorted(p.name for p in directory.iterdir() if p.suffix in (".bin", ".pt", ".pth"))
    if pickled:
        mend = (
            'python -c "from transformers import AutoModelForCausalLM as M; '
            f"M.from_pretrained('{directory}').save_pretrained('{directory}')\""
        )
        raise UserError(
            f"{directory} has {listed(pickled)} and no {FILE}; pickled weights can run code when "
            f"read, so where you trust them: {mend}"
        )
    raise UserError(f"{directory} has no weights; it takes {FILE}, or several files with {INDEX}")


def write(
    directory: Path,
    shapes: Mapping[str, tuple[int, ...]],
    make: Callable[[str], np.ndarray],
    limit: int = SHARD,
) -> None:
    """Writes float32 tensors into a directory: one file, or several with an index.

    Args:
      directory: exists.
      shapes: of every tensor.
      make: a tensor, contiguous; called for one file's tensors at a time.
      limit: bytes in one file, unless a single tensor has more.
    """
    shards, room = [[]], limit
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        if size > room and shards[-1]:
            shards.append([])
            room = limit
        shards[-1].append(name)
        room -= size
    where = {}
    for i, names in enumerate(shards, 1):
        file = FILE if len(shards) == 1 else f"model-{i:05}-of-{len(shards):05}.safetensors"
        # save_file writes wrong values for arrays that are not contiguous.
        arrays = {name: np.ascontiguousarray(make(name)) for name in names}
        save_file(arrays, directory / file, metadata={"format": "pt"})
        where |= dict.fromkeys(names, file)
    if len(shards) > 1:
        total = sum(4 * int(np.prod(shape)) for shape in shapes.values())
        dump({"metadata": {"total_size": total}, "weight_map": where}, directory / INDEX)


@contextlib.contextmanager
def appearing(directory: Path) -> Iterator[Path]:
    """A directory to write into, which becomes `directory` when all is written, and nothing before.

    Raises:
      UserError: `directory` exists and is not an empty directory.
    """
    directory = directory.absolute()
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise UserError(f"{directory} exists and is not empty; give a new directory")
    temporary = directory.with_name(f".{directory.name}.{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        os.replace(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def dump(value: Any, path: Path) -> None:
    """`value` as an indented JSON file."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def listed(names: list[str], limit: int = 5) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
