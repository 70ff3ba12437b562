"""TensorFlow Datasets as a source, read without TensorFlow."""

import dataclasses
import functools
import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lm_research.data.source import plain, within
from lm_research.errors import UserError

NUMBERS = ("label", "labels", "id")  # what a record may have that is no text
SEVERAL = ("words", "labels")  # and of which it has one for each word


@dataclasses.dataclass(frozen=True)
class TFDS:
    """Records of a dataset by name, downloaded and prepared when it is not there yet.

    Attributes:
      name: as in the catalogue, with config and version if wanted: "wikipedia/20230601.en".
      split: "train", "train[1000:]", "train[:5%]".
      field: which feature is the `text`, where that is all that a record has.
      data_dir: where prepared data is; None is TFDS's own place.
      fields: what a record has, and the feature that it is in; None is `text` alone. Numbers of
        classes, of a `label` or of each of `labels`, become their names. With "all" a record is as
        TFDS has it.
      labels: names of classes that replace TFDS's own.
    """

    name: str
    split: str
    field: str = "text"
    data_dir: str | None = None
    fields: Mapping[str, str] | Literal["all"] | None = None
    labels: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self._data[within(index, len(self))]
        if self.fields == "all":
            return record
        fields = self.fields or {"text": self.field}
        return {name: self._value(record, name, field) for name, field in fields.items()}

    def where(self, index: int) -> str:
        """The split and the number of a record."""
        return f"record {index} of {self.name} ({self.split})"

    def _value(self, record: Mapping[str, Any], name: str, field: str) -> Any:
        """What a record has in a field; a text as str, the number of a class as its name.

        Raises:
          UserError: it has no such field, or one that is no text where that is wanted.
        """
        value = plain(record.get(field))
        several = isinstance(value, list)
        texts = name in NUMBERS or all(isinstance(v, str) for v in (value if several else [value]))
        if value is None or several != (name in SEVERAL) or not texts:
            raise UserError(
                f"the dataset {self.name} has no {name} in the field {field!r}; "
                f"it has {', '.join(map(repr, record))}"
            )
        if name == "labels":
            return [self._label(one, field) for one in value]
        return self._label(value, field) if name == "label" else value

    def _label(self, value: Any, field: str) -> Any:
        """The name of a class by its number; None of no class, as -1 is of an unlabelled record."""
        names = self.labels or self._names(field)
        if not names or not isinstance(value, int):
            return value
        return names[value] if 0 <= value < len(names) else None

    def _names(self, field: str) -> tuple[str, ...]:
        """Names of the classes of a field; none where it has none."""
        return tuple(getattr(self._loaded[2][field], "names", None) or ())

    def __reduce__(self):
        return TFDS, tuple(getattr(self, field.name) for field in dataclasses.fields(self))

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
    def _loaded(self) -> tuple[Path, Any, Mapping[str, Any]]:
        """The folder of the prepared files, the records in them, and their features."""
        import tensorflow_datasets as tfds

        # By itself TFDS stops importing these at the first of its datasets that lacks a library.
        import tensorflow_datasets.question_answering
        import tensorflow_datasets.summarization
        import tensorflow_datasets.text
        import tensorflow_datasets.translate

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
            data = builder.as_data_source(split=self.split)
            return folder, data, builder.info.features
        except Exception as error:  # downloads, checksums, parsers: each raises its own
            place = self.data_dir or "~/tensorflow_datasets"
            files = "the text as files (Documents)" if self.fields is None else "its files (Table)"
            raise UserError(
                f"the dataset {self.name} ({self.split}) cannot be had: {_first_line(error)}; "
                f"put it, prepared with file_format='array_record', into {place} "
                f"(data.source.data_dir), or give {files}"
            ) from None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"
