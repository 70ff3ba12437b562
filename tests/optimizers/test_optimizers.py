"""Optimizers: one step by hand, decay by rule, schedules, averaging."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_research.optimizers import Adafactor, AdamW, Averaged, Lion, Muon
from lm_research.optimizers.averaged import evaluated

PARAMS = {
    "embedding": {"table": jnp.full((4, 8), 2.0)},
    "norm": {"scale": jnp.full((8,), 2.0)},
    "stack": {
        "blocks": {
            "attention": {
                "query": {"kernel": jnp.full((2, 8, 2, 4), 2.0), "bias": jnp.full((2, 2, 4), 2.0)},
                "out": {"kernel": jnp.full((2, 2, 4, 8), 2.0)},
            }
        }
    },
}
OPTIMIZERS = {
    "adamw": AdamW(peak=0.1, shape="constant", decay=0.5),
    "lion": Lion(peak=0.1, shape="constant", decay=0.5),
    "adafactor": Adafactor(peak=0.1, shape="constant", decay=0.5),
    "muon": Muon(peak=0.1, shape="constant", decay=0.5),
    "averaged": Averaged(AdamW(peak=0.1, shape="constant", decay=0.5), rate=0.9),
}


def step(optimizer, gradients, params=PARAMS, times=1):
    tx = optimizer.build(10)
    state = tx.init(params)
    for _ in range(times):
        updates, state = jax.jit(tx.update)(gradients, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return params, state


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_decay_spares_norms_biases_and_embeddings(name):
    moved, _ = step(OPTIMIZERS[name], jax.tree.map(jnp.zeros_like, PARAMS))
    query = moved["stack"]["blocks"]["attention"]["query"]
    np.testing.assert_allclose(query["kernel"], 2.0 - 0.1 * 0.5 * 2.0, rtol=1e-6)
    for leaf in (moved["embedding"]["table"], moved["norm"]["scale"], query["bias"]):
        np.testing.assert_array_equal(leaf, 2.0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_quadratic_is_descended(name):
    target = jax.tree.map(lambda p: p + 0.5, PARAMS)
    params = PARAMS
    optimizer = OPTIMIZERS[name].optimizer if name == "averaged" else OPTIMIZERS[name]
    peak = 0.2 if name == "muon" else 0.05
    tx = type(optimizer)(peak=peak, shape="linear", decay=0.0, final=0.0).build(60)
    state = tx.init(params)
    distance = lambda p: sum(
        float(jnp.square(a - b).mean()) for a, b in zip(jax.tree.leaves(p), jax.tree.leaves(target))
    )
    update = jax.jit(tx.update)
    for _ in range(60):
        updates, state = update(jax.tree.map(jnp.subtract, params, target), state, params)
        params = jax.tree.map(jnp.add, params, updates)
    assert distance(params) < 0.2 * distance(PARAMS)


def test_adamw_first_step_by_hand():
    """m = (1 - b1) g, v = (1 - b2) g^2, corrected: g / (|g| + eps), plus decay, times the rate."""
    gradients = jax.tree.map(lambda p: jnp.full_like(p, -0.3), PARAMS)
    moved, _ = step(AdamW(peak=0.01, shape="constant", clip=None, decay=0.1), gradients)
    np.testing.assert_allclose(moved["norm"]["scale"], 2.0 + 0.01, rtol=1e-5)
    kernel = moved["stack"]["blocks"]["attention"]["out"]["kernel"]
    np.testing.assert_allclose(kernel, 2.0 + 0.01 * (1 - 0.1 * 2.0), rtol=1e-5)


def test_adams_steps_are_those_of_float64():
    """Also early in a run with b2 = 0.999, where 1 - b2**t loses 2e-5 of itself in float32."""
    b1, b2, epsilon, rate = 0.9, 0.999, 1e-8, 1.0
    gradients = np.random.default_rng(0).standard_normal((20, 64)).astype(np.float32)
    tx = AdamW(rate, b1=b1, b2=b2, shape="constant", clip=None, decay=0.0).build(len(gradients))
    update, params = jax.jit(tx.update), {"w": jnp.zeros(64)}
    state, first, second = tx.init(params), 0.0, 0.0
    for count, gradient in enumerate(gradients.astype(np.float64), 1):
        first, second = b1 * first + (1 - b1) * gradient, b2 * second + (1 - b2) * gradient**2
        root = np.sqrt(second / (1 - b2**count)) + epsilon
        updates, state = update({"w": jnp.float32(gradient)}, state, params)
        np.testing.assert_allclose(updates["w"], -first / (1 - b1**count) / root, atol=1e-6)


def test_muon_makes_matrices_orthogonal():
    keys = iter(jax.random.split(jax.random.key(0), 10))
    gradients = jax.tree.map(lambda p: jax.random.normal(next(keys), p.shape), PARAMS)
    moved, _ = step(Muon(peak=1.0, shape="constant", clip=None, decay=0.0), gradients)
    for name, rows in (("query", 8), ("out", 8)):
        update = moved["stack"]["blocks"]["attention"][name]["kernel"] - 2.0
        singular = jnp.linalg.svd(update.reshape(2, rows, -1), compute_uv=False)
        # Five Newton-Schulz steps leave singular values between about 0.7 and 1.2, times the RMS
        # scale.
        assert float(singular.max() / singular.min()) < 2.0


def test_schedules():
    at = lambda settings, steps: [float(settings.learning_rate(100)(s)) for s in steps]
    shape = lambda name, **more: AdamW(peak=1.0, warmup=10, shape=name, final=0.1, **more)
    assert at(shape("constant"), [0, 9, 10, 99]) == pytest.approx([1 / 11, 10 / 11, 1, 1])
    assert at(shape("constant", first="zero"), [0, 5, 10]) == pytest.approx([0, 0.5, 1])
    assert at(shape("linear"), [10, 55, 100]) == pytest.approx([1, 0.55, 0.1])
    assert at(shape("cosine"), [10, 55, 100]) == pytest.approx([1, 0.55, 0.1])
    assert at(shape("wsd", cooldown=0.2), [10, 79, 80, 90, 100]) == pytest.approx(
        [1, 1, 1, 0.55, 0.1]
    )
    assert at(shape("rsqrt"), [9, 10, 30, 80]) == pytest.approx([10 / 11, 1, 3**-0.5, 8**-0.5])


def test_clipping_is_by_the_global_norm():
    gradients = jax.tree.map(lambda p: jnp.full_like(p, 100.0), PARAMS)
    tx = AdamW(peak=1.0, shape="constant", clip=1.0).build(10)
    _, state = tx.update(gradients, tx.init(PARAMS), PARAMS)
    first = next(
        s for s in jax.tree.leaves(state, is_leaf=lambda s: hasattr(s, "mu")) if hasattr(s, "mu")
    )
    norm = jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(first.mu)))
    assert float(norm) == pytest.approx(0.1, rel=1e-4)  # (1 - b1) times a gradient of norm 1


@pytest.mark.parametrize("kind", [AdamW, Lion, Adafactor, Muon])
def test_layers_learn_at_rates_of_their_own(kind):
    """0.5 to the power of L - layer; L + 1 for the embedding, none for what follows the layers."""
    gradients = jax.tree.map(jnp.ones_like, PARAMS)
    plain, _ = step(kind(peak=0.1, shape="constant"), gradients)
    less, _ = step(kind(peak=0.1, shape="constant", layerwise=0.5), gradients)
    ratio = jax.tree.map(lambda p, a, b: (b - p) / (a - p), PARAMS, plain, less)
    np.testing.assert_allclose(ratio["norm"]["scale"], 1.0, rtol=1e-5)
    np.testing.assert_allclose(ratio["embedding"]["table"], 0.125, rtol=1e-4)
    for leaf in jax.tree.leaves(ratio["stack"]):
        np.testing.assert_allclose(leaf[0], 0.25, rtol=1e-4)
        np.testing.assert_allclose(leaf[1], 0.5, rtol=1e-4)
    with pytest.raises(ValueError, match="layerwise is 2"):
        kind(peak=0.1, layerwise=2)


def test_average_follows_the_weights():
    gradients = jax.tree.map(jnp.ones_like, PARAMS)
    settings = Averaged(AdamW(peak=0.1, shape="constant", decay=0.0), rate=0.5)
    one, _ = step(settings, gradients)
    two, state = step(settings, gradients, times=2)
    scale = lambda p: p["norm"]["scale"]
    want = 0.5 * (0.5 * scale(PARAMS) + 0.5 * scale(one)) + 0.5 * scale(two)
    np.testing.assert_allclose(scale(evaluated(two, state)), want, rtol=1e-6)
    plain, state = step(settings.optimizer, gradients)
    assert evaluated(plain, state) is plain
