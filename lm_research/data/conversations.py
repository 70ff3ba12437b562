"""`Conversations`: what users and assistants said, from files of instructions or of messages."""

import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from lm_research import log
from lm_research.data.chat_template import ROLES, Message
from lm_research.data.source import ReadWhole
from lm_research.data.text import named_files, numbered_lines, parsed, stamps, whole_text
from lm_research.errors import UserError

SUFFIXES = (".json", ".jsonl")
# What a row has beside its `instruction`: of Alpaca, and of Dolly.
INPUTS, OUTPUTS = ("input", "context"), ("output", "response")


@dataclasses.dataclass(frozen=True)
class Conversations(ReadWhole):
    """Records {"messages": [{"role": str, "content": str}, ...]}, held in memory once asked for.

    A row has `messages`; or an `instruction`, perhaps with an `input` (Alpaca) or a `context`
    (Dolly), and an `output` or a `response`. Answers lose the space around them.

    Attributes:
      paths: .json files, each a list of rows, and .jsonl files; several as a tuple or with commas
        between. All may end in .gz.
      empty: what to do with a row of which an answer is empty: refuse the file, or leave it out.
      system: a message that conversations without one of their own begin with.
    """

    paths: str | tuple[str, ...]
    empty: Literal["refuse", "leave out"] = "refuse"
    system: str | None = None

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"messages": super().__getitem__(index)}

    @functools.cached_property
    def files(self) -> tuple[Path, ...]:
        """Every file, in order.

        Raises:
          UserError: one is missing, or of a kind that is not read.
        """
        return named_files(self.paths, "conversations", SUFFIXES)

    def fingerprint(self) -> str:
        """Changes when a file does: of names, sizes and times of writing."""
        return json.dumps([self.empty, self.system, *stamps(self.files)])

    @functools.cached_property
    def _read(self) -> tuple[list[str], list[list[Message]]]:
        """Where each record is from, and its messages."""
        places, records, left_out = [], [], []
        for where, row in (pair for file in self.files for pair in _rows(file)):
            messages = checked(where, _messages(where, row))
            if self.system is not None and messages[0]["role"] != "system":
                messages = [{"role": "system", "content": self.system}, *messages]
            if all(m["content"] for m in messages if m["role"] == "assistant"):
                places.append(where)
                records.append(messages)
            elif self.empty == "leave out":
                left_out.append(where)
            else:
                raise UserError(
                    f"{where} has an empty answer; source.empty='leave out' goes on without it"
                )
        if left_out:
            what = f"{len(left_out):,} conversations (the first is {left_out[0]})"
            log.fallback(what, "the others", "an answer of theirs is empty")
        if not records:
            raise UserError(f"{self.files[0]} holds no conversations")
        return places, records


def _rows(file: Path) -> Iterator[tuple[str, Any]]:
    """Where each row of a file is, and what it holds."""
    text = whole_text(file)
    if file.name.removesuffix(".gz").endswith(".jsonl"):
        for number, line in numbered_lines(text):
            yield f"{file}:{number}", parsed(line, f"{file}:{number}")
        return
    content = parsed(text, str(file))
    if not isinstance(content, list):
        raise UserError(f"{file} is no list of rows; rows of a line each are called .jsonl")
    yield from ((f"{file}, row {number}", row) for number, row in enumerate(content, 1))


def _messages(where: str, row: Any) -> list[Any]:
    """The messages of a row, as it has them."""
    if isinstance(row, dict) and isinstance(row.get("messages"), list) and row["messages"]:
        return row["messages"]
    output = next((name for name in OUTPUTS if isinstance(row, dict) and name in row), None)
    if output is None or "instruction" not in row:
        has = ", ".join(map(repr, row)) if isinstance(row, dict) else repr(row)[:60]
        raise UserError(
            f"{where} has {has or 'nothing'}; it takes a list 'messages', or 'instruction' and "
            "'output' (or 'response')"
        )
    given = next((row[name] for name in INPUTS if row.get(name)), None)
    user = {"role": "user", "content": row["instruction"]}
    user |= {} if given is None else {"input": given}
    return [user, {"role": "assistant", "content": row[output]}]


def checked(where: str, messages: list[Any]) -> list[Message]:
    """Messages of a known role and a text each, an answer among them.

    Raises:
      UserError: one is none, or there is no answer; says where.
    """
    found = []
    for number, message in enumerate(messages, 1):
        here = f"message {number} of {where}" if len(messages) > 1 else where
        given = message if isinstance(message, dict) else {}
        if any(not isinstance(given.get(name), str) for name in ("role", "content")):
            raise UserError(f"{here} is {str(message)[:60]}; it takes texts 'role' and 'content'")
        if given["role"] not in ROLES:
            known = ", ".join(ROLES)
            raise UserError(f"{here} has the role {given['role']!r}; it takes one of {known}")
        if not isinstance(given.get("input", ""), str):
            raise UserError(f"{here} has an input that is no text: {str(given['input'])[:60]}")
        kept = {name: given[name] for name in ("role", "content", "input") if name in given}
        answer = given["role"] == "assistant"
        found.append({**kept, "content": kept["content"].strip()} if answer else kept)
    if not any(message["role"] == "assistant" for message in found):
        raise UserError(f"{where} has no answer: no message of the role 'assistant'")
    return found
