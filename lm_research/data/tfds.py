"""TensorFlow Datasets as a source, read without TensorFlow."""

import dataclasses
import functools
import hashlib
import sys
from pathlib import Path
from typing import Any

from lm_research.data.source import within
from lm_research.errors import UserError


@dataclasses.dataclass(frozen=True)
class TFDS:
    """Records {"text": str} of a dataset by name, downloaded and prepared when it is not there yet.

    Attributes:
      name: as in the catalogue, with config and version if wanted: "wikipedia/20230601.en".
      split: "train", "train[1000:]", "train[:5%]".
      field: which feature is the text.
      data_dir: where prepared data is; None is TFDS's own place.
    """

    name: str
    split: str
    field: str = "text"
    data_dir: str | None = None

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> dict[str, str]:
        record = self._data[within(index, len(self))]
        text = record.get(self.field)
        text = (
            text.item() if hasattr(text, "item") else text
        )  # mocks give arrays of none dimensions
        if isinstance(text, bytes):
            text = text.decode()
        if not isinstance(text, str):
            raise UserError(
                f"the dataset {self.name} has no text in the field {self.field!r}; "
                f"it has {', '.join(map(repr, record))}"
            )
        return {"text": text}

    def __reduce__(self):
        return TFDS, (self.name, self.split, self.field, self.data_dir)

    def fingerprint(self) -> str | None:
        """Changes when the prepared files do: of names, sizes and times of writing."""
        folder = self._loaded[0]
        if not folder.is_dir():
            return None  # a mock
        stats = [(path.name, path.stat()) for path in sorted(folder.iterdir())]
        files = [(name, found.st_size, found.st_mtime_ns) for name, found in stats]
        return hashlib.sha256(repr([self, str(folder), files]).encode()).hexdigest()

    @property
    def _data(self) -> Any:
        return self._loaded[1]

    @functools.cached_property
    def _loaded(self) -> tuple[Path, Any]:
        """The folder of the prepared files, and the records in them."""
        import tensorflow_datasets as tfds

        try:
            # Of the formats that TFDS can write, only this one is random access and needs no
            # TensorFlow.
            builder = tfds.builder(self.name, data_dir=self.data_dir, file_format="array_record")
            folder = Path(builder.data_dir)
            if not folder.is_dir():
                print(
                    f"{self.name} is not in {folder} yet: downloading and preparing it; "
                    "without a network this gives up after some minutes",
                    file=sys.stderr,
                )
            builder.download_and_prepare(file_format="array_record")
            return folder, builder.as_data_source(split=self.split)
        except Exception as error:  # downloads, checksums, parsers: each raises its own
            place = self.data_dir or "~/tensorflow_datasets"
            raise UserError(
                f"the dataset {self.name} ({self.split}) cannot be had: {_first_line(error)}; "
                f"put it, prepared with file_format='array_record', into {place} "
                "(data.source.data_dir), or give the text as files (Documents)"
            ) from None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"
