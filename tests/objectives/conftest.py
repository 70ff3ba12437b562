"""What holds for every objective that is measured row by row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_research import metrics


@pytest.fixture(scope="session")
def adds_up():
    """Compares a batch with the sum of its microbatches: every number and every gradient."""

    def check(totals, batch, count):
        """`totals` of a batch gives its numbers and gradients."""
        totals = jax.jit(totals)
        whole, gradient = totals(batch)
        measured, gradients = None, None
        for i in range(count):
            one, change = totals({name: rows[i::count] for name, rows in batch.items()})
            measured = one if measured is None else metrics.add(measured, one)
            gradients = change if gradients is None else jax.tree.map(jnp.add, gradients, change)
        for name in whole:
            np.testing.assert_allclose(measured[name].value(), whole[name].value(), rtol=1e-5)
        largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * largest),
            gradients,
            gradient,
        )

    return check
