"""Words and hashed n-grams, beside a plain reading of fastText's definitions."""

import pickle

import numpy as np
import pytest

from lm_research.data import Words, tokenizer
from lm_research.data.bag import character_ngrams, fnv
from lm_research.errors import UserError

TEXTS = ["the cat sat on the mat", "the café", "a cat"]


def theirs(text, bag, order=1, characters=None, buckets=1000):
    """The features of a text, one hash after another, in whole numbers."""
    ids = {word: i for i, word in enumerate(bag.known[:1] + [None] + bag.known[1:])}
    words, found = [*text.split(), "</s>"], []
    for word in words:
        found += [ids[word]] if word in ids else []
        if characters and word != "</s>":
            marked = f"<{word}>"
            pieces = {
                (i, j)
                for i in range(len(marked))
                for j in range(i + 1, len(marked) + 1)
                if characters[0] <= j - i <= characters[1]
            } - {(0, 1), (len(marked) - 1, len(marked))}
            found += [bag.words + fnv(marked[i:j]) % buckets for i, j in pieces]
    signed = [fnv(word) - (fnv(word) >> 31 << 32) for word in words]
    for i in range(len(words)):
        value = signed[i] % 2**64
        for j in range(i + 1, min(i + order, len(words))):
            value = (value * 116049371 + signed[j]) % 2**64
            found.append(bag.words + value % buckets)
    return sorted(found)


def test_hash_is_fnv_1a_with_signed_bytes():
    assert fnv("") == 0x811C9DC5 and fnv("a") == 0xE40C292C  # as published for FNV-1a
    assert fnv("foobar") == 0xBF9CF968
    # Bytes from 128 on are taken for negative numbers, unlike in FNV-1a: e9 is -23.
    value = 0x811C9DC5
    for byte in "é".encode():
        value = (value ^ np.uint32(np.int8(byte - 256)).item()) * 0x01000193 % 2**32
    assert fnv("é") == value


def test_character_ngrams_by_hand():
    assert character_ngrams("<ab>", 1, 3) == ["<a", "<ab", "a", "ab", "ab>", "b", "b>"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"order": 2},
        {"order": 4},
        {"characters": (1, 2)},
        {"characters": (3, 6), "order": 3},
    ],
)
def test_features_are_those_of_the_definition(settings):
    bag = Words(**settings, buckets=1000).train(TEXTS)
    for text in [*TEXTS, "", "cat", "an unknown wörd sat", "  the   cat \t mat "]:
        assert sorted(bag.encode(text).tolist()) == theirs(text, bag, **settings)
        assert bag.encode(text).max(initial=0) < bag.vocab
    assert bag.vocab == len(bag.known) + 1 + (1000 if settings else 0)


def test_the_most_frequent_words_come_first_and_rare_ones_are_unknown():
    bag = Words(least=2).train(TEXTS)
    assert bag.known == ["</s>", "the", "cat"]
    assert bag.decode(bag.encode("the dog and the cat")) == "the the cat </s>"
    assert Words(most=1).train(TEXTS).known == ["</s>", "the"]
    assert Words(lowercase=True).train(["The THE the"]).known == ["</s>", "the"]


def test_saved_and_opened_it_is_the_same(tmp_path):
    bag = Words(order=2, characters=(3, 4), buckets=50, lowercase=True).train(TEXTS)
    bag.save(tmp_path)
    for other in (tokenizer.load(tmp_path), pickle.loads(pickle.dumps(bag))):
        assert other.vocab == bag.vocab and other.hash == bag.hash
        assert (other.encode("The new cat") == bag.encode("The new cat")).all()
    assert Words(order=2, buckets=50, lowercase=True).train(TEXTS).hash != bag.hash


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"order": 0}, "order 0"),
        ({"buckets": 0}, "0 buckets"),
        ({"characters": (4, 3)}, r"characters is \(4, 3\)"),
    ],
)
def test_n_grams_that_cannot_be_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        Words(**settings)
