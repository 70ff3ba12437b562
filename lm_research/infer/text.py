"""Requests as text or tokens, line by line, and text from tokens as they come."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np

from lm_research import log
from lm_research.data import Tokenizer
from lm_research.data.text import check_unicode, parsed, whole_text
from lm_research.errors import UserError
from lm_research.models import EncoderDecoder

HALF = "\ufffd"  # what a tokenizer makes of bytes that are no whole character


@dataclasses.dataclass(frozen=True)
class Line:
    """One request.

    Attributes:
      where: its file and line, for messages.
      text: or None where it came as tokens.
      tokens: or None where it came as text.
      source: what a text to score was written from, where it says so.
      pair: a second text, where there is one to be read with the first.
      words: of a sentence that came in words, and has no text.
    """

    where: str
    text: str | None = None
    tokens: np.ndarray | None = None
    source: "Line | None" = None
    pair: str | None = None
    words: tuple[str, ...] | None = None


def lines(path: Path) -> list[Line]:
    """The requests in a file: of JSON where its name ends in .jsonl, else a text in each line.

    A line of JSON is {"text": "..."}, {"tokens": [1, 2]} or {"words": ["...", "..."]}, perhaps with
    a "source", as text or tokens, or besides a text a second one, its "pair". Either file may end
    in .gz. Tables are refused, whose rows are no texts.

    Raises:
      UserError: there is no such file, or nothing in it, it is a table, or a line is neither; names
        file and line.
    """
    if not path.is_file():
        raise UserError(f"cannot read {path}: there is no such file")
    if is_table(path):
        raise UserError(
            f"{path} is a table by its name, and nothing says which columns are texts; give a text "
            'per line of a .txt file, or {"text": "..."} per line of a .jsonl file (predict reads '
            "tables like the ones that a run was trained on)"
        )
    text = whole_text(path)
    # Not splitlines: a JSON string may hold the other characters that end lines.
    numbered = enumerate(text.removesuffix("\n").split("\n"), 1)
    if jsonl(path):
        found = [_line(f"{path}:{i}", line) for i, line in numbered if line.strip()]
    else:
        found = [Line(f"{path}:{i}", text=line.removesuffix("\r")) for i, line in numbered]
    if not text.strip() or not found:
        raise UserError(
            f'{path} is empty; it takes {{"text": ...}} or {{"tokens": [...]}} per line'
        )
    return found


def jsonl(path: Path) -> bool:
    """Whether a file's name says that it has a JSON object per line."""
    return path.name.removesuffix(".gz").endswith((".jsonl", ".json"))


def is_table(path: Path) -> bool:
    """Whether a file's name says that it has rows of columns."""
    return path.name.removesuffix(".gz").endswith((".tsv", ".csv"))


def _line(where: str, line: str) -> Line:
    takes = 'it takes {"text": "..."} or {"tokens": [1, 2, ...]}'
    value = parsed(line, where)
    keys = {"text", "tokens", "words"} & set(value) if isinstance(value, dict) else set()
    if len(keys) != 1:
        raise UserError(f"{where} is {line[:60]}; {takes}")
    source = None
    if "source" in value:
        kind = "text" if isinstance(value["source"], str) else "tokens"
        source = _part(f"{where} (source)", kind, value["source"], takes)
    if not isinstance(value.get("pair", ""), str) or ("pair" in value and "text" not in value):
        raise UserError(f"{where} has a pair that is no second text; it takes two strings")
    [key] = keys
    found = _part(where, key, value[key], takes)
    return dataclasses.replace(found, source=source, pair=value.get("pair"))


def _part(where: str, key: str, value: Any, takes: str) -> Line:
    if key == "text":
        if not isinstance(value, str):
            raise UserError(f"{where} has a text that is no string; {takes}")
        return Line(where, text=value)
    if key == "words":
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise UserError(f"{where} has words that are no list of strings; {takes}")
        return Line(where, words=tuple(value))
    if not isinstance(value, list) or not all(type(t) is int and 0 <= t < 2**31 for t in value):
        raise UserError(f"{where} has tokens that are no list of ids; {takes}")
    return Line(where, tokens=np.array(value, np.int32))


def request(model: nn.Module) -> Callable[[Tokenizer, str], np.ndarray]:
    """How a model takes a text: as what it continues, or as a source to write another from."""
    return Tokenizer.complete if isinstance(model, EncoderDecoder) else Tokenizer.prompt


def tagged(line: Line, tag: str | None) -> Line:
    """A text to read, after a tag, where there is one; a blank text stays one."""
    if tag is None or not (line.text or "").strip():
        return dataclasses.replace(line, pair=None)
    return dataclasses.replace(line, text=f"{tag} {line.text}", pair=None)


