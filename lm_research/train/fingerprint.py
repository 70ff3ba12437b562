"""A hash of what arrays hold, taken on the devices, whatever their sharding."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm_research import tree

Array = jax.Array
Tree = Any


def fingerprint(state: Tree) -> dict[str, str]:
    """A hash of each leaf's content: 16 hexadecimal digits that do not depend on how it is sharded.

    Each element, mixed with its index, gives two words, which are summed modulo 2^32. For a given
    index the mix is one to one, so a change of any one element always changes the hash; other
    changes escape once in 2^64.
    """
    leaves = tree.named_leaves(state)
    shardings = (getattr(leaf, "sharding", None) for leaf in leaves.values())
    mesh = next((s.mesh for s in shardings if isinstance(s, jax.sharding.NamedSharding)), None)
    summing = _summing(mesh)  # leaves of one shape, as moments and their parameter, share a program
    # One after another: XLA's virtual devices on few cores wait for each other for ever where more
    # than some thirty programs are under way.
    sums = {name: np.asarray(summing(leaf)) for name, leaf in leaves.items()}
    return {name: "{:08x}{:08x}".format(*words) for name, words in sums.items()}


@functools.lru_cache
def _summing(mesh: Any) -> Any:
    """The jitted sums of a leaf, whole on every device of `mesh`."""
    everywhere = None if mesh is None else jax.sharding.NamedSharding(mesh, jax.P())
    return jax.jit(_sums, out_shardings=everywhere)


def _sums(leaf: Array) -> Array:
    """Sums of two mixes of the elements, whose constants are those of lowbias32 and xxHash."""
    word = np.uint32
    value = _words(leaf)
    index, stride = jnp.zeros_like(value), 1
    for axis in reversed(range(value.ndim)):
        place = jax.lax.broadcasted_iota(word, value.shape, axis)
        index, stride = index + place * word(stride % 2**32), stride * value.shape[axis]
    index = (index ^ (index >> 16)) * word(0x7FEB352D)
    index = (index ^ (index >> 15)) * word(0x846CA68B)
    index = index ^ (index >> 16)
    first = (value ^ index) * word(0x9E3779B1)
    first = (first ^ (first >> 15)) * word(0x85EBCA6B)
    first = first ^ (first >> 13)
    second = (first + index) * word(0xC2B2AE35)
    second = second ^ (second >> 16)
    # One reduction of both: XLA fuses the mixes into it; two took temporaries of the leaf's size.
    add = lambda left, right: (left[0] + right[0], left[1] + right[1])
    sums = jax.lax.reduce((first, second), (word(0), word(0)), add, tuple(range(value.ndim)))
    return jnp.stack(sums)


def _words(leaf: Array) -> Array:
    """The elements as uint32, one to one; those of 64 bits become two, in a last axis."""
    leaf = jnp.atleast_1d(leaf)
    if leaf.dtype.itemsize == 8 or jnp.issubdtype(leaf.dtype, jnp.floating):
        width = min(32, leaf.dtype.itemsize * 8)
        leaf = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{width}"))
    return leaf.astype(jnp.uint32)
