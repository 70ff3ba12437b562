import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_research.data.permutation import permuted


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**70), st.integers(0, 2**40))
def test_bijection(size, seed, epoch):
    assert sorted(permuted(np.arange(size), size, seed, epoch)) == list(range(size))


def test_golden_values():
    """A run that was begun with one version of anything goes on with another in the same order."""
    assert permuted(np.arange(10), 10, seed=0).tolist() == [8, 2, 4, 1, 0, 5, 7, 3, 9, 6]
    far = permuted(np.arange(5), 10**12, seed=7, epoch=2).tolist()
    assert far == [277567189552, 537482622454, 340682842411, 369730711026, 239121303860]


def test_an_epoch_for_each_index():
    index, epoch = np.arange(50), np.arange(50) % 3
    together = permuted(index, 50, 1, epoch)
    alone = [int(permuted(int(i), 50, 1, int(e))) for i, e in zip(index, epoch)]
    assert together.tolist() == alone


def test_looks_random():
    size = 4096
    a, b = (permuted(np.arange(size), size, 0, epoch) for epoch in (0, 1))
    for x, y in ((a, np.arange(size)), (a, b), (a[1:], a[:-1])):
        assert abs(np.corrcoef(x, y)[0, 1]) < 4 / np.sqrt(size)
    assert (np.diff(a) == 1).sum() < 10  # one is expected


def test_refuses_what_is_outside():
    with pytest.raises(IndexError, match="outside"):
        permuted(3, 3, 0)
