"""A stack's layers shared out over the mesh: parts of a batch go through the stages in turn."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from lm_research import log
from lm_research.layers.einsum import one_device
from lm_research.mesh import axes_of, parts

Array = jax.Array
Tree = Any

PER_STAGE = 4  # pieces of a batch for each stage, at most: a fifth of the time stages then wait
NOT_OF_ROWS = ("weight", "made", "waves")  # of what blocks are given: a `Bias`, and `Relations`


def stages() -> int:
    """Into how many parts the mesh cuts a stack's layers."""
    return 1 if one_device() else parts(axes_of("L"))


def pipelined(
    layer: Callable[[Tree, Array, Tree, Array | None], Array],
    params: Tree,
    x: Array,  # [B, T, D]
    given: Tree,
    key: Array | None = None,
) -> Array:  # [B, T, D]
    """x after all layers, of which each stage has some (Huang et al., 2019, section 2).

    All stages work at once, each on another piece of the batch, and hand it on: this is one array
    with an axis for the stages, which moves along that axis by one (Xu et al., 2021, section 3.3).

    Args:
      layer: one layer: of its parameters, a stream, what is given, and a key.
      params: arrays [L, ...].
      given: what every layer gets; arrays [B, ...], but for those in `NOT_OF_ROWS`.
      key: of dropout.
    """
    S, B = stages(), x.shape[0]
    count = pieces(B, S)
    log.note(pipeline={"stages": S, "pieces": count})
    leaves, structure = jax.tree_util.tree_flatten_with_path(given)
    of_rows = [getattr(path[-1], "name", None) not in NOT_OF_ROWS for path, _ in leaves]
    leaves = [cut(leaf, count) if rows else leaf for (_, leaf), rows in zip(leaves, of_rows)]
    xs = cut(x, count)
    params = jax.tree.map(lambda a: a.reshape(S, -1, *a.shape[1:]), params)
    spec = PartitionSpec(axes_of("L"), axes_of("B"))
    laid = lambda state: jax.lax.with_sharding_constraint(state, spec)

    def stage(params, x, key, *leaves):
        given = jax.tree.unflatten(structure, leaves)

        def step(x, numbered):
            number, params = numbered
            own = None if key is None else jax.random.fold_in(key, number)
            return layer(params, x, given, own), None

        layers = jax.tree.leaves(params)[0].shape[0]
        return jax.lax.scan(step, x, (jnp.arange(layers), params))[0]

    axes_in = (0, 0, None if key is None else 0, *(0 if rows else None for rows in of_rows))
    together = jax.vmap(stage, axes_in, spmd_axis_name=axes_of("L"))

    def tick(state, i):
        state = laid(jnp.roll(state, 1, 0).at[0].set(xs[jnp.minimum(i, count - 1)]))
        piece = jnp.clip(i - jnp.arange(S), 0, count - 1)  # which one each stage has
        here = [leaf[piece] if rows else leaf for leaf, rows in zip(leaves, of_rows)]
        keys = None
        if key is not None:
            keys = jax.vmap(lambda s: jax.random.fold_in(jax.random.fold_in(key, i), s))(
                jnp.arange(S)
            )
        state = laid(together(params, state, keys, *here))
        return state, state[-1]

    state = laid(jnp.zeros((S, *xs.shape[1:]), x.dtype))
    _, out = jax.lax.scan(tick, state, jnp.arange(count + S - 1))
    return jnp.moveaxis(out[S - 1 :], 0, 1).reshape(x.shape)


def pieces(rows: int, stages: int) -> int:
    """Into how many pieces a batch is cut: the most that the mesh's other axes let be."""
    shares = parts(axes_of("B"))
    whole = rows if rows % shares else rows // shares
    return next(n for n in range(min(whole, PER_STAGE * stages), 0, -1) if whole % n == 0)


def cut(x: Array, count: int) -> Array:
    """Rows [B, ...] as pieces [count, B / count, ...]; a device's rows are in each of them."""
    return jnp.moveaxis(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 1, 0)
