"""`Tatoeba`: sentences with their translations into English, in LASER's archive."""

import dataclasses
import functools
import json
import tarfile
from pathlib import Path

from lm_research.config import known
from lm_research.data.source import within
from lm_research.data.text import stamps
from lm_research.errors import UserError

ENGLISH = "eng"


@dataclasses.dataclass(frozen=True)
class Tatoeba:
    """Records {"text": str, "pair": str}: a sentence, and its translation into English.

    Artetxe and Schwenk (2019), appendix: up to 1,000 pairs of each language.

    Attributes:
      path: the .tar.gz, which is read as it is, or the folder of its files.
      language: three letters, as in tatoeba.deu-eng.deu.
    """

    path: str
    language: str

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, str]:
        return dict(zip(("text", "pair"), self._records[within(index, len(self))]))

    def fingerprint(self) -> str:
        """Changes when the archive does: of its name, size and time of writing."""
        return json.dumps([self.language, *stamps([Path(self.path)])])

    def __reduce__(self):
        return Tatoeba, (self.path, self.language)

    @functools.cached_property
    def _records(self) -> list[tuple[str, str]]:
        own, english = (
            self._contents.get((self.language, side)) for side in (self.language, ENGLISH)
        )
        if own is None or english is None:
            known(self.language, sorted({code for code, _ in self._contents}), "language")
            raise UserError(f"{self.path} has one side only of {self.language}-{ENGLISH}")
        sides = [text.removesuffix("\n").split("\n") for text in (own, english)]
        if len(sides[0]) != len(sides[1]):
            told = f"{len(sides[0])} sentences of {self.language} and {len(sides[1])} of {ENGLISH}"
            raise UserError(f"{self.path} has {told}")
        return list(zip(*sides))

    @functools.cached_property
    def _contents(self) -> dict[tuple[str, str], str]:
        """Text by language and side; empty of other languages."""
        path, found = Path(self.path), {}

        def take(name: str, read) -> None:
            parts = Path(name).name.split(".")  # tatoeba.deu-eng.deu
            if len(parts) == 3 and parts[0] == "tatoeba" and parts[1].endswith(f"-{ENGLISH}"):
                code = parts[1].partition("-")[0]
                found[code, parts[2]] = read().decode() if code == self.language else ""

        if path.is_dir():
            for file in path.rglob("tatoeba.*"):
                take(file.name, file.read_bytes)
            return found
        try:
            with tarfile.open(path) as archive:
                for member in (member for member in archive if member.isfile()):
                    take(member.name, lambda member=member: archive.extractfile(member).read())
        except (tarfile.TarError, OSError, EOFError) as error:
            raise UserError(f"{path} cannot be read: {error}") from None
        return found
