"""Learning rates that fall from layer to layer (Howard and Ruder, 2018)."""

from typing import Any

import jax
import optax

from lm_research import tree
from lm_research.layers.stack import layers_after

# What comes before the layers: tables of tokens and positions, and what is done to their sum.
BEFORE = r"embedding|position|widening|(^|/)query$"


def layerwise(factor: float) -> optax.GradientTransformation:
    """Scales updates by `factor` to a power: 1 in the last layer, L in the first, L + 1 before it.

    What comes after the layers is left as it is. Of a part of a model, L is what is trained.
    """

    def update(updates, state, params=None):
        powers = exponents(updates)
        scaled = lambda path, leaf: leaf * (factor ** powers[path]).astype(leaf.dtype)
        return tree.map_named(scaled, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def exponents(params: Any) -> dict[str, Any]:
    """The power by which each parameter's updates are scaled: an array that broadcasts to it."""
    leaves = tree.named_leaves(params)
    rows = {path: leaf.shape[0] for path, leaf in leaves.items() if leaf.ndim}
    after = layers_after(rows)
    first = 2 + max((left for counts in after.values() for left in counts), default=-1)
    before = tree.named_leaves(tree.matching(BEFORE, params))
    column = lambda path: jax.numpy.asarray(after[path]).reshape(-1, *[1] * (leaves[path].ndim - 1))
    return {
        path: 1.0 + column(path) if path in after else jax.numpy.float32(first * before[path])
        for path in leaves
    }
