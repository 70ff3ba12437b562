"""`Instruct`: conversations as rows of tokens, of which the answers are learned."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lm_research import log
from lm_research.data import shards
from lm_research.data import tokenizer as tokenizers
from lm_research.data.chat import conversed, templated
from lm_research.data.chat_template import NAMED, template
from lm_research.data.pairs import Originals
from lm_research.data.prepare import (
    Part,
    Prepared,
    Preparing,
    check_heldout,
    check_running,
    determined,
    held_out,
    prepared_facts,
    where,
)
from lm_research.data.rows import Rows, filled, numbered
from lm_research.data.shards import Shards, replacing
from lm_research.data.source import Source, within
from lm_research.data.texts import document, sizes
from lm_research.data.tokenizer import Tokenizer
from lm_research.data.vocabulary import Pretrained, Trains
from lm_research.errors import UserError

ORIGINALS = "heldout.jsonl"


@dataclasses.dataclass(frozen=True)
class Turns:
    """Records {"tokens": ids, "weights": 1 of an answer's} of conversations with an answer in them.

    Attributes:
      shards: all conversations.
      directory: has which of their tokens are answers.
      length: tokens at most; of a longer conversation the end is cut, and one of which all answers
        are cut is left out.
    """

    shards: Shards
    directory: Path
    length: int
    names = ("tokens", "weights")

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        place = int(self.places[within(index, len(self))])
        ids = document(self.shards, place)[: self.length].astype(np.int32)
        start = self._starts[place]
        return {"tokens": ids, "weights": self.answers[start : start + len(ids)].astype(np.float32)}

    def __reduce__(self):
        return Turns, (self.shards, self.directory, self.length)

    @functools.cached_property
    def answers(self) -> np.ndarray:
        """Which tokens of all conversations, one after another, are answers: bool [tokens]."""
        return np.load(self.directory / "answers.npy", mmap_mode="r")

    @functools.cached_property
    def places(self) -> np.ndarray:
        """The conversations of which an answer's beginning is left: int64 [records]."""
        total = np.append(0, np.cumsum(self.answers))
        stops = self._starts + np.minimum(self._sizes, self.length)
        return np.flatnonzero(total[stops] > total[self._starts])

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each record, before any is cut, by name: int64 [2, records]."""
        return np.stack([self._sizes[self.places]] * 2)

    @functools.cached_property
    def _sizes(self) -> np.ndarray:
        return sizes(self.shards)

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        return np.cumsum(self._sizes) - self._sizes

    def tell_cut(self, part: str) -> None:
        """Says how many conversations are cut, and how many left out, if any are."""
        why = f"objective.length is {self.length - 1}"
        if cut := int((self.lengths[0] > self.length).sum()):
            asked = f"{cut:,} of {len(self):,} {part} conversations, longer than {self.length}"
            log.fallback(f"{asked} tokens", "their beginnings", why)
        if lost := len(self._sizes) - len(self):
            asked = f"{lost:,} of {len(self._sizes):,} {part} conversations"
            log.fallback(asked, "the others", f"nothing of their answers is left where {why}")


@dataclasses.dataclass(frozen=True)
class ChatRows:
    """Records as `Causal` reads them, [T + 1] each, of several conversations that see no other.

    Attributes:
      rows: the conversations of each row, which are no longer than T + 1 together.
    """

    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        row, size = self.rows[index], self.rows.length
        segments, position = numbered(row["counts"]["tokens"])
        weights = np.where(position > 0, row["weights"], 0)  # nothing predicts the first
        found = {"tokens": row["tokens"], "segments": segments, "position": position}
        found = {name: filled(array, size) for name, array in found.items()}
        return {**found, "weights": filled(weights, size, np.float32)}


@dataclasses.dataclass(frozen=True)
class Instruct(Preparing):
    """Conversations as token arrays, for `Causal`: a loss on answers alone, those of all turns.

    Attributes:
      source: records with `messages`, such as `Conversations`.
      tokenizer: trained on what is said in the train part. Special tokens of the template that it
        lacks become its last ones; a model that is there already must have rows for them.
      heldout: the share of conversations to hold out, or a source of its own.
      template: "own" is the tokenizer's; "chatml" and "alpaca" are ours; a name that ends in .jinja
        is a file's. "auto" takes the tokenizer's where it has one, else "alpaca".
      shuffle: whether rows come in random order.
    """

    source: Source
    tokenizer: Trains
    heldout: float | Source = 0.05
    template: str = "auto"
    shuffle: bool = True

    def __post_init__(self):
        check_heldout(self.heldout)
        if self.template not in ("auto", "own", *NAMED) and not self.template.endswith(".jinja"):
            raise UserError(
                f"data.template is {self.template!r}; it takes auto, own, {', '.join(NAMED)}, or "
                "the name of a .jinja file"
            )

    def prepared(self, directory: Path, length: int) -> Prepared:
        """What `prepare` left in a directory, whatever has become of the files since.

        Raises:
          UserError: there is nothing, or it is damaged, or `length` cuts every answer.
        """
        directory, facts, parts = Path(directory), prepared_facts(directory), {}
        tokenizer = tokenizers.load(directory / "tokenizer")
        for part in ("train", "heldout"):
            found = Shards(directory / f"{part}_turns")
            found.verify_cheaply()
            turns = Turns(found, directory / f"{part}_answers", length + 1)
            turns.tell_cut(part)
            if not len(turns):
                raise UserError(
                    f"no {part} conversation has an answer that begins in its first {length + 1} "
                    "tokens (objective.length)"
                )
            parts[part] = ChatRows(Rows(turns, length + 1))
        facts["train_rows"] = len(parts["train"])
        texts = Originals(directory / ORIGINALS)
        return Prepared(parts["train"], parts["heldout"], tokenizer, facts, texts=texts)

    def _asked(self) -> dict[str, Any]:
        """What the prepared data hangs on."""
        found = determined(self.source, self.tokenizer, self.heldout)
        own = self.tokenizer.train(()) if isinstance(self.tokenizer, Pretrained) else None
        return {**found, "template": self.template, "source": self._template(own, strict=False)}

    def _made(self, directory: Path) -> dict[str, Any]:
        """Writes tokenizer, shards and which tokens are answers; what the run should say of it.

        Raises:
          UserError: a row cannot be read, or is no conversation to the template; says which.
        """
        parts = held_out(self.source, self.heldout)
        tokenizer = self.tokenizer.train(_said(parts["train"]))
        check_running(tokenizer)
        before = tokenizer.vocab
        tokenizer = templated(tokenizer, self._template(tokenizer))
        tokenizer.save(directory / "tokenizer")
        if not _ends(tokenizer, parts["train"]):
            asked, why = "a token that ends each answer", "the chat template writes none after it"
            log.fallback(asked, "answers without an end", why)
        facts: dict[str, Any] = {"tokenizer": tokenizer.hash, "vocab": tokenizer.vocab}
        facts |= {"tokens_added": tokenizer.vocab - before, "template": tokenizer.chat.source}
        for part, given in parts.items():
            facts |= _written(directory, part, given, tokenizer)
        Originals.written(directory / ORIGINALS, _last_turns(parts["heldout"]))
        return {**facts, "content": facts["train_texts"]}

    def _template(self, tokenizer: Tokenizer | None, strict: bool = True) -> str | None:
        """The template's source; where it is not `strict`, None if only a tokenizer would tell."""
        own = self.template in ("auto", "own")
        if tokenizer is None and not self.template.endswith(".jinja"):
            return None
        if own and tokenizer.chat is not None:
            return tokenizer.chat.source
        if self.template == "own" and strict:
            raise UserError(
                "data.template is 'own', and the tokenizer has no chat template; it takes "
                f"{', '.join(NAMED)}, or the name of a .jinja file"
            )
        bos = tokenizer is not None and tokenizer.begins
        return template("alpaca" if own else self.template, bos, "data.template")


def _messages(part: Part) -> Iterator[tuple[str, list]]:
    """Where each conversation of a part is from, and its messages."""
    source, places = part
    for place in places.tolist():
        yield where(source, place), source[place]["messages"]


def _said(part: Part) -> Iterator[str]:
    """What a tokenizer learns from."""
    for _, messages in _messages(part):
        yield from (text for m in messages for name, text in m.items() if name != "role")


def _conversed(part: Part, tokenizer: Tokenizer) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for here, messages in _messages(part):
        try:
            yield conversed(tokenizer, messages)
        except UserError as error:
            raise UserError(f"{here}: {error}") from None


def _ends(tokenizer: Tokenizer, part: Part) -> bool:
    """Whether the first answer of a part ends with a special token."""
    ids, answers = next(_conversed(part, tokenizer))
    return int(ids[answers][-1]) in tokenizer.special_ids


def _written(directory: Path, part: str, given: Part, tokenizer: Tokenizer) -> dict[str, Any]:
    """Writes the conversations of a part; what a run should say of them.

    Tokens and bytes are those of the answers, which are what is predicted.
    """
    masks, count = [], {"tokens": 0, "bytes": 0}

    def encoded() -> Iterator[tuple[str, np.ndarray]]:
        for ids, answers in _conversed(given, tokenizer):
            masks.append(answers)
            count["tokens"] += int(answers.sum())
            plain = [i for i in ids[answers].tolist() if i not in tokenizer.special_ids]
            count["bytes"] += len(tokenizer.decode(plain).encode())
            yield tokenizer.decode(ids), ids

    written = shards.write_encoded(directory / f"{part}_turns", encoded(), tokenizer)
    with replacing(directory / f"{part}_answers") as temporary:
        np.save(temporary / "answers.npy", np.concatenate(masks))
    told = {"documents": len(masks), "texts": written.index["texts"], **count}
    return {f"{part}_{name}": value for name, value in told.items()}


def _last_turns(part: Part) -> Iterator[dict[str, Any]]:
    """Of each conversation its last answer as the target, and the messages before it."""
    for _, messages in _messages(part):
        last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
        before = messages[:last]
        source = before[-1]["content"] if before else ""
        yield {"source": source, "messages": before, "targets": [messages[last]["content"]]}
