"""Products, norms, activations, positions, taps and stacks against numpy or torch."""

import functools
import math

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from variants import tried

from lm_research.layers import (
    ACTIVATIONS,
    MLP,
    ALiBi,
    Attention,
    Block,
    Dropout,
    Einsum,
    GatedMLP,
    LayerNorm,
    Learned,
    Mask,
    Patch,
    RelativeBias,
    RMSNorm,
    Rotary,
    Sinusoidal,
    Stack,
    product,
    separated,
)
from lm_research.layers.stack import places, shortest_period


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize(
    "equation, x, kernel",
    [
        ("BTD,DNH->BTNH", (2, 5, 16), (16, 4, 8)),
        ("BTNH,NHD->BTD", (2, 5, 4, 8), (4, 8, 16)),
        ("BTD,DF->BTF", (2, 5, 16), (16, 24)),
        ("BTD,VD->BTV", (2, 5, 16), (11, 16)),
    ],
)
def test_products_and_their_gradients(equation, x, kernel):
    """bfloat16 operands keep three digits, float32 ones six, forward and backward."""
    x, kernel = normal(*x), normal(*kernel, seed=1)

    def gradients(dtype):
        weigh = lambda x, k: (
            (y := product(equation, x, k, dtype).astype(jnp.float32))
            * jnp.sin(jnp.arange(y.size, dtype=jnp.float32).reshape(y.shape))
        )
        score = lambda x, k: weigh(x, k).sum()
        return product(equation, x, kernel, dtype), *jax.jit(jax.grad(score, (0, 1)))(x, kernel)

    plain = jnp.einsum(equation, x, kernel)
    np.testing.assert_allclose(gradients(jnp.float32)[0], plain, rtol=1e-5, atol=1e-5)
    assert product(equation, x, kernel, jnp.bfloat16, jnp.float32).dtype == jnp.float32
    for got, want in zip(gradients(jnp.bfloat16), gradients(jnp.float32)):
        assert 1e-5 < jnp.abs(got.astype(jnp.float32) - want).max() / jnp.abs(want).max() < 1.5e-2


def test_einsum_names_the_axes_of_what_it_makes():
    boxed = Einsum("BTD,DNH->BTNH", (16, 4, 8), bias=True).init(jax.random.key(0), normal(1, 2, 16))
    names = jax.tree.map(lambda b: b.names, boxed["params"], is_leaf=lambda b: hasattr(b, "names"))
    assert names == {"kernel": ("D", "N", "H"), "bias": ("N", "H")}
    kernel = nn.unbox(boxed)["params"]["kernel"]
    assert abs(float(kernel.std()) - 16**-0.5) < 0.03


def test_parameters_that_are_there_are_only_looked_up():
    def once(key, shape):
        calls.append(shape)
        return jnp.ones(shape)

    calls = []
    layer = Einsum("BTD,DF->BTF", (3, 5), initializer=once)
    params = layer.init(jax.random.key(0), jnp.ones((1, 2, 3)))
    layer.apply(nn.meta.unbox(params), jnp.ones((1, 2, 3)))
    assert calls == [(3, 5)]
    with pytest.raises(flax.errors.ScopeParamShapeError, match=r"kernel.*\(3, 5\).*\(3, 4\)"):
        layer.apply({"params": {"kernel": jnp.ones((3, 4))}}, jnp.ones((1, 2, 3)))


def test_norms():
    x = 5 * normal(2, 3, 16) + 2
    got, _ = LayerNorm(1e-5).init_with_output(jax.random.key(0), x)
    y = np.asarray(x, np.float64)
    want = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    want = y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-6)
    for offset in (0.0, 1.0):
        got, _ = RMSNorm(1e-6, offset).init_with_output(jax.random.key(0), x)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_activations_are_the_named_functions():
    x = np.linspace(-4, 4, 41)
    phi = np.array([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x])
    sigmoid = lambda v: 1 / (1 + np.exp(-v))
    want = {
        "gelu": x * phi,
        "gelu_tanh": 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        "relu": np.maximum(x, 0),
        "relu_squared": np.maximum(x, 0) ** 2,
        "silu": x * sigmoid(x),
        "tanh": np.tanh(x),
        "quick_gelu": x * sigmoid(1.702 * x),
    }
    assert set(want) == set(ACTIVATIONS)
    for name, value in want.items():
        np.testing.assert_allclose(ACTIVATIONS[name](jnp.array(x)), value, atol=2e-6, err_msg=name)


