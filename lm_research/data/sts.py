"""`STS`: pairs of sentences and how alike people found them, in the files that are published."""

import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lm_research.data.source import ReadWhole
from lm_research.data.text import file_names, stamps, whole_text
from lm_research.errors import UserError

INPUT, GOLD = "STS.input.", "STS.gs."
SICK = ("sentence_A", "sentence_B", "relatedness_score")
GLUE = ("sentence1", "sentence2", "score")  # of STS-B there
BENCHMARK = (5, 6, 4)  # columns of the first sentence, of the second, and of the score


@dataclasses.dataclass(frozen=True)
class STS(ReadWhole):
    """Records {"text": str, "pair": str, "label": float}, held in memory once one is asked for.

    Attributes:
      paths: folders of SemEval's STS tasks (Agirre et al., 2012 to 2016), in which each
        STS.input.NAME has its scores in STS.gs.NAME, and pairs without a score are left out; or
        files of SICK (Marelli et al., 2014) or of STS-B (Cer et al., 2017), as it is published or
        as GLUE has it, which are known by their columns. Several as a tuple or with commas between;
        files may end in .gz.
    """

    paths: str | tuple[str, ...]

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(zip(("text", "pair", "label"), super().__getitem__(index)))

    @functools.cached_property
    def files(self) -> tuple[Path, ...]:
        """Every file with sentences, in order.

        Raises:
          UserError: a path is missing, or a folder has no such file.
        """
        found: list[Path] = []
        for path in map(Path, file_names(self.paths)):
            inside = sorted(path.glob(f"{INPUT}*")) if path.is_dir() else [path]
            if not path.exists():
                raise UserError(f"there is no file {path}")
            if not inside:
                raise UserError(f"the folder {path} has no file {INPUT}NAME")
            found += inside
        if not found:
            raise UserError("no path of scored pairs was given (paths is empty)")
        return tuple(found)

    def fingerprint(self) -> str:
        """Changes when a file does: of names, sizes and times of writing."""
        gold = [_gold(file) for file in self.files if file.name.startswith(INPUT)]
        return json.dumps(stamps([*self.files, *gold]))

    @functools.cached_property
    def _read(self) -> tuple[list[str], list[tuple[str, str, float]]]:
        """Where each record is from, and its values."""
        places, records = [], []
        for file in self.files:
            for line, record in _pairs(file):
                places.append(f"{file}:{line}")
                records.append(record)
        if not records:
            raise UserError(f"{self.files[0]} holds no scored pairs")
        return places, records


def _pairs(file: Path) -> Iterator[tuple[int, tuple[str, str, float]]]:
    """Line numbers, and the sentences and scores there.

    Raises:
      UserError: the file, or a line of it, is in none of the forms; says which.
    """
    rows = [line.split("\t") for line in _lines(file)]
    if file.name.startswith(INPUT):
        scores = _lines(_gold(file))
        if len(scores) != len(rows):
            raise UserError(f"{file} has {len(rows)} lines and {_gold(file)} {len(scores)}")
        rows = [[*row, score] for row, score in zip(rows, scores)]
        first, columns = 1, (0, 1, -1)
    elif heads := [names for names in (SICK, GLUE) if rows and set(names) <= set(rows[0])]:
        first, columns = 2, tuple(map(rows[0].index, heads[0]))
    else:
        first, columns = 1, BENCHMARK
    for number, row in enumerate(rows[first - 1 :], first):
        if len(row) <= max(columns):
            raise UserError(
                f"{file}:{number} has {len(row)} columns; it takes those of STS-B, of SICK or "
                f"GLUE with their first line, or of {INPUT}NAME beside {GOLD}NAME"
            )
        one, other, score = (row[column].strip() for column in columns)
        if not score and columns[-1] == -1:
            continue  # as published, some pairs have none
        try:
            yield number, (one, other, float(score))
        except ValueError:
            raise UserError(f"{file}:{number} has {score!r} as a score, no number") from None


def _gold(file: Path) -> Path:
    """The scores of a file of SemEval's.

    Raises:
      UserError: there are none.
    """
    gold = file.with_name(file.name.replace(INPUT, GOLD, 1))
    if not gold.is_file():
        raise UserError(f"{file} has no scores beside it: there is no file {gold}")
    return gold


def _lines(file: Path) -> list[str]:
    # Not splitlines: sentences may hold the other characters that end lines.
    lines = whole_text(file).split("\n")
    return [line.removesuffix("\r") for line in (lines[:-1] if not lines[-1] else lines)]