def note_spelled(tag: str, tokenizer: Any) -> None:
    """Says where a tag such as <2de> is no token of its own, so that no model was told by it."""
    if re.fullmatch(r"<\S+>", tag) and (count := len(tokenizer.encode(tag))) > 1:
        log.fallback(f"the tag {tag}", f"{count} tokens that spell it", "the tokenizer has no such")


def encoded(
    line: Line, tokenizer: Any, encode: Callable[[Tokenizer, str], np.ndarray]
) -> np.ndarray:
    """The tokens of a request.

    Args:
      line: the request.
      tokenizer: None where the checkpoint has none.
      encode: the tokenizer's way to do so.

    Raises:
      UserError: it is text, and there is no tokenizer or it does not know a character.
    """
    if line.tokens is not None:
        return line.tokens
    if line.text is None:
        raise UserError(f"{line.where} has words, which are for a model that labels each")
    if tokenizer is None:
        raise UserError(
            f"{line.where} is text, and the checkpoint has no tokenizer; give token ids: "
            '{"tokens": [1, 2, ...]} per line of --input'
        )
    check_unicode(line.text + (line.pair or ""), line.where)
    try:
        return encode(tokenizer, line.text)
    except UserError as error:
        raise UserError(f"{line.where}: {error}") from None


class Transcript:
    """The text of a continuation as its tokens come: no half characters, nothing taken back.

    It ends before the first of the texts to stop at.
    """

    def __init__(self, tokenizer: Any, prompt: Iterable[int], stops: Sequence[str] = ()):
        self._tokenizer, self._ids = tokenizer, list(prompt)
        self._stops = stops
        # Some tokenizers drop a space at the beginning, so a continuation is decoded after its
        # prompt.
        self._told = self._start = len(tokenizer.decode(self._ids).rstrip(HALF))

    @property
    def stopped(self) -> bool:
        """Whether a text to stop at has come."""
        return self._end(self._tokenizer.decode(self._ids)) is not None

    def add(self, tokens: Sequence[int]) -> str:
        """The text that is certain now and was not before."""
        self._ids += list(tokens)
        text = self._tokenizer.decode(self._ids).rstrip(HALF)
        held = max((_overlap(text[self._start :], stop) for stop in self._stops), default=0)
        return self._new(text, held)

    def rest(self) -> str:
        """What is left once all tokens are there, half characters included."""
        return self._new(self._tokenizer.decode(self._ids))

    def _end(self, text: str) -> int | None:
        """Where the first text to stop at begins."""
        found = (text.find(stop, self._start) for stop in self._stops)
        return min((place for place in found if place >= 0), default=None)

    def _new(self, text: str, held: int = 0) -> str:
        """What was not told yet, without the `held` characters at the end."""
        end = self._end(text)
        text = text[: len(text) - held if end is None else end]
        new = text[self._told :]
        self._told = max(self._told, len(text))
        return new


def _overlap(text: str, stop: str) -> int:
    """How much of the end of a text may be the beginning of one to stop at."""
    return next((n for n in range(len(stop) - 1, 0, -1) if text.endswith(stop[:n])), 0)


def stopping(
    tokenizer: Any, prompts: Sequence[Iterable[int]], stops: Sequence[str]
) -> Callable[[int, np.ndarray], int | None]:
    """What tells `generate` after how many tokens a text to stop at is there."""

    def told(request: int, tokens: np.ndarray) -> int | None:
        stopped = lambda count: _stopped(tokenizer, prompts[request], tokens[:count], stops)
        if not stopped(len(tokens)):
            return None
        return next(count for count in range(1, len(tokens) + 1) if stopped(count))

    return told


def _stopped(tokenizer: Any, prompt: Iterable[int], tokens: Sequence[int], stops) -> bool:
    transcript = Transcript(tokenizer, prompt, stops)
    transcript.add(tokens)
    return transcript.stopped


def continuation(
    tokenizer: Any, prompt: Iterable[int], tokens: Sequence[int], stops: Sequence[str] = ()
) -> str:
    """The text of `tokens` after `prompt`, up to the first of the texts to stop at."""
    transcript = Transcript(tokenizer, prompt, stops)
    return transcript.add(tokens) + transcript.rest()


def answer(
    tokenizer: Any,
    model: nn.Module,
    prompt: Iterable[int],
    tokens: Sequence[int],
    stops: Sequence[str] = (),
) -> str:
    """The text of `tokens` that a model wrote, without special tokens.

    Args:
      tokenizer: what the ids mean.
      model: an encoder-decoder's text has nothing before it, another's goes on with the prompt.
      prompt: what the model was given.
      tokens: what it wrote.
      stops: texts before the first of which it ends.
    """
    roles = (tokenizer.eos, tokenizer.bos, tokenizer.pad, tokenizer.cls, tokenizer.sep)
    kept = [token for token in tokens if token not in roles]
    return continuation(tokenizer, () if isinstance(model, EncoderDecoder) else prompt, kept, stops)