def test_sinusoidal_is_the_paper_s():
    position, width = jnp.array([[0, 1, 7, 500]]), 16
    got = Sinusoidal().apply({}, position, width)
    for t, p in enumerate([0, 1, 7, 500]):
        for i in range(width // 2):
            angle = p / 10_000 ** (2 * i / width)
            assert abs(float(got[0, t, 2 * i]) - math.sin(angle)) < 1e-4
            assert abs(float(got[0, t, 2 * i + 1]) - math.cos(angle)) < 1e-4


def test_rotary_scores_depend_on_distance_alone():
    query, key = normal(1, 1, 1, 32), normal(1, 1, 1, 32, seed=1)
    at = lambda x, p: Rotary()(x, jnp.array([[p]]))
    score = lambda p, q: float((at(query, p) * at(key, q)).sum())
    assert score(5, 3) == pytest.approx(score(105, 103), abs=1e-3)
    assert abs(score(5, 3) - score(5, 1)) > 1e-2
    half = Rotary(fraction=0.5)(query, jnp.array([[9]]))
    np.testing.assert_array_equal(half[..., 16:], query[..., 16:])


def test_alibi_slopes():
    bias = ALiBi(8).apply({})
    np.testing.assert_allclose(bias.weight, [2.0 ** -(i + 1) for i in range(8)])
    position = jnp.arange(4)[None]
    assert float(bias(position, position)[0, 0, 3, 1]) == -1.0
    assert ALiBi(12).apply({}).weight.shape == (12,)


def test_relative_bias_shares_far_buckets():
    bias, _ = RelativeBias(4).init_with_output(jax.random.key(0))
    at = lambda d: bias(jnp.array([[500]]), jnp.array([[500 + d]]))[0, :, 0, 0]
    assert jnp.array_equal(at(-200), at(-300)) and not jnp.array_equal(at(-1), at(-2))
    assert not jnp.array_equal(at(3), at(-3))


def test_dropout_needs_a_key():
    x = jnp.ones((1000,))
    assert jnp.array_equal(Dropout(0.5).apply({}, x), x)
    y = Dropout(0.25).apply({}, x, rngs={"dropout": jax.random.key(0)})
    assert abs(float((y == 0).mean()) - 0.25) < 0.06 and jnp.allclose(y.max(), 1 / 0.75)


def repeating(layers=4, period=1, **choices):
    blocks = tuple(
        Block(Attention(4, 2, 8, rotary=Rotary(), window=w), GatedMLP(48), RMSNorm())
        for w in (None, 2, 3)[:period]
    )
    return Stack(layers, blocks, **choices)


def run(module, params, x, patches=None, **options):
    position = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])
    given = (x, None, position, Mask(causal=True), None, None, None)
    if params is None:
        return nn.unbox(jax.jit(module.init)(jax.random.key(0), *given))["params"]
    called = jax.jit(functools.partial(module.apply, **options))
    return called({"params": params, **(patches or {})}, *given)


PERIODS = [
    (5, 2, {"blocks_0": 2, "blocks_1": 2, "rest_0": 1}),
    (4, 1, {"blocks": 4}),
    (2, 3, {"rest_0": 1, "rest_1": 1}),
]


