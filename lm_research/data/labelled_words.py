"""Sentences of words, each with a label, as token arrays with the labels at first subwords."""

import dataclasses
import functools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lm_research import log
from lm_research.config import at_least
from lm_research.data import shards
from lm_research.data import tokenizer as tokenizers
from lm_research.data.conll import CoNLL
from lm_research.data.prepare import (
    Part,
    Prepared,
    Preparing,
    check_classes,
    check_parts,
    check_running,
    determined,
    held_out,
    listed,
    naming,
    prepared_facts,
    where,
    with_others,
)
from lm_research.data.shards import Shards, replacing
from lm_research.data.source import Source, within
from lm_research.data.texts import document, sizes
from lm_research.data.tokenizer import Tokenizer
from lm_research.data.vocabulary import Trains
from lm_research.errors import UserError

TEXTS, LABELS = "{}_words", "{}_word_labels"  # directories by part
NONE = -1  # the label of a token that begins no word, and the place of a word that has no token
AT_ONCE = 1024  # sentences that are encoded together


@dataclasses.dataclass(frozen=True)
class WordTexts:
    """Records {"text": ids, "labels": int32 of the same tokens, -1 at those that begin no word}.

    Attributes:
      shards: the sentences.
      directory: has the labels of their words.
      frame: ids before and after every sentence.
      length: tokens of a record at most; longer ones lose what is too much, at their end.
    """

    shards: Shards
    directory: Path
    frame: tuple[np.ndarray, np.ndarray]
    length: int

    def __len__(self) -> int:
        return self.shards.index["documents"]

    def __getitem__(self, index: int) -> dict[str, Any]:
        before, after = self.frame
        ids = document(self.shards, within(index, len(self)))[: self.room]
        text = np.concatenate([before, ids, after]).astype(np.int32)
        labels = np.full(len(text), NONE, np.int32)
        places, own = self.words(index)
        labels[places[places >= 0]] = own[places >= 0]
        return {"text": text, "labels": labels}

    def words(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Where the record has each word's first token, -1 where it was cut; and the labels."""
        begin = self.ends[index - 1] if index else 0
        own = slice(begin, self.ends[index])
        places = self.starts[own]
        kept = (places >= 0) & (places < self.room)
        return np.where(kept, places + len(self.frame[0]), NONE), self.labels[own]

    @property
    def room(self) -> int:
        """Tokens of a sentence at most, without its frame."""
        return max(0, self.length - sum(map(len, self.frame)))

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each record: int64 [records]."""
        return np.minimum(sizes(self.shards), self.room) + sum(map(len, self.frame))

    labels = functools.cached_property(lambda self: np.load(self.directory / "labels.npy"))
    starts = functools.cached_property(lambda self: np.load(self.directory / "starts.npy"))
    ends = functools.cached_property(lambda self: np.load(self.directory / "ends.npy"))

    def tell_lost(self, part: str) -> None:
        """Says how many words have no token, if any have none."""
        cut, none = int((self.starts >= self.room).sum()), int((self.starts < 0).sum())
        if cut:
            long = int((sizes(self.shards) > self.room).sum())
            asked = f"{cut:,} of {len(self.starts):,} {part} words, in {long:,} long sentences"
            got = f"the first {self.length} tokens of these"
            log.fallback(asked, got, "objective.length is no more; in evaluation they are wrong")
        if none:
            asked = f"{none:,} of {len(self.starts):,} {part} words"
            log.fallback(asked, "the others", "the tokenizer makes no tokens of them")

    def __reduce__(self):
        return WordTexts, (self.shards, self.directory, self.frame, self.length)


@dataclasses.dataclass(frozen=True)
class LabelledWords(Preparing):
    """Sentences of words with a label each, for `Tag`.

    Words are encoded one by one, and each one's label stands at its first token.

    Attributes:
      source: records with `words` and as many `labels`.
      tokenizer: trained on the train part, a space between its words.
      heldout: the share of sentences to hold out, or a source of its own.
      classes: names of the labels in their order; None is those of the train part, or where a
        share of it is held out, of both, sorted.
      shuffle: whether sentences come in random order.
      others: further sources to be judged by, under names of their own.
      grouped: see `Labelled`.
    """

    source: Source
    tokenizer: Trains
    heldout: float | Source = 0.05
    classes: tuple[str, ...] | None = None
    shuffle: bool = True
    others: Mapping[str, Source] = dataclasses.field(default_factory=dict)
    grouped: int = 1

    def __post_init__(self):
        check_parts(self.heldout, self.others)
        check_classes(self.classes)
        at_least(self, "data", 1, "grouped")

    def prepared(self, directory: Path, length: int) -> Prepared:
        """What `prepare` left in a directory, whatever has become of the sentences since.

        Raises:
          UserError: there is nothing, or it is damaged.
        """
        directory, facts = Path(directory), prepared_facts(directory)
        tokenizer = tokenizers.load(directory / "tokenizer")
        parts = {}
        for part in ("train", "heldout", *facts["others"]):
            found = Shards(directory / TEXTS.format(part))
            found.verify_cheaply()
            labels = directory / LABELS.format(part)
            parts[part] = WordTexts(found, labels, tokenizer.frame, length)
            facts[f"{part}_tokens"] = int(parts[part].lengths.sum())
            parts[part].tell_lost(part)
        train, heldout = parts.pop("train"), parts.pop("heldout")
        return Prepared(train, heldout, tokenizer, facts, tuple(facts["classes"]), others=parts)

    def _asked(self) -> dict[str, Any]:
        """What the prepared data hangs on."""
        found = determined(self.source, self.tokenizer, self.heldout, self.others)
        return {**found, "classes": self.classes}

    def _made(self, directory: Path) -> dict[str, Any]:
        """Writes tokenizer, shards and labels; what the run should say of them.

        Raises:
          UserError: a sentence has not as many labels as words, or a part to be judged by a label
            of no class.
        """
        parts = with_others(held_out(self.source, self.heldout), self.others)
        named = (parts[part] for part in naming(self.heldout))
        seen = (label for part in named for _, _, labels in sentences(part) for label in labels)
        classes = self.classes or tuple(sorted(set(seen)))
        running = (" ".join(words) for _, words, _ in sentences(parts["train"]))
        tokenizer = self.tokenizer.train(running)
        check_running(tokenizer)
        tokenizer.save(directory / "tokenizer")
        facts: dict[str, Any] = {}
        for name, part in parts.items():
            _check(part, classes)
            facts |= _written(directory, name, part, tokenizer, classes)
        for name in ("heldout", *self.others):
            if name != "heldout" or self.heldout != self.source:
                facts[f"{name}_most_frequent"] = most_frequent(parts["train"], parts[name])
        named = {"tokenizer": tokenizer.hash, "vocab": tokenizer.vocab, "classes": classes}
        return {**named, **facts, "others": list(self.others), "content": facts["train_texts"]}


def sentences(part: Part) -> Iterator[tuple[int, list[str], list[str]]]:
    """The place of each sentence, its words and their labels.

    Raises:
      UserError: a record has no words, or not as many labels; says which.
    """
    source, places = part
    for place in places.tolist():
        record = source[place]
        words, labels = record.get("words"), record.get("labels")
        if not words or labels is None or len(words) != len(labels):
            counts = f"{len(words or ())} words and {len(labels or ())} labels"
            raise UserError(f"{_where(source, place)} has {counts}; it takes one for each word")
        yield place, list(words), list(map(str, labels))


def most_frequent(train: Part, part: Part) -> float:
    """The share of words that have the label that they have most often in training.

    A word that never came there is taken to have the most frequent label of all.
    """
    counts, every = defaultdict(Counter), Counter()
    for _, words, labels in sentences(train):
        every.update(labels)
        for word, label in zip(words, labels):
            counts[word][label] += 1
    usual = every.most_common(1)[0][0]
    best = {word: found.most_common(1)[0][0] for word, found in counts.items()}
    right = total = 0
    for _, words, labels in sentences(part):
        right += sum(best.get(word, usual) == label for word, label in zip(words, labels))
        total += len(words)
    return right / total


def _check(part: Part, classes: Sequence[str]) -> None:
    """Refuses a label of no class.

    Raises:
      UserError: says where it is.
    """
    known = set(classes)
    for place, words, labels in sentences(part):
        for i, label in enumerate(labels):
            if label not in known:
                raise UserError(
                    f"{_where(part[0], place, i)} has the label {label!r} ({words[i]}), of no "
                    f"class; they are {listed(classes)}"
                )


def _written(
    directory: Path, name: str, part: Part, tokenizer: Tokenizer, classes: Sequence[str]
) -> dict[str, Any]:
    """Writes a part; what a run should say of it."""
    number = {label: i for i, label in enumerate(classes)}
    labels: list[int] = []
    starts: list[np.ndarray] = []
    ends: list[int] = []

    def encoded() -> Iterator[tuple[str, np.ndarray]]:
        found = list(sentences(part))
        for first in range(0, len(found), AT_ONCE):
            batch = found[first : first + AT_ONCE]
            ids = tokenizer.encode_words([words for _, words, _ in batch])
            for (_, words, own), (tokens, places) in zip(batch, ids):
                labels.extend(number[label] for label in own)
                starts.append(places)
                ends.append(len(labels))
                yield " ".join(words), tokens

    written = shards.write_encoded(directory / TEXTS.format(name), encoded(), tokenizer)
    with replacing(directory / LABELS.format(name)) as temporary:
        np.save(temporary / "labels.npy", np.array(labels, np.int32))
        np.save(temporary / "starts.npy", np.concatenate(starts))
        np.save(temporary / "ends.npy", np.array(ends, np.int64))
    told = {"documents": len(ends), "words": len(labels), "bytes": written.index["bytes"]}
    told["texts"] = written.index["texts"]
    return {f"{name}_{key}": value for key, value in told.items()}


def _where(source: Source, place: int, word: int = 0) -> str:
    if isinstance(source, CoNLL):
        return source.where(place, word)
    return where(source, place)
