"""Parameters large enough to tell variants of a model apart."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_research import tree
from lm_research.hub import names


@pytest.fixture(scope="session")
def large():
    """Parameters of a model: every one of them random and far from zero, scales around one."""

    def parameters(model, seed=0, size=0.4):
        boxed = names.abstract(model)
        one = 1 - getattr(model.norm, "offset", 0) if hasattr(model, "norm") else 1

        def draw(path, leaf):
            noise = np.random.default_rng([seed, zlib.crc32(path.encode())]).normal(size=leaf.shape)
            return jnp.float32(size * noise + one * path.endswith("scale"))

        return tree.map_named(draw, tree.unboxed(boxed))

    return parameters


@pytest.fixture(scope="session")
def near():
    """Compares an array with torch's, up to a part of its largest entry."""

    def compare(ours, theirs, tolerance):
        ours, theirs = np.asarray(ours), theirs.detach().numpy()
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()

    return compare


@pytest.fixture(scope="session")
def alike():
    """Compares trees of ours leaf by leaf; a key's bias has no gradient but rounding."""

    def compare(found, expected, tolerance=1e-5):
        rounding = 0.03 * max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(
                a, b, rtol=0, atol=tolerance * (np.abs(b).max() + rounding)
            ),
            found,
            expected,
        )

    return compare
