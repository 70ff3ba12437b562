"""`Bag`: a text as the ids of its words and of hashed n-grams, as fastText's models read it."""

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers

from lm_research.data.frame import PairFrame
from lm_research.data.tokenizer import Tokenizer
from lm_research.errors import UserError

BEGIN, END, UNKNOWN = "<", ">", "<unk>"
LINE = "</s>"  # the word that ends a text
_SHIFT = np.uint64(116_049_371)


class Bag(Tokenizer):
    """Features of a text: its words, n-grams of characters within them, and n-grams of words.

    Bojanowski et al. (2017) and Joulin et al. (2017), with the hashes of their code. A word that is
    unknown has its n-grams of characters, and no id of its own. Ids below `words` are words, of
    which the first ends a text; the others are the buckets of n-grams.

    Attributes:
      words: how many words are known.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        special: Mapping[str, str],
        config: Mapping[str, Any],
    ):
        """A bag.

        Args:
          tokenizer: splits texts into words, and knows their ids.
          special: tokens by role.
          config: its `bag` has the fields of `Words` that say what there is besides words.
        """
        super().__init__(tokenizer, special, config)
        settings = config["bag"]
        self._order, self._spans = settings["order"], tuple(settings["characters"] or ())
        self._buckets = settings["buckets"] if self._order > 1 or self._spans else 0
        self.words = self.vocab
        self.vocab += self._buckets

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of what determines the ids."""
        content = json.dumps([super().hash, self._config["bag"]], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """int32 features of each text."""
        return [self._features(text) for text in texts]

    def whole(self, text: str) -> np.ndarray:
        """int32 features of a text."""
        return self._features(text)

    @functools.cached_property
    def added(self) -> tuple[np.ndarray, np.ndarray]:
        """Nothing stands around features."""
        nothing = np.array([], np.int32)
        return nothing, nothing

    @functools.cached_property
    def added_to_pairs(self) -> PairFrame:
        """Features of two texts are those of both."""
        nothing = (np.array([], np.int32),) * 3
        return PairFrame(nothing, nothing, (0, 0))

    def decode(self, ids: Iterable[int]) -> str:
        """The words among ids."""
        found = (self._tokenizer.id_to_token(int(i)) for i in ids)
        return " ".join(word for word in found if word is not None)

    def subwords(self, word: str) -> np.ndarray:
        """int32 features of one word: its id where it is known, then its n-grams of characters."""
        return self._word(word)[0]

    @functools.cached_property
    def known(self) -> list[str]:
        """Every word that has an id of its own, in their order."""
        ids = (i for i in range(self.words) if i != self.unk)
        return [self._tokenizer.id_to_token(i) for i in ids]

    def _features(self, text: str) -> np.ndarray:
        split = self._tokenizer.pre_tokenizer.pre_tokenize_str(self._normalized(text))
        found = [self._word(word) for word in (*(word for word, _ in split), LINE)]
        parts = [ids for ids, _ in found]
        hashes = np.array([number for _, number in found], np.uint64)
        rows, joined = [], hashes
        for more in range(1, self._order):
            if len(hashes) <= more:
                break
            joined = joined[:-1] * _SHIFT + hashes[more:]
            rows.append(joined % np.uint64(self._buckets) + np.uint64(self.words))
        return np.concatenate([*parts, *rows]).astype(np.int32)

    def _normalized(self, text: str) -> str:
        normalizer = self._tokenizer.normalizer
        return text if normalizer is None else normalizer.normalize_str(text)

    @functools.cached_property
    def _word(self) -> Any:
        return functools.lru_cache(2**18)(self._looked_up)

    def _looked_up(self, word: str) -> tuple[np.ndarray, int]:
        """A word's features, and its hash as their code adds it up: of 32 bits, with their sign."""
        number = self._tokenizer.token_to_id(word)
        ids = [] if number is None or number == self.unk else [number]
        if self._spans and word != LINE:
            spelled = character_ngrams(f"{BEGIN}{word}{END}", *self._spans)
            ids += [self.words + fnv(ngram) % self._buckets for ngram in spelled]
        value = fnv(word)
        signed = value - 2**32 if value >= 2**31 else value
        return np.array(ids, np.int32), signed % 2**64


def fnv(text: str) -> int:
    """The hash of fastText: FNV-1a of 32 bits over UTF-8, whose bytes from 128 on are negative."""
    value = 2_166_136_261
    for byte in text.encode():
        value ^= byte if byte < 128 else byte | 0xFFFFFF00
        value = value * 16_777_619 % 2**32
    return value


def character_ngrams(word: str, least: int, most: int) -> list[str]:
    """Pieces of a word in its brackets, of `least` to `most` characters; a bracket alone is none.

    They are in the order of fastText: by where they begin, then by length.
    """
    found = []
    for begin in range(len(word)):
        for end in range(begin + least, min(begin + most, len(word)) + 1):
            if end - begin > 1 or 0 < begin < len(word) - 1:
                found.append(word[begin:end])
    return found


def check_bag(order: int, characters: tuple[int, int] | None, buckets: int) -> None:
    """Refuses n-grams that cannot be.

    Raises:
      UserError: says which.
    """
    if order < 1 or buckets < 1:
        raise UserError(f"Words has order {order} and {buckets} buckets; both are 1 or more")
    if characters is not None and not 1 <= characters[0] <= characters[1]:
        raise UserError(
            f"Words.characters is {characters}; it takes the least and the greatest length of "
            "n-grams of characters, from 1 on, or None"
        )
