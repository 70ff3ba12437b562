"""`Tokenizer`: text to ids and back, as a directory of ours or of Hugging Face's has it."""

import functools
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from lm_research.data.chat_template import GUARD, ChatTemplate
from lm_research.data.frame import PairFrame
from lm_research.errors import UserError

END = "<|endoftext|>"
ROLES = ("eos", "bos", "pad", "mask", "cls", "sep", "unk")
SENTINEL = "<extra_id_{}>"
FILES = ("tokenizer.json", "vocab.json", "vocab.txt")  # any makes a directory a tokenizer's
# Of these only `transformers` makes one of those.
SENTENCEPIECE = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model", "source.spm")
BERT = dict(cls="[CLS]", sep="[SEP]", pad="[PAD]", mask="[MASK]", unk="[UNK]")
CHARACTER = r"[\s\S]"  # how a tokenizer of characters splits
_NOT_A_CHARACTER = -1


class Tokenizer:
    """Text to ids and back.

    Text is text: what spells a special token in it is encoded letter by letter.

    Attributes:
      vocab: V, one more than the largest id.
      eos, bos, pad, mask, cls, sep, unk: ids, or None where it has none.
      sentinels: ids of <extra_id_0>, <extra_id_1>, ..., which stand for what was cut out of a text.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        special: Mapping[str, str],
        config: Mapping[str, Any] | None = None,
    ):
        """A tokenizer.

        Args:
          tokenizer: text to ids.
          special: tokens by role, of `ROLES`.
          config: what else its tokenizer_config.json says, such as a chat template.
        """
        # Padding and truncation belong to whoever makes batches.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self._special, self._config = dict(special), dict(config or {})
        self.vocab: int = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self.eos, self.bos, self.pad, self.mask, self.cls, self.sep, self.unk = (
            tokenizer.token_to_id(special[role]) if role in special else None for role in ROLES
        )
        found = (tokenizer.token_to_id(SENTINEL.format(i)) for i in itertools.count())
        self.sentinels = tuple(itertools.takewhile(lambda number: number is not None, found))

    def encode(self, text: str) -> np.ndarray:
        """int32 ids of a text alone, without special tokens.

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

    def encode_words(
        self, sentences: Sequence[Sequence[str]]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """int32 ids of each sentence's words, and the place of each word's first, -1 of none.

        Words are encoded one by one, spelled as in running text: all but the first after a space,
        where the tokenizer makes spaces part of words.

        Raises:
          UserError: a character is unknown to it.
        """
        space = " " if self._spaces else ""
        given = [[*words[:1], *(space + word for word in words[1:])] for words in sentences]
        if self._characters is not None:
            each = [[self._encode_characters(word) for word in words] for words in given]
            found = [
                (np.concatenate(ids), np.repeat(np.arange(len(ids)), list(map(len, ids))))
                for ids in each
            ]
        else:
            encodings = self._tokenizer.encode_batch(
                given, is_pretokenized=True, add_special_tokens=False
            )
            found = [(np.array(e.ids, np.int32), e.word_ids) for e in encodings]
        result = []
        for words, (ids, numbers) in zip(given, found):
            places = np.full(len(words), -1, np.int32)
            for place in range(len(ids) - 1, -1, -1):
                places[numbers[place]] = place
            result.append((ids, places))
        return result

    def encode_spans(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """int32 ids of each text, and the characters [tokens, 2] that each begins and ends at.

        Raises:
          UserError: a character is unknown to it.
        """
        if self._characters is not None:
            ends = [np.arange(len(text), dtype=np.int32) + 1 for text in texts]
            spans = [np.stack([end - 1, end], 1) for end in ends]
            return [(self._encode_characters(text), own) for text, own in zip(texts, spans)]
        found = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [
            (np.array(e.ids, np.int32), np.array(e.offsets, np.int32).reshape(-1, 2)) for e in found
        ]

    def spoken(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """int32 ids of a text whose special tokens mean themselves, and `encode_spans`' characters.

        Those in which a `GUARD` stands are text; it counts as no character.

        Raises:
          UserError: a character is unknown to it.
        """
        if GUARD not in text and self._characters is None:
            found = self._speaking.encode(text, add_special_tokens=False)
            return np.array(found.ids, np.int32), np.array(found.offsets, np.int32).reshape(-1, 2)
        pieces, start = [], 0
        for i, part in enumerate(re.split(f"({self.special.pattern})", text)):
            part = part.replace(GUARD, "")
            if i % 2:
                ids = np.array([self._tokenizer.token_to_id(part)], np.int32)
                spans = np.array([[0, len(part)]], np.int32)
            else:
                [(ids, spans)] = self.encode_spans([part])
            pieces.append((ids, spans + start))
            start += len(part)
        return tuple(np.concatenate(arrays) for arrays in zip(*pieces))

    @functools.cached_property
    def special_ids(self) -> dict[int, str]:
        """How each special token is spelled, by id."""
        found = self._tokenizer.get_added_tokens_decoder()
        return {number: token.content for number, token in found.items() if token.special}

    @functools.cached_property
    def special(self) -> re.Pattern:
        """Any special token; of several that begin alike, the longest."""
        spelled = sorted(filter(None, self.special_ids.values()), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, spelled)) or "(?!)")

    @functools.cached_property
    def joins(self) -> bool:
        """Whether texts can be encoded apart and joined: no space is added before one."""
        return self.decode([*self.encode("a"), *self.encode("a")]) == "aa"

    @functools.cached_property
    def begins(self) -> bool:
        """Whether every whole text begins with `bos`, as Llama's do."""
        return self.bos is not None and self.frame[0].tolist()[:1] == [self.bos]

    @functools.cached_property
    def chat(self) -> ChatTemplate | None:
        """The template of conversations that its directory carries, if it does."""
        found = self._config.get("chat_template")
        if isinstance(found, list):  # several, by name
            found = {one["name"]: one["template"] for one in found}.get("default")
        special = {f"{role}_token": token for role, token in self._special.items()}
        return ChatTemplate(found, special) if found else None

    def extended(self, template: str, tokens: Sequence[str]) -> "Tokenizer":
        """The same with a chat template, and special tokens besides, of the next ids."""
        tokenizer = tokenizers.Tokenizer.from_str(self._tokenizer.to_str())
        tokenizer.add_special_tokens(list(tokens))
        return Tokenizer(tokenizer, self._special, {**self._config, "chat_template": template})

    @functools.cached_property
    def _speaking(self) -> tokenizers.Tokenizer:
        """To which the spelling of a special token means it."""
        tokenizer = tokenizers.Tokenizer.from_str(self._tokenizer.to_str())
        tokenizer.encode_special_tokens = False
        return tokenizer

    @functools.cached_property
    def _spaces(self) -> bool:
        """Whether words by themselves need spaces before them to be those of a text."""
        if self._characters is not None:
            return True
        words = ["the", "cat", "sat"]
        alone = self._tokenizer.encode(words, is_pretokenized=True, add_special_tokens=False)
        return alone.ids != self.encode(" ".join(words)).tolist()

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, special tokens spelled out."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)

    def whole(self, text: str) -> np.ndarray:
        """int32 ids of a text with the special tokens that models expect around one.

        They are those that `transformers` adds: Llama's begins with `bos`, BERT's stands between
        `cls` and `sep`, and tokenizers that we train add none.

        Raises:
          UserError: a character is unknown to it.
        """
        if self._characters is not None:
            return self.encode(text)
        return np.array(self._tokenizer.encode(text, add_special_tokens=True).ids, np.int32)

    @functools.cached_property
    def added(self) -> tuple[np.ndarray, np.ndarray]:
        """int32 ids before and after a text in `whole`: what `transformers` adds, or nothing."""
        bare, framed = self.encode("a"), self.whole("a")
        places = range(len(framed) - len(bare) + 1)
        begin = next(i for i in places if (framed[i : i + len(bare)] == bare).all())
        return framed[:begin], framed[begin + len(bare) :]

    @functools.cached_property
    def frame(self) -> tuple[np.ndarray, np.ndarray]:
        """int32 ids before and after a text that an encoder-decoder reads or writes.

        They are those of `added`, or where there are none, the end of a text after it.
        """
        if self.eos is None or any(map(len, self.added)):
            return self.added
        return self.added[0], np.array([self.eos], np.int32)

    @functools.cached_property
    def added_to_pairs(self) -> PairFrame:
        """What `transformers` adds around two texts and between them, or nothing."""
        nothing = np.array([], np.int32)
        bare = PairFrame((nothing,) * 3, (nothing,) * 3, (0, 0))
        if self._characters is not None:
            return bare
        found = self._tokenizer.encode("a", "a", add_special_tokens=True)
        own = [i for i, text in enumerate(found.sequence_ids) if text is not None]
        if len(own) == len(found.ids):
            return bare
        first, second = ([i for i in own if found.sequence_ids[i] == text] for text in (0, 1))
        spans = (0, first[0]), (first[-1] + 1, second[0]), (second[-1] + 1, len(found.ids))
        parts = lambda values: tuple(np.array(values[a:b], np.int32) for a, b in spans)
        texts = found.type_ids[first[0]], found.type_ids[second[0]]
        return PairFrame(parts(found.ids), parts(found.type_ids), texts)

    @functools.cached_property
    def pair_frame(self) -> PairFrame:
        """What stands around two texts of which one is a question, and between them.

        It is what `added_to_pairs` says, or where that is nothing, the end of a text after each.
        """
        if self.eos is None or self.added_to_pairs.size:
            return self.added_to_pairs
        end = np.array([self.eos], np.int32)
        return PairFrame((end[:0], end, end), (end[:0], end * 0, end * 0), (0, 0))

    def fitted(
        self, text: str, pair: str | None = None, length: int | None = None, ends: bool = False
    ) -> tuple[np.ndarray, np.ndarray | None, int]:
        """A text, or two as one, as classifiers read them: framed as `transformers` does, or not.

        A text without tokens in no frame is the end of a text, where there is such a token.

        Args:
          text: the text, or the first.
          pair: the second.
          length: tokens at most; what is too much is cut from the end of the longer text.
          ends: whether one text is framed as an encoder-decoder reads it: see `frame`.

        Returns:
          int32 ids, of two texts also their types, and how many tokens there were before any cut.

        Raises:
          UserError: a character is unknown to it.
        """
        if pair is None:
            ids, (before, after) = self.encode(text), self.frame if ends else self.added
            if not (len(ids) or len(before) or len(after)):
                return self.frame[1], None, len(self.frame[1])
            framed = len(before) + len(after)
            room = len(ids) if length is None else max(0, length - framed)
            return np.concatenate([before, ids[:room], after]), None, framed + len(ids)
        both = self.encode_batch([text, pair])
        frame = self.added_to_pairs
        whole = frame.size + sum(map(len, both))
        kept = frame.kept(*map(len, both), whole if length is None else length)
        return *frame.joined(*(ids[:n] for ids, n in zip(both, kept))), whole

    def complete(self, text: str) -> np.ndarray:
        """int32 ids of a whole text, as an encoder-decoder reads or writes it.

        Raises:
          UserError: a character is unknown to it.
        """
        before, after = self.frame
        return np.concatenate([before, self.encode(text), after])

    def prompt(self, text: str) -> np.ndarray:
        """int32 ids from which a model continues `text`; an empty one begins a new text.

        Where nothing marks its beginning, a new text begins after the end of another; where there
        is no such token, after a line's; and where there are no lines, after the first character.
        """
        if text or len(self.whole("")):
            return self.whole(text)
        start = self.bos if self.eos is None else self.eos
        if start is None:
            start = self._tokenizer.token_to_id("\n") or 0
        return np.array([start], np.int32)

    @functools.cached_property
    def begins_word(self) -> np.ndarray:
        """bool [V]: whether a token, by how it is spelled, begins a word or stands for itself."""
        spelled = [self._tokenizer.id_to_token(i) or "" for i in range(self.vocab)]
        content = json.loads(self._tokenizer.to_str())
        special = {token["id"] for token in content["added_tokens"] if token["special"]}
        if prefix := content["model"].get("continuing_subword_prefix"):
            begins = [not token.startswith(prefix) for token in spelled]
        else:
            # How byte-level models and SentencePiece write spaces, and the former line breaks.
            begins = [token[:1] in (" ", "\n", "Ġ", "Ċ", "▁") for token in spelled]
        return np.array([b or i in special for i, b in enumerate(begins)])

    def save(self, directory: str | Path, **told: Any) -> None:
        """Writes tokenizer.json and tokenizer_config.json, which `transformers` reads, too.

        Args:
          directory: where.
          **told: entries of the latter, besides its own.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **told,
            **self._config,
            **{f"{role}_token": token for role, token in self._special.items()},
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
        content = {"tokenizer": json.loads(self._tokenizer.to_str()), "special": self._special}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def __reduce__(self):
        return _from_text, (type(self), self._tokenizer.to_str(), self._special, self._config)

    @functools.cached_property
    def _characters(self) -> np.ndarray | None:
        """Ids by code point where every token is one character, else None.

        A gather from this table is fifty times as fast as `tokenizers`, and gives the same ids.
        """
        content = json.loads(self._tokenizer.to_str())
        if content["normalizer"] is not None or content["model"]["type"] != "WordLevel":
            return None
        splits = content["pre_tokenizer"] or {}
        if splits.get("type") != "Split" or splits["pattern"] != {"Regex": CHARACTER}:
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
        tokenizer = byte_level(model)
        if tokenizer.token_to_id(END) is not None:
            tokenizer.add_special_tokens([END])
    elif (directory / "vocab.txt").is_file():
        tokenizer = _read(directory / "vocab.txt", lambda path: _word_pieces(path, directory))
    else:
        what = "is not a directory" if not directory.is_dir() else "holds no tokenizer"
        lacks = ", merges.txt is missing" if (directory / "vocab.json").is_file() else ""
        raise UserError(
            f"{directory} {what}{lacks}; it takes tokenizer.json, vocab.json and "
            "merges.txt, or BERT's vocab.txt"
        )
    special, config = _special(directory, tokenizer), _config(directory)
    if "bag" in config:
        from lm_research.data.bag import Bag  # which builds on this module

        return Bag(tokenizer, special, config)
    return Tokenizer(tokenizer, special, config)


def _special(directory: Path, tokenizer: tokenizers.Tokenizer) -> dict[str, str]:
    """Special tokens by role, from the first of the directory's files that says which."""
    found: dict[str, str] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json", "config.json"):
        content = _json(directory / name)
        for kind in ROLES:
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
    if isinstance(tokenizer.model, models.WordPiece):  # nor do BERT's
        for role, token in BERT.items():
            if tokenizer.token_to_id(token) is not None:
                found.setdefault(role, token)
    return found


def _config(directory: Path) -> dict[str, Any]:
    """What tokenizer_config.json says, and the chat template, which may be a file of its own."""
    config = _json(directory / "tokenizer_config.json")
    # `transformers` takes every token that it finds here for one to add: tokenizer.json has them.
    config.pop("added_tokens_decoder", None)
    if (template := directory / "chat_template.jinja").is_file():
        config["chat_template"] = template.read_text("utf-8")
    return config


def _json(path: Path) -> dict[str, Any]:
    """An object in a file; empty where there is no file."""
    if not path.is_file():
        return {}
    return _read(path, lambda name: json.loads(Path(name).read_text("utf-8")))


def _read(path: Path, reader: Any) -> Any:
    try:
        return reader(str(path))
    except Exception as error:  # `tokenizers` raises plain Exception
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None


def _merges(vocab: str, directory: Path) -> models.BPE:
    return models.BPE.from_file(vocab, str(directory / "merges.txt"))


def _word_pieces(vocab: str, directory: Path) -> tokenizers.Tokenizer:
    """BERT's, of its list of tokens and of what tokenizer_config.json says of its normalisation."""
    config = _json(directory / "tokenizer_config.json")
    made = tokenizers.BertWordPieceTokenizer(
        vocab,
        lowercase=config.get("do_lower_case", True),
        strip_accents=config.get("strip_accents"),
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
    )
    return tokenizers.Tokenizer.from_str(made.to_str())


def _from_text(kind: type[Tokenizer], text: str, *rest: Mapping[str, Any]) -> Tokenizer:
    return kind(tokenizers.Tokenizer.from_str(text), *rest)


def byte_level(model: models.Model, use_regex: bool = True) -> tokenizers.Tokenizer:
    """A tokenizer of bytes written as characters, as GPT-2's is, around a model of pieces."""
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
