"""`WebNLG`: facts as triples, and texts that say them (Gardent et al., 2017)."""

import dataclasses
import fnmatch
import functools
import json
import re
import tarfile
import xml.etree.ElementTree as xml
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lm_research.data.source import within
from lm_research.data.text import file_names, stamps
from lm_research.errors import UserError

FACTS = " && "  # between the triples of a source
PARTS = " | "  # between subject, relation and object
WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")  # where a relation's name has its next word


@dataclasses.dataclass(frozen=True)
class WebNLG:
    """Records {"source": triples in a line, "target": str, "targets": texts}, one of each entry.

    "Aarhus Airport | city served | Aarhus && Aarhus | leader name | Jacob Bundsgaard": names
    without underscores, relations as words.

    Attributes:
      paths: .xml files, directories of them, or .tar archives, compressed or not; several as a
        tuple or with commas between.
      names: a pattern that the names of files in directories and archives match, such as
        "*/en/train/*.xml".
      lang: the language of texts that say theirs, such as "en"; None takes those of all.
    """

    paths: str | tuple[str, ...]
    names: str = "*.xml"
    lang: str | None = None

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._records[within(index, len(self))]

    def fingerprint(self) -> str:
        """Changes when a file does: of names, sizes and times of writing."""
        asked = [self.names] if self.lang is None else [self.names, self.lang]
        return json.dumps([*asked, *stamps(self._files)])

    def __reduce__(self):
        return WebNLG, (self.paths, self.names, self.lang)

    @functools.cached_property
    def _files(self) -> list[Path]:
        """Files and archives, in order."""
        found = []
        for path in map(Path, file_names(self.paths)):
            if not path.exists():
                raise UserError(f"there is no file {path}")
            inside = sorted(path.rglob("*.xml")) if path.is_dir() else [path]
            matching = (p for p in inside if fnmatch.fnmatch(p.as_posix(), self.names))
            found += matching if path.is_dir() else inside
        return found

    @functools.cached_property
    def _records(self) -> list[dict[str, Any]]:
        records = []
        for where, content in self._contents():
            try:
                tree = xml.fromstring(content)
            except xml.ParseError as error:
                raise UserError(f"{where} is not XML: {error}") from None
            entries = (_record(where, entry, self.lang) for entry in tree.iter("entry"))
            records += [record for record in entries if record is not None]
        if not records:
            texts = "texts" if self.lang is None else f"texts in the language {self.lang!r}"
            raise UserError(
                f"{self.paths or 'no path'} holds no entries with triples and {texts} in files "
                f"whose names match {self.names}"
            )
        return records

    def _contents(self) -> Iterator[tuple[str, bytes]]:
        """Where each file of XML is, and what it holds."""
        for path in self._files:
            if ".tar" not in path.name and not path.name.endswith(".tgz"):
                yield str(path), path.read_bytes()
                continue
            try:
                with tarfile.open(path) as archive:
                    members = sorted(archive.getmembers(), key=lambda member: member.name)
                    for member in members:
                        if member.isfile() and fnmatch.fnmatch(member.name, self.names):
                            yield f"{path}:{member.name}", archive.extractfile(member).read()
            except (tarfile.TarError, OSError, EOFError) as error:
                raise UserError(f"{path} cannot be read: {error}") from None


def linearised(triples: list[str]) -> str:
    """Triples "Subject_name | relationName | Object" as one source.

    Raises:
      ValueError: one has not three parts.
    """
    found = []
    for triple in triples:
        parts = [part.strip().strip('"').replace("_", " ") for part in triple.split(" | ")]
        if len(parts) != 3:
            raise ValueError(f"the triple {triple!r} has {len(parts)} parts")
        parts[1] = WORD.sub(" ", parts[1]).lower()
        found.append(PARTS.join(parts))
    return FACTS.join(found)


def _record(where: str, entry: xml.Element, lang: str | None) -> dict[str, Any] | None:
    """Of an entry; None where it has no text of the language."""
    triples = [triple.text or "" for triple in entry.iter("mtriple")]
    asked = (None, "", lang)
    own = (lex for lex in entry.iter("lex") if lang is None or lex.get("lang") in asked)
    found = (lex.findtext("text") or lex.text or "" for lex in own)
    texts = tuple(" ".join(text.split()) for text in found if text.strip())
    if not triples or not texts:
        return None
    try:
        source = linearised(triples)
    except ValueError as error:
        raise UserError(f"{where}: entry {entry.get('eid')}: {error}") from None
    return {"source": source, "target": texts[0], "targets": texts}
