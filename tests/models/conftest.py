"""Parameters large enough to tell variants of a model apart."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from lm_research import mesh, tree
from lm_research.hub import load, names, save


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


@pytest.fixture
def round_trip(tmp_path):
    """Saves what was loaded of a reference: the same tensors, and the same section."""

    def check(reference):
        count = save.save(tmp_path / "ours", reference.section, reference.params)
        one = load_file(reference.directory / "model.safetensors")
        other = load_file(tmp_path / "ours" / "model.safetensors")
        assert one.keys() == other.keys() and len(other) == count
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
        assert load.section(tmp_path / "ours") == reference.section

    return check


@pytest.fixture
def read_by_transformers(tmp_path):
    """Saves parameters; ours again are the same, and theirs has no tensor more or less."""

    def read(kind, reference, params):
        save.save(tmp_path / "ours", reference.section, params)
        theirs, info = kind.from_pretrained(
            tmp_path / "ours", attn_implementation="eager", output_loading_info=True
        )
        assert not info["missing_keys"] and not info["unexpected_keys"], info
        with mesh.single():
            again = load.load(tmp_path / "ours", reference.ours)
        jax.tree.map(np.testing.assert_array_equal, again, params)
        return theirs

    return read
