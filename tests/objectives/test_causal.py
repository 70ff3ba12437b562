"""Causal language modelling: an example by hand, and the chunked loss against the plain one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lm_research.layers import Head, Output
from lm_research.objectives import Causal
from lm_research.objectives.token_loss import token_loss

RNG = np.random.default_rng(0)


def test_an_example_of_eight_tokens():
    record = {
        "tokens": np.array([0, 5, 6, 0, 7, 8, 9, 0, 4]),
        "weights": np.array([1, 1, 1, 1, 1, 1, 1, 1, 0], np.float32),
    }
    example = Causal(length=8).example(record, RNG)
    assert example["tokens"].tolist() == [0, 5, 6, 0, 7, 8, 9, 0]
    assert example["targets"].tolist() == [5, 6, 0, 7, 8, 9, 0, 4]
    assert example["weights"].tolist() == [1, 1, 1, 1, 1, 1, 1, 0]
    assert set(example) == {"tokens", "targets", "weights"}


def test_segments_are_those_of_the_inputs():
    record = {
        "tokens": np.array([0, 5, 6, 0, 7]),
        "weights": np.ones(5, np.float32),
        "segments": np.array([1, 1, 1, 2, 2]),
        "position": np.array([0, 1, 2, 0, 1]),
    }
    example = Causal(length=4).example(record, RNG)
    assert example["segments"].tolist() == [1, 1, 1, 2]
    assert example["position"].tolist() == [0, 1, 2, 0]
    assert example["weights"].tolist() == [1, 1, 1, 1]


B, T, D, V = 2, 12, 8, 31


def case(bias, soft_cap):
    keys = jax.random.split(jax.random.key(0), 5)
    hidden, kernel = jax.random.normal(keys[0], (B, T, D)), jax.random.normal(keys[1], (V, D))
    head = Head(kernel, jax.random.normal(keys[2], (V,)) if bias else None, soft_cap=soft_cap)
    targets = jax.random.randint(keys[3], (B, T), 0, V)
    weights = jax.random.uniform(keys[4], (B, T)) * (jnp.arange(T) < 10)
    return hidden, head, targets, weights


def plain(hidden, head, targets, weights, z_loss, smoothing):
    logits = head(hidden)
    labels = optax.smooth_labels(jax.nn.one_hot(targets, V), smoothing)
    loss = optax.softmax_cross_entropy(logits, labels)
    loss = loss + z_loss * jax.nn.logsumexp(logits, -1) ** 2
    return (loss * weights).sum()


@pytest.mark.parametrize("chunk", [None, 1, 4, 12])
@pytest.mark.parametrize("bias, soft_cap", [(False, None), (True, 3.0)])
@pytest.mark.parametrize("z_loss, smoothing", [(0.0, 0.0), (0.01, 0.1)])
def test_chunked_equals_plain(chunk, bias, soft_cap, z_loss, smoothing):
    hidden, head, targets, weights = case(bias, soft_cap)

    def chunked(hidden, head):
        options = dict(z_loss=z_loss, smoothing=smoothing, chunk=chunk)
        return 3 * token_loss(Output(hidden, head), targets, weights, **options)["loss"].total

    got, got_gradient = jax.jit(jax.value_and_grad(chunked, (0, 1)))(hidden, head)
    want, want_gradient = jax.value_and_grad(
        lambda h, k: 3 * plain(h, k, targets, weights, z_loss, smoothing), (0, 1)
    )(hidden, head)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(got_gradient), jax.tree.leaves(want_gradient)):
        assert jnp.abs(a - b).max() <= 1e-6 * jnp.abs(b).max()


def test_cross_entropy_stands_beside_a_regularised_loss():
    hidden, head, targets, weights = case(False, None)
    measured = token_loss(Output(hidden, head), targets, weights, z_loss=0.1)
    want = plain(hidden, head, targets, weights, 0.0, 0.0) / weights.sum()
    np.testing.assert_allclose(measured["cross_entropy"].value(), want, rtol=1e-6)
    assert measured["loss"].value() > measured["cross_entropy"].value()


def test_chunk_must_divide():
    hidden, head, targets, weights = case(False, None)
    with pytest.raises(ValueError, match="chunk 5 does not divide 12"):
        token_loss(Output(hidden, head), targets, weights, chunk=5)


def test_memory_is_a_fraction_of_the_plain_loss_s():
    """At most a quarter, by XLA's own account; benchmarks/loss_memory.py does the real size."""
    sizes = dict(B=2, T=512, D=32, V=4096)
    hidden = jax.ShapeDtypeStruct((sizes["B"], sizes["T"], sizes["D"]), jnp.float32)
    kernel = jax.ShapeDtypeStruct((sizes["V"], sizes["D"]), jnp.float32)
    targets = jax.ShapeDtypeStruct((sizes["B"], sizes["T"]), jnp.int32)
    weights = jax.ShapeDtypeStruct((sizes["B"], sizes["T"]), jnp.float32)

    def temporary(chunk):
        def loss(hidden, kernel, targets, weights):
            output = Output(hidden, Head(kernel))
            return token_loss(output, targets, weights, chunk=chunk)["loss"].total

        compiled = jax.jit(jax.grad(loss, (0, 1))).lower(hidden, kernel, targets, weights).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(32) < temporary(512) / 4
