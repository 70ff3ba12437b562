"""Samplers by distribution: filters by enumeration, draws by G-test, the tail by its frequency."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lm_research.infer.sample import Sampler

P = np.array([0.4, 0.25, 0.2, 0.1, 0.05])
LOGITS = jnp.asarray(np.log(P) + 3)[None]


def filtered(keep, temperature=1.0):
    weights = np.where(keep, P ** (1 / temperature), 0)
    return weights / weights.sum()


CASES = {
    "plain": (Sampler(), filtered(P > 0)),
    "temperature": (Sampler(0.5), filtered(P > 0, 0.5)),
    "top_k": (Sampler(top_k=3), filtered(P >= 0.2)),
    "top_p": (Sampler(top_p=0.6), filtered(P >= 0.25)),
    "min_p": (Sampler(min_p=0.3), filtered(P >= 0.12)),
    "all": (Sampler(2.0, top_k=4, top_p=0.95, min_p=0.3), filtered(P >= 0.1, 2.0)),
}


@pytest.mark.parametrize("name", CASES)
def test_filters_and_draws(name):
    sampler, want = CASES[name]
    got = jax.nn.softmax(sampler.transformed(LOGITS))[0]
    np.testing.assert_allclose(got, want, atol=1e-6)
    count = 20_000  # tells a shift of 2% of the mass apart with power over 0.99
    keys = jax.random.split(jax.random.key(0), count)
    drawn = np.bincount(sampler(jnp.broadcast_to(LOGITS, (count, 5)), keys), minlength=5)
    assert drawn[want == 0].sum() == 0
    kept = want > 0
    assert stats.power_divergence(drawn[kept], want[kept] * count, lambda_=0).pvalue > 1e-3


def test_strings_of_three_by_enumeration():
    """Draws at successive positions are independent: all 27 strings as often as they should be."""
    from lm_research.infer.sample import row_keys

    p, count = np.array([0.5, 0.3, 0.2]), 9_000
    logits = jnp.broadcast_to(jnp.log(p), (count, 3))
    sample = jnp.arange(count)
    draw = lambda t: Sampler()(
        logits, row_keys(jnp.uint32(0), jnp.zeros(count, int), sample, jnp.full(count, t))
    )
    strings = np.asarray(draw(0) * 9 + draw(1) * 3 + draw(2))
    want = np.einsum("i,j,k->ijk", p, p, p).ravel() * count
    found = np.bincount(strings, minlength=27)
    assert stats.power_divergence(found, want, lambda_=0).pvalue > 1e-3


def test_the_tail_is_drawn_as_often_as_due():
    """23-bit uniforms would draw tokens of probability 1e-7 half as often: 14 for 27."""
    tail, batches, rows, p = 2**14, 2**5, 2**9, 1e-7
    logits = jnp.concatenate([jnp.zeros(1), jnp.full(tail, np.log(p))])

    @jax.jit
    def rare(key):
        keys = jax.random.split(key, rows)
        return (Sampler()(jnp.broadcast_to(logits, (rows, tail + 1)), keys) > 0).sum()

    drawn = sum(
        int(rare(key)) for key in jax.random.split(jax.random.key(1, impl="unsafe_rbg"), batches)
    )
    due = batches * rows * tail * p
    assert abs(drawn - due) < 2 * due**0.5


def test_greedy_and_bad_settings():
    assert int(Sampler(0.0)(LOGITS, jax.random.split(jax.random.key(0), 1))[0]) == 0
    for settings in (dict(temperature=-1.0), dict(top_k=0), dict(top_p=0.0), dict(min_p=1.5)):
        with pytest.raises(ValueError, match=next(iter(settings))):
            Sampler(**settings)
