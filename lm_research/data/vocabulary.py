"""Tokenizers as a config names them: bytes, characters, byte-level BPE, or somebody else's."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, Protocol, runtime_checkable

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from lm_research.data.bag import LINE, UNKNOWN, Bag, check_bag
from lm_research.data.tokenizer import CHARACTER, END, SENTINEL, Tokenizer, byte_level, load
from lm_research.errors import UserError

Role = Literal["pad", "mask", "cls", "sep"]  # what a tokenizer of ours has besides when asked


@runtime_checkable
class Trains(Protocol):
    """Makes a tokenizer of texts."""

    def train(self, texts: Iterable[str]) -> "Tokenizer": ...


@dataclasses.dataclass(frozen=True)
class Bytes:
    """UTF-8 bytes, ids 0 to 255, and the end of a text, id 256; nothing to train.

    Attributes:
      roles: special tokens to have besides, in this order.
      sentinels: how many sentinel tokens to have.
    """

    roles: tuple[Role, ...] = ()
    sentinels: int = 0

    def train(self, texts: Iterable[str]) -> Tokenizer:
        """The tokenizer; it does not read `texts`."""
        del texts
        vocab = {character: byte for byte, character in _byte_characters().items()}
        tokenizer = byte_level(models.BPE(vocab=vocab, merges=[]), use_regex=False)
        special = _special_tokens(self.roles)
        tokenizer.add_special_tokens(_spelled(special, self.sentinels))
        _frame(tokenizer, special)
        return Tokenizer(tokenizer, special)


@dataclasses.dataclass(frozen=True)
class Characters:
    """The characters of the texts, sorted, as in nanoGPT.

    Where there is more than one text, the last id is the end of a text.
    """

    def train(self, texts: Iterable[str]) -> Tokenizer:
        """A tokenizer of the characters in `texts`.

        Raises:
          UserError: there are none.
        """
        found: set[str] = set()
        count = 0
        for text in texts:
            found.update(text)
            count += 1
        if not found:
            raise UserError("the texts to find characters in are empty")
        model = models.WordLevel(vocab={c: i for i, c in enumerate(sorted(found))})
        tokenizer = tokenizers.Tokenizer(model)
        tokenizer.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(CHARACTER), "isolated")
        tokenizer.decoder = decoders.Fuse()
        if count == 1:
            return Tokenizer(tokenizer, {})
        tokenizer.add_special_tokens([END])
        return Tokenizer(tokenizer, _special_tokens())


@dataclasses.dataclass(frozen=True)
class BPE:
    """Byte pairs merged by frequency, as in GPT-2; id 0 is the end of a text.

    Attributes:
      vocab: V, the special tokens and the 256 bytes included.
      characters: how much text to learn from, at most, from its beginning.
      roles: special tokens to have besides the end of a text, in this order from id 1 on.
      sentinels: how many sentinel tokens to have, after them.
      tags: texts such as <2de> to have as a token each, the last ones; unlike a special token's,
        their spelling in a text means them.
    """

    vocab: int
    characters: int = 2_000_000_000
    roles: tuple[Role, ...] = ()
    sentinels: int = 0
    tags: tuple[str, ...] = ()

    def __post_init__(self):
        special = _spelled(_special_tokens(self.roles), self.sentinels)
        least = 256 + len(special) + len(self.tags)
        if self.vocab < least:
            raise UserError(
                f"BPE's vocab is {self.vocab}; it takes {least} or more: 256 bytes, "
                f"{END} and {least - 257} other special tokens and tags"
            )

    def train(self, texts: Iterable[str]) -> Tokenizer:
        """A tokenizer learned from `texts`; a small text gives a smaller vocabulary."""
        tokenizer = byte_level(models.BPE())
        special = _special_tokens(self.roles)
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab - len(self.tags),
            special_tokens=_spelled(special, self.sentinels),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(_first(texts, self.characters), trainer)
        tokenizer.add_tokens([tokenizers.AddedToken(tag, normalized=False) for tag in self.tags])
        _frame(tokenizer, special)
        return Tokenizer(tokenizer, special)


@dataclasses.dataclass(frozen=True)
class Words:
    """What stands between spaces, and hashed n-grams besides, as in fastText: see `Bag`.

    Attributes:
      least: how often a word occurs, at least, to be known.
      most: how many words to know, the most frequent ones; None is all.
      lowercase: whether capitals become small letters.
      order: of n-grams of words, up to this many; 1 has none.
      characters: the least and the greatest length of n-grams of characters; None has none.
      buckets: how many ids the n-grams share.
    """

    least: int = 1
    most: int | None = None
    lowercase: bool = False
    order: int = 1
    characters: tuple[int, int] | None = None
    buckets: int = 2_000_000

    def __post_init__(self):
        check_bag(self.order, self.characters, self.buckets)

    def train(self, texts: Iterable[str]) -> Bag:
        """A bag of the words in `texts`, the most frequent ones first."""
        tokenizer = tokenizers.Tokenizer(models.WordLevel(unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        if self.lowercase:
            tokenizer.normalizer = normalizers.Lowercase()
        trainer = trainers.WordLevelTrainer(
            vocab_size=2**31 if self.most is None else self.most + 2,
            min_frequency=self.least,
            special_tokens=[LINE, UNKNOWN],
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        settings = dict(order=self.order, characters=self.characters, buckets=self.buckets)
        return Bag(tokenizer, {"unk": UNKNOWN}, {"bag": settings})


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A tokenizer in a directory; nothing to train."""

    path: str

    def train(self, texts: Iterable[str]) -> Tokenizer:
        """The tokenizer; it does not read `texts`."""
        del texts
        return load(self.path)


def _special_tokens(roles: Iterable[Role] = ()) -> dict[str, str]:
    """How our own tokenizers spell special tokens: a text ends, and another begins, with `END`."""
    return {"eos": END, "bos": END, **{role: f"<|{role}|>" for role in roles}}


def _frame(tokenizer: tokenizers.Tokenizer, special: Mapping[str, str]) -> None:
    """Puts a whole text, and two of them, between `cls` and `sep` where there are both, as BERT."""
    if not {"cls", "sep"} <= set(special):
        return
    cls, sep = special["cls"], special["sep"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (cls, sep)],
    )


def _spelled(special: Mapping[str, str], sentinels: int) -> list[str]:
    """Special tokens and sentinels, in the order of their ids."""
    return [*dict.fromkeys(special.values()), *(SENTINEL.format(i) for i in range(sentinels))]


def _byte_characters() -> dict[int, str]:
    """How byte-level models write each byte: printable ones stand for themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = itertools.count(256)
    return {byte: chr(byte) if byte in printable else chr(next(others)) for byte in range(256)}


def _first(texts: Iterable[str], characters: int) -> Iterator[str]:
    for text in texts:
        if characters <= 0:
            return
        yield text[:characters]
        characters -= len(text)
