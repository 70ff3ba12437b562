"""Tokenizers: bytes, characters, byte-level BPE, and those that somebody else trained."""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from lm_research.errors import UserError

END = "<|endoftext|>"
FILES = ("tokenizer.json", "vocab.json")  # any of these makes a directory a tokenizer's
_CHARACTER = r"[\s\S]"
_NOT_A_CHARACTER = -1


@runtime_checkable
class Trains(Protocol):
    """Makes a tokenizer of texts."""

    def train(self, texts: Iterable[str]) -> "Tokenizer": ...


class Tokenizer:
    """Text to ids and back.

    Text is text: what spells a special token in it is encoded letter by letter, and no special
      tokens are added.

    Attributes:
      vocab: V, one more than the largest id.
      eos, bos, pad: ids, or None where it has none.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        eos: str | None = None,
        bos: str | None = None,
        pad: str | None = None,
    ):
        # Padding and truncation belong to whoever makes batches.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self._special = {"eos_token": eos, "bos_token": bos, "pad_token": pad}
        self.vocab: int = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self.eos, self.bos, self.pad = (
            None if token is None else tokenizer.token_to_id(token) for token in (eos, bos, pad)
        )

    def encode(self, text: str) -> np.ndarray:
        """int32 ids of a text.

        Raises:
          UserError: a character is unknown to it.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """int32 ids of each text; faster than one by one.

        Raises:
          UserError: a character is unknown to it.
        """
        if self._characters is not None:
            return [self._encode_characters(text) for text in texts]
        found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in found]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, special tokens spelled out."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)

    def prompt(self, text: str) -> np.ndarray:
        """int32 ids from which a model continues `text`; an empty one begins a new text.

        A new text begins after the end of another, or where there is no such token, after a line's.
        """
        if text:
            return self.encode(text)
        start = self.bos if self.eos is None else self.eos
        return self.encode("\n") if start is None else np.array([start], np.int32)

    def save(self, directory: str | Path) -> None:
        """Writes tokenizer.json and tokenizer_config.json, which `transformers` reads, too."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **{name: token for name, token in self._special.items() if token is not None},
        }
        for name, content in (
            ("tokenizer.json", json.loads(self._tokenizer.to_str())),
            ("tokenizer_config.json", config),
        ):
            text = json.dumps(content, ensure_ascii=False, indent=1)
            (directory / name).write_text(text + "\n", encoding="utf-8")

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of what determines the ids."""
        content = {"tokenizer": json.loads(self._tokenizer.to_str()), **self._special}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def __reduce__(self):
        special = (self._special[name] for name in ("eos_token", "bos_token", "pad_token"))
        return _from_text, (self._tokenizer.to_str(), *special)

    @functools.cached_property
    def _characters(self) -> np.ndarray | None:
        """Ids by code point where every token is one character, else None.

        A gather from this table is fifty times as fast as `tokenizers`, and gives the same ids.
        """
        content = json.loads(self._tokenizer.to_str())
        if content["normalizer"] is not None or content["model"]["type"] != "WordLevel":
            return None
        splits = content["pre_tokenizer"] or {}
        if splits.get("type") != "Split" or splits["pattern"] != {"Regex": _CHARACTER}:
            return None
        characters = {c: i for c, i in content["model"]["vocab"].items() if len(c) == 1}
        table = np.full(max(map(ord, characters), default=0) + 2, _NOT_A_CHARACTER, np.int32)
        for character, number in characters.items():
            table[ord(character)] = number
        return table

    def _encode_characters(self, text: str) -> np.ndarray:
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        # The last entry of the table is that of every code point beyond it.
        ids = self._characters[np.minimum(points, len(self._characters) - 1)]
        if (unknown := ids == _NOT_A_CHARACTER).any():
            place = int(unknown.argmax())
            raise UserError(
                f"the character {text[place]!r} (number {place} of {text[:20]!r}...) is not among "
                f"the {self.vocab} that the tokenizer knows; use only those, or another tokenizer"
            )
        return ids


