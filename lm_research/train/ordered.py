"""Sums over the rows of a batch in one order, whatever the devices: the same bits on all of them.

A batch is cut into shards, of which each device has as many as any other. The same program makes
the gradient of each, and every device adds up all of them, the first shard first.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from lm_research import mesh
from lm_research.errors import UserError
from lm_research.layers.einsum import row_major

Array = jax.Array
Tree = Any


def check(shards: int) -> None:
    """Refuses a mesh on which an order cannot be kept.

    Raises:
      UserError: it shares out more than rows, or they do not make whole shards.
    """
    names = mesh.axes_of("B")
    sizes = jax.sharding.get_mesh().shape
    if others := [name for name, size in sizes.items() if size > 1 and name not in names]:
        raise UserError(
            f"reductions is 'ordered', and the mesh has {others[0]}={sizes[others[0]]}; sums over "
            f"{', '.join(names)} alone can be ordered"
        )
    told = f"batch.shards is {shards}"
    mesh.check_multiple(told, shards, "*".join(names), mesh.parts(names))


def everywhere(step: Callable[[Tree, Tree], Tree]) -> Callable[[Tree, Tree], Tree]:
    """A function of a state and a batch as one of whole states, on each device by itself.

    Args:
      step: of the state and of this device's rows; its result is the same on all of them.
    """
    whole, rows = PartitionSpec(), PartitionSpec(mesh.axes_of("B"))

    def alone(state, rows):
        # What was gathered may lie in memory in another order, and products would round otherwise;
        # and no device is to compute only those parts of a result that it keeps.
        state = jax.tree.map(row_major, jax.lax.optimization_barrier(state))
        return jax.lax.optimization_barrier(step(state, rows))

    return jax.shard_map(
        alone,
        mesh=jax.sharding.get_abstract_mesh(),
        in_specs=(whole, rows),
        out_specs=whole,
        check_vma=False,
    )


def sums(measure: Callable[[Tree, Array], Tree], batch: Tree, key: Array, shards: int) -> Tree:
    """What `measure` finds in each shard, added up in their order.

    Args:
      measure: of a shard's rows and a key of its own.
      batch: this device's rows, [B / devices, ...].
      shards: in all.
    """
    names = mesh.axes_of("B")
    here = shards // mesh.parts(names)
    first = jax.lax.axis_index(names) * here

    def one(piece):
        index, rows = piece
        # The barriers keep a program apart from what surrounds it, and so the same everywhere.
        given = jax.lax.optimization_barrier((rows, jax.random.fold_in(key, index)))
        return jax.lax.optimization_barrier(measure(*given))

    cut = lambda rows: rows.reshape(here, -1, *rows.shape[1:])
    found = jax.lax.map(one, (first + jnp.arange(here), jax.tree.map(cut, batch)))
    return jax.tree.map(functools.partial(_added, names), found)


def _added(names: tuple[str, ...], found: Array) -> Array:
    """The sum over shards [here, ...] of this device and all others."""
    every = jax.lax.all_gather(found, names, tiled=True)
    return functools.reduce(jnp.add, list(every))