@pytest.mark.parametrize("layers, period, blocks", tried(PERIODS, PERIODS[:1]))
def test_scanned_unrolled_rematerialized_and_separate_are_equal(quickly, layers, period, blocks):
    x = normal(2, 6, 32)
    made = functools.partial(repeating, layers, period)
    params = run(made(), None, x)
    assert {n: {k.shape[0] for k in jax.tree.leaves(b)} for n, b in params.items()} == {
        name: {repeats} for name, repeats in blocks.items()
    }

    def gradient(module, params):
        return jax.jit(jax.value_and_grad(lambda p: jnp.sin(run(module, p, x)[0]).sum()))(params)

    want, want_gradient = gradient(made(execution="scan"), params)
    # One repetition that is made again stands for all of them.
    executions = (
        dict(execution="unroll"),
        dict(remat="dots"),
        dict(execution="scan", remat="full"),
    )
    for choices in executions:
        got, got_gradient = gradient(made(**choices), params)
        np.testing.assert_allclose(got, want, rtol=1e-5)
        for a, b in zip(jax.tree.leaves(got_gradient), jax.tree.leaves(want_gradient)):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())
    forward = lambda module, params: jax.jit(lambda p: run(module, p, x)[0])(params)
    got = forward(made(execution="separate"), separated(params, layers))
    want = forward(made(execution="scan"), params)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_layers_repeat_the_period_in_its_order():
    whole = [("blocks_0", 0), ("blocks_1", 0), ("blocks_0", 1), ("blocks_1", 1)]
    assert places(5, 2) == [*whole, ("rest_0", 0)]
    assert places(2, 1) == [("blocks", 0), ("blocks", 1)]
    assert shortest_period("aabaabaa") == ("a", "a", "b") and shortest_period("aab") == tuple("aab")


@pytest.mark.parametrize("execution", tried(["scan", "unroll"], ["scan"]))
def test_taps_read_and_patch(quickly, execution):
    x = normal(2, 6, 32)
    module = repeating(execution=execution)
    params = run(module, None, x)
    (y, _), seen = run(module, params, x, mutable=["taps"])
    residual = seen["taps"]["blocks"]["residual"]
    assert residual.shape == (4, 2, 6, 32)
    np.testing.assert_array_equal(residual[-1], y)
    # Ablating layer 2's output leaves only what layer 3 makes of nothing.
    keep = jnp.ones((4, 1, 1, 1)).at[2].set(0)
    patch = {"patches": {"blocks": {"residual": Patch(keep, jnp.zeros((4, 1, 1, 1)))}}}
    (z, _), seen = run(module, params, x, patches=patch, mutable=["taps"])
    assert float(jnp.abs(seen["taps"]["blocks"]["residual"][2]).max()) == 0
    assert not jnp.allclose(z, y)
    # Patching in what is there already changes nothing.
    patch = {"patches": {"blocks": {"residual": Patch(jnp.zeros((4, 1, 1, 1)), residual)}}}
    np.testing.assert_allclose(run(module, params, x, patches=patch)[0], y, rtol=1e-6)


@pytest.mark.parametrize(
    "wiring", ["pre", "post", "sandwich", "reordered", "parallel", "parallel_norms"]
)
def test_wirings(wiring):
    block = Block(Attention(4, 4, 8), MLP(64), LayerNorm(), wiring=wiring)
    x = normal(2, 6, 32)
    position = jnp.broadcast_to(jnp.arange(6), (2, 6))
    params = nn.unbox(block.init(jax.random.key(0), x, None, position, Mask()))["params"]
    got = block.apply({"params": params}, x, None, position, Mask())[0]

    norm = lambda name, y: LayerNorm().apply({"params": params[name]}, y)
    attend = lambda y: Attention(4, 4, 8).apply(
        {"params": params["attention"]}, y, position, Mask()
    )[0]
    mlp = lambda y: MLP(64).apply({"params": params["mlp"]}, y)
    if wiring == "pre":
        y = x + attend(norm("attention_norm", x))
        want = y + mlp(norm("mlp_norm", y))
    elif wiring == "post":
        y = norm("attention_norm", x + attend(x))
        want = norm("mlp_norm", y + mlp(y))
    elif wiring == "sandwich":
        y = x + norm("attention_out_norm", attend(norm("attention_norm", x)))
        want = y + norm("mlp_out_norm", mlp(norm("mlp_norm", y)))
    elif wiring == "reordered":
        y = x + norm("attention_norm", attend(x))
        want = y + norm("mlp_norm", mlp(y))
    else:
        y = norm("attention_norm", x)
        z = norm("mlp_norm", x) if wiring == "parallel_norms" else y
        want = x + attend(y) + mlp(z)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_learned_positions():
    table, _ = Learned(10).init_with_output(jax.random.key(0), jnp.array([[3, 3, 9]]), 8)
    assert table.shape == (1, 3, 8) and jnp.array_equal(table[0, 0], table[0, 1])