@dataclasses.dataclass(frozen=True)
class Bytes:
    """UTF-8 bytes, ids 0 to 255, and the end of a text, id 256; nothing to train."""

    def train(self, texts: Iterable[str]) -> Tokenizer:
        """The tokenizer; it does not read `texts`."""
        del texts
        vocab = {character: byte for byte, character in _byte_characters().items()}
        tokenizer = _byte_level(models.BPE(vocab=vocab, merges=[]), use_regex=False)
        tokenizer.add_special_tokens([END])
        return Tokenizer(tokenizer, eos=END, bos=END)


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
        tokenizer.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(_CHARACTER), "isolated")
        tokenizer.decoder = decoders.Fuse()
        if count == 1:
            return Tokenizer(tokenizer)
        tokenizer.add_special_tokens([END])
        return Tokenizer(tokenizer, eos=END, bos=END)


@dataclasses.dataclass(frozen=True)
class BPE:
    """Byte pairs merged by frequency, as in GPT-2; id 0 is the end of a text.

    Attributes:
      vocab: V, the end of a text and the 256 bytes included.
      characters: how much text to learn from, at most, from its beginning.
    """

    vocab: int
    characters: int = 2_000_000_000

    def __post_init__(self):
        if self.vocab < 257:
            raise UserError(
                f"BPE's vocab is {self.vocab}; it takes 257 or more: 256 bytes and {END}"
            )

    def train(self, texts: Iterable[str]) -> Tokenizer:
        """A tokenizer learned from `texts`; a small text gives a smaller vocabulary."""
        tokenizer = _byte_level(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab,
            special_tokens=[END],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(_first(texts, self.characters), trainer)
        return Tokenizer(tokenizer, eos=END, bos=END)


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A tokenizer in a directory; nothing to train."""

    path: str

    def train(self, texts: Iterable[str]) -> Tokenizer:
        """The tokenizer; it does not read `texts`."""
        del texts
        return load(self.path)


def find(directory: str | Path) -> Tokenizer | None:
    """The tokenizer in `directory`, None where there is none."""
    directory = Path(directory)
    return load(directory) if any((directory / name).is_file() for name in FILES) else None


def load(directory: str | Path) -> Tokenizer:
    """The tokenizer in a directory of this project or of Hugging Face's.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    directory = Path(directory)
    if (directory / "tokenizer.json").is_file():
        tokenizer = _read(directory / "tokenizer.json", tokenizers.Tokenizer.from_file)
    elif (directory / "vocab.json").is_file() and (directory / "merges.txt").is_file():
        model = _read(directory / "vocab.json", lambda path: _merges(path, directory))
        tokenizer = _byte_level(model)
        if tokenizer.token_to_id(END) is not None:
            tokenizer.add_special_tokens([END])
    else:
        what = "is not a directory" if not directory.is_dir() else "holds no tokenizer"
        lacks = ", merges.txt is missing" if (directory / "vocab.json").is_file() else ""
        raise UserError(
            f"{directory} {what}{lacks}; it takes tokenizer.json, or vocab.json and merges.txt"
        )
    special = _special(directory, tokenizer)
    return Tokenizer(tokenizer, special.get("eos"), special.get("bos"), special.get("pad"))


def _special(directory: Path, tokenizer: tokenizers.Tokenizer) -> dict[str, str]:
    """Special tokens by name, from the first of the directory's files that says which."""
    found: dict[str, str] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json", "config.json"):
        if not (directory / name).is_file():
            continue
        content = _read(directory / name, lambda path: json.loads(Path(path).read_text("utf-8")))
        for kind in ("eos", "bos", "pad"):
            token = content.get(f"{kind}_token")
            token = token.get("content") if isinstance(token, Mapping) else token
            if token is None and (number := content.get(f"{kind}_token_id")) is not None:
                number = number[0] if isinstance(number, list) else number
                token = tokenizer.id_to_token(number)
            if token is not None and tokenizer.token_to_id(token) is not None:
                found.setdefault(kind, token)
    if "eos" not in found and tokenizer.token_to_id(END) is not None:
        found["eos"] = END  # GPT-2's own directories say nothing
        found.setdefault("bos", END)
    return found


def _read(path: Path, reader: Any) -> Any:
    try:
        return reader(str(path))
    except Exception as error:  # `tokenizers` raises plain Exception
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None


def _merges(vocab: str, directory: Path) -> models.BPE:
    return models.BPE.from_file(vocab, str(directory / "merges.txt"))


def _from_text(text: str, *special: str | None) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer.from_str(text), *special)


def _byte_level(model: models.Model, use_regex: bool = True) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


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
