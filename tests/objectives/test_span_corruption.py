"""Span corruption and the mixture of denoisers: examples by hand, lengths by arithmetic."""

import dataclasses
import itertools

import numpy as np
import pytest

from lm_research.data import Bytes
from lm_research.errors import UserError
from lm_research.models import GPT2, T5
from lm_research.objectives import Denoisers, SpanCorruption
from lm_research.objectives.span_corruption import Marks, corrupted, counts, lengths

MARKS = Marks(sentinels=(90, 91, 92, 93), end=1)


def record(tokens, real=None):
    tokens = np.array([7, *tokens])  # the window before this one had the first one, too
    weights = np.ones(len(tokens), np.float32)
    weights[(len(tokens) if real is None else 1 + real) :] = 0
    return {"tokens": tokens, "weights": weights}


class Cuts:
    """Stands for a generator: the places where the two texts are cut into spans, in turn."""

    def __init__(self, *places):
        self.places = iter(places)

    def choice(self, total, pieces, replace):
        return np.array(next(self.places), int) - 1


def test_an_example_of_eight_tokens():
    """Half of them, in two spans: what stays is cut after 3 of 4 tokens, what goes after 1."""
    objective = SpanCorruption(length=8, rate=0.5, span=2.0, marks=MARKS)
    example = objective.example(record(range(10, 18)), Cuts([3], [1]))
    # 10 11 12 (13) 14 (15 16 17)
    assert example["source"].tolist() == [10, 11, 12, 90, 14, 91, 1]
    assert example["targets"].tolist() == [90, 13, 91, 15, 16, 17, 1]
    assert example["segments"].tolist() == [1] * 7 and example["weights"].tolist() == [1.0] * 7


def test_a_short_window_of_eight_tokens_is_padded():
    """Five real tokens: two of them go, in one span at the end."""
    objective = SpanCorruption(length=8, rate=0.5, span=2.0, marks=MARKS)
    example = objective.example(record(range(10, 18), real=5), Cuts([], []))
    assert example["source"].tolist() == [10, 11, 12, 90, 1, 0, 0]
    assert example["targets"].tolist() == [90, 13, 14, 1, 0, 0, 0]
    assert example["segments"].tolist() == [1] * 5 + [0] * 2
    assert example["weights"].tolist() == [1] * 4 + [0] * 3
    nothing = objective.example(record(range(10, 18), real=1), Cuts())
    assert not nothing["weights"].any() and not nothing["segments"].any()


def restored(source, target, marks):
    """The text, put together again."""
    spans, text = {}, []
    for token in target[:-1]:
        if token in marks.sentinels:
            spans[token] = current = []
        else:
            current.append(token)
    for token in source[:-1]:
        text += spans[token] if token in marks.sentinels else [token]
    return text, list(spans)


@pytest.mark.parametrize("rate, span", [(0.15, 3.0), (0.5, 3.0), (0.15, 64.0), (0.5, 1.0)])
@pytest.mark.parametrize("length", [2, 9, 100, 256])
def test_nothing_is_lost_and_lengths_follow_from_the_text_s(length, rate, span):
    corruption = SpanCorruption(length, rate, span)
    marks = Marks(tuple(range(1000, 1200)), end=1)
    text = np.arange(2, length + 2)
    for seed in range(20):
        source, target = corrupted(text, corruption, marks, np.random.default_rng(seed))
        found, sentinels = restored(source.tolist(), target.tolist(), marks)
        assert found == text.tolist()
        assert sentinels == list(marks.sentinels[: counts(length, corruption)[1]])
        assert (len(source), len(target)) == lengths(length, corruption)
        assert source[0] == 2 and target[0] == 1000 and source[-2] == sentinels[-1]


def test_the_lengths_of_t5():
    """A window of 568 tokens fills 512 with a source and 114 with a target, as in their code."""
    assert lengths(568, SpanCorruption(568)) == (512, 114)


