"""The load balance and the z-loss by hand, against `transformers`, and under microbatches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from variants import tried

from lm_research.models import GPT2, Mixtral
from lm_research.objectives import Balanced, Causal
from lm_research.objectives.balanced import router_losses

SIZES = dict(vocab=31, width=16, layers=2, heads=2, kv_heads=2, hidden=8, experts=4, deviation=0.5)


def test_by_hand():
    """Two experts and two rows of four tokens, of which the first expert gets seven."""
    even, first = np.log([0.5, 0.5]), np.log([0.9, 0.1])
    logits = np.array([[[even, even, first, first], [first, first, first, first]]])
    chosen = np.array([[[[0], [1], [0], [1]], [[0], [0], [0], [0]]]])
    taps = {"blocks": {"mlp": {"preference": jnp.array(logits), "chosen": jnp.array(chosen)}}}
    weights = jnp.array([1.0, 3.0])
    # Rows: 2 (0.5 * 0.7 + 0.5 * 0.3) = 1 and 2 (1 * 0.9 + 0 * 0.1) = 1.8.
    balance, z = router_losses(taps, weights, "sequence")
    np.testing.assert_allclose(balance, 1 / 4 + 1.8 * 3 / 4, rtol=1e-6)
    np.testing.assert_allclose(z, 0, atol=1e-12)  # these are probabilities, whose partition is one
    # Together the first got 7/8 of the choices, and had a mean probability of 0.7/4 + 0.9 * 3/4.
    balance, _ = router_losses(taps, weights, "batch")
    np.testing.assert_allclose(balance, 2 * (0.875 * 0.85 + 0.125 * 0.15), rtol=1e-6)
    shifted = jax.tree.map(lambda x: x + 3.0 if x.ndim == 4 and x.shape[-1] == 2 else x, taps)
    np.testing.assert_allclose(router_losses(shifted, weights, "batch")[1], 9, rtol=1e-6)


def test_over_the_batch_it_is_that_of_transformers():
    torch = pytest.importorskip("torch")
    mixtral = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    logits = np.random.default_rng(0).normal(size=(1, 2, 6, 4)).astype(np.float32)
    chosen = jax.lax.top_k(logits, 2)[1]
    theirs = mixtral.load_balancing_loss_func((torch.tensor(logits.reshape(-1, 4)),), 4, 2)
    taps = {"preference": jnp.array(logits), "chosen": chosen}
    ours = router_losses({"mlp": taps}, jnp.ones(2), "batch")[0]
    np.testing.assert_allclose(ours, float(theirs), rtol=1e-6)


def batch():
    rng = np.random.default_rng(1)
    example = lambda: rng.integers(0, 31, (4, 8))
    weights = np.float32(np.arange(8) < np.array([[8], [3], [5], [1]]))
    return {"tokens": example(), "targets": example(), "weights": weights}


@pytest.mark.parametrize("execution", tried(["scan", "unroll"], ["unroll"]))
def test_microbatches_change_nothing(execution):
    model = Mixtral(**SIZES, dense=(False, True, False), execution=execution)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 2), int))["params"]
    objective = Balanced(Causal(8), balance=0.5, z=0.1)

    @jax.jit
    def gradient(params, batch):
        measure = lambda p: objective.measure(model, p, batch)
        return jax.grad(lambda p: measure(p)["loss"].total)(params), measure(params)

    whole = gradient(params, batch())
    for count in (2, 4):
        pieces = [
            gradient(params, {name: rows[i::count] for name, rows in batch().items()})
            for i in range(count)
        ]
        summed = jax.tree.map(lambda *parts: sum(parts), *pieces)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max() + 1e-6),
            summed,
            whole,
        )
    plain = Causal(8).measure(model, params, batch())["loss"].value()
    measured = {name: mean.value() for name, mean in whole[1].items()}
    np.testing.assert_allclose(measured["cross_entropy"], plain, rtol=1e-6)
    terms = 0.5 * measured["load_balance"] + 0.1 * measured["router_z"]
    np.testing.assert_allclose(measured["loss"], plain + terms, rtol=1e-6)


def test_what_it_refuses():
    with_experts = Mixtral(**SIZES)
    assert Balanced(Causal(8)).refusal(with_experts) == ""
    assert "no router" in Balanced(Causal(8)).refusal(GPT2(31, 16, 1, 2))
    assert not Balanced(Causal(8)).indivisible
    assert "whole batch" in Balanced(Causal(8), over="batch").indivisible
