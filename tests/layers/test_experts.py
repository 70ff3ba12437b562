"""Experts against the dense sum over all of them, which no config can ask for."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from variants import tried

from lm_research import mesh
from lm_research.layers import ACTIVATIONS, Experts

B, T, D, F, E = 4, 6, 16, 24, 4
X = jax.random.normal(jax.random.key(0), (B, T, D))


def dense(params, x, active, normalized):
    """Every expert reads every token; most of what they say gets the weight nought."""
    kernel = lambda name: params[name]["kernel"]
    probabilities = jax.nn.softmax(x @ kernel("router"))
    least = jnp.sort(probabilities, -1)[..., -active][..., None]
    weights = jnp.where(probabilities >= least, probabilities, 0)
    if normalized:
        weights = weights / weights.sum(-1, keepdims=True)
    gate, up = (jnp.einsum("btd,edf->btef", x, kernel(f"experts_{n}")) for n in ("gate", "up"))
    y = ACTIVATIONS["silu"](gate) * up
    return jnp.einsum("btef,efd,bte->btd", y, kernel("experts_down"), weights)


def parameters(module, seed=0):
    boxed = jax.eval_shape(module.init, jax.random.key(0), X)["params"]
    shapes, structure = jax.tree.flatten(nn.meta.unbox(boxed))
    rng = np.random.default_rng(seed)
    drawn = [jnp.float32(rng.normal(0, 0.5, leaf.shape)) for leaf in shapes]
    return jax.tree.unflatten(structure, drawn), boxed


def both(function):
    """Of parameters and x: the result, and the gradients of a sum over it."""
    cotangent = jax.random.normal(jax.random.key(1), (B, T, D))
    total = lambda params, x: ((y := function(params, x)) * cotangent).sum() + 0 * y.sum()
    return jax.jit(lambda params, x: (function(params, x), jax.grad(total, (0, 1))(params, x)))


@functools.cache
def densely(active, normalized):
    """What any mesh is to find."""
    params, _ = parameters(Experts(E, active, F, normalized))
    return both(lambda p, x: dense(p, x, active, normalized))(params, X)


def close(found, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * np.abs(b).max() + 1e-7),
        found,
        expected,
    )


@pytest.mark.parametrize(
    "active, normalized", tried([(1, False), (2, True), (4, False)], [(1, False), (2, True)])
)
@pytest.mark.parametrize(
    "devices",
    tried(
        ["one", "data=8", "expert=2,tensor=2,fsdp=2", "expert=4,data=2"],
        ["one", "expert=2,tensor=2,fsdp=2"],
    ),
)
def test_they_are_the_dense_sum_with_its_gradients(active, normalized, devices):
    module = Experts(E, active, F, normalized)
    params, boxed = parameters(module)
    expected = densely(active, normalized)
    apply = both(lambda p, x: module.apply({"params": p}, x))
    if devices == "one":
        close(apply(params, X), expected)
        return
    sizes = {name: int(size) for name, size in (pair.split("=") for pair in devices.split(","))}
    with mesh.Mesh(**{"data": 1, **sizes}).activate():
        placed = jax.device_put(params, mesh.shardings(boxed))
        if "expert" in sizes:
            kernel = placed["experts_up"]["kernel"]
            assert kernel.addressable_shards[0].data.shape[0] == E // sizes["expert"]
        close(apply(placed, X), expected)


@pytest.mark.parametrize("rows", [1, 3, 24])
def test_no_token_is_dropped_when_all_want_the_same(rows):
    """Nor when there is one token alone."""
    module = Experts(E, 2, F)
    params, _ = parameters(module)
    params["router"]["kernel"] = jnp.zeros((D, E)).at[0].set(jnp.array([9.0, 0, 5, 0]))
    x = jnp.abs(X.reshape(1, -1, D)[:, :rows]) + 0.1
    got, state = module.apply({"params": params}, x, mutable=["taps"])
    close(got, dense(params, x, 2, True))
    assert (np.sort(state["taps"]["chosen"], -1) == [0, 2]).all()


def test_sixteen_bits_are_near():
    params, _ = parameters(Experts(E, 2, F))
    got = Experts(E, 2, F, dtype="bfloat16").apply({"params": params}, X)
    want = dense(params, X, 2, True)
    assert np.abs(got - want).max() < 0.03 * np.abs(want).max()