def test_every_way_to_cut_is_as_likely():
    corruption = SpanCorruption(8, 0.5, 2.0)
    found = {}
    for seed in range(6000):
        source, _ = corrupted(np.arange(10, 18), corruption, MARKS, np.random.default_rng(seed))
        found[tuple(source)] = found.get(tuple(source), 0) + 1
    assert len(found) == 3 * 3
    expected = 6000 / 9
    assert sum((n - expected) ** 2 / expected for n in found.values()) < 26.1  # 0.1% of 8 degrees


def test_denoisers_of_eight_tokens():
    """R, S and X of a window, each with its mode before the source."""
    marks = dataclasses.replace(MARKS, modes={"R": (50,), "S": (51,), "X": (52, 53)})
    objective = Denoisers(length=8, marks=marks)

    class Draw(Cuts):
        def __init__(self, number, *places):
            super().__init__(*places)
            self.number = number

        def integers(self, high):
            assert high == 7
            return self.number

    window = record(range(10, 18))
    made = {
        number: objective.example(window, Draw(number, *places))
        for number, places in {0: ([], []), 2: ([], []), 3: ([], [])}.items()
    }
    strip = lambda tokens: np.trim_zeros(tokens, "b").tolist()
    # 15% are one token, a quarter is two, half is four; spans of 3 are one each here.
    assert strip(made[0]["source"]) == [50, 10, 11, 12, 13, 14, 15, 16, 90, 1]
    assert strip(made[0]["targets"]) == [90, 17, 1]
    assert strip(made[2]["source"]) == [51, 10, 11, 12, 13, 14, 15, 90, 1]
    assert strip(made[2]["targets"]) == [90, 16, 17, 1]
    assert strip(made[3]["source"]) == [52, 53, 10, 11, 12, 13, 90, 1]
    assert strip(made[3]["targets"]) == [90, 14, 15, 16, 17, 1]
    sizes = {(len(x["source"]), len(x["targets"])) for x in made.values()}
    assert sizes == {objective.room} == {(11, 6)}


def test_the_denoisers_are_the_paper_s():
    found = [(d.letter, d.rate, d.span) for d in Denoisers(512).denoisers]
    assert sorted(found) == sorted(
        [("R", 0.15, 3), ("R", 0.15, 8), ("S", 0.25, 128)]
        + [("X", *pair) for pair in itertools.product((0.5,), (3, 8, 64))]
        + [("X", 0.15, 64)]
    )


def test_marks_come_from_the_tokenizer():
    tokenizer = Bytes(sentinels=6).train(())
    bound = SpanCorruption(length=100).bound(tokenizer)
    assert bound.marks == Marks(tokenizer.sentinels, tokenizer.eos) and bound.marks.end == 256
    assert Denoisers(length=16).bound(tokenizer).marks.modes["S"] == tuple(b"[S2S]")
    assert not Denoisers(length=16, modes=False).bound(tokenizer).marks.modes
    with pytest.raises(UserError, match=r"needs 5 sentinel .* has none; .*sentinels=5"):
        SpanCorruption(length=100).bound(Bytes().train(()))
    with pytest.raises(UserError, match=r"Denoisers of length 100 needs 17 sentinel .* has 6"):
        Denoisers(length=100).bound(tokenizer)


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match=r"documents is 'separate'.*'joined'"):
        window = {**record(range(8)), "segments": np.ones(9)}
        SpanCorruption(length=8, marks=MARKS).example(window, np.random.default_rng(0))
    for objective in (SpanCorruption(length=8), Denoisers(length=8)):
        assert "no encoder" in objective.refusal(GPT2(8, 8, 1, 1))
        assert not objective.refusal(T5(8, 8, 1, heads=1))
    with pytest.raises(ValueError, match=r"rate is 1\.0"):
        SpanCorruption(8, rate=1.0)
    with pytest.raises(ValueError, match=r"span is 0\.5"):
        SpanCorruption(8, span=0.5)
