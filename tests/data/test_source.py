import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_research.data import Memory, Mix, Slice
from lm_research.data.source import interleaving
from lm_research.errors import UserError


def numbered(name, count):
    return Memory([{"text": f"{name}{i}"} for i in range(count)])


def texts(source):
    return [record["text"] for record in source]


def test_slice():
    source = numbered("a", 10)
    assert texts(Slice(source, 2, 5)) == ["a2", "a3", "a4"]
    assert texts(Slice(source, -2)) == ["a8", "a9"]
    with pytest.raises(IndexError):
        Slice(source, 2, 5)[3]


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=5))
def test_every_prefix_of_an_interleaving_has_its_shares(totals):
    order = interleaving(totals)
    for number, total in enumerate(totals):
        counts = np.cumsum(order == number)
        exact = np.arange(1, len(order) + 1) * total / len(order)
        assert np.abs(counts - exact).max() < 1
        assert counts[-1] == total


def test_mix_takes_each_source_in_order_and_repeats_the_small_ones():
    mix = Mix((numbered("a", 4), numbered("b", 3)), (0.5, 0.25))
    found = texts(mix)
    assert len(mix) == 9
    assert [t for t in found if t[0] == "b"] == ["b0", "b1", "b2"]
    assert [t for t in found if t[0] == "a"] == ["a0", "a1", "a2", "a3", "a0", "a1"]
    assert texts(pickle.loads(pickle.dumps(mix))) == found


def test_mix_rounds_odd_weights():
    mix = Mix((numbered("a", 10), numbered("b", 10)), (0.7182818284, 0.3141592653))
    share = sum(t[0] == "a" for t in texts(Slice(mix, 0, 23))) / 23
    assert abs(share - 0.6957) < 1 / 23


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 0.0), (1.0, -1.0), (1.0, float("nan"))])
def test_mix_refuses_weights(weights):
    with pytest.raises(UserError, match="Mix has"):
        Mix((numbered("a", 1), numbered("b", 1)), weights)
