"""Paths of a tree of parameters: name, match, map, count."""

import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from lm_research.errors import UserError

Tree = Any


def boxed(leaf: Any) -> bool:
    """Whether `leaf` is a parameter that still carries the names of its axes."""
    return isinstance(leaf, nn.meta.AxisMetadata)


def unboxed(tree: Tree) -> Tree:
    """Parameters, or their shapes, without the names of their axes.

    `nn.unbox` would also constrain their sharding, which shapes do not take.
    """
    return jax.tree.map(lambda leaf: leaf.value if boxed(leaf) else leaf, tree, is_leaf=boxed)


def path_name(path: tuple) -> str:
    """A key path as `stack/blocks/attention/query/kernel`."""
    return "/".join(
        str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path
    )


def named_leaves(tree: Tree) -> dict[str, Any]:
    """Every leaf by its name, in tree order; boxed parameters count as leaves."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=boxed)
    return {path_name(path): leaf for path, leaf in leaves}


def map_named(function: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """`function(name, leaf, ...)` over every leaf."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf, *others: function(path_name(path), leaf, *others),
        tree,
        *rest,
        is_leaf=boxed,
    )


def matching(pattern: str, tree: Tree) -> Tree:
    """True at each leaf in whose name the regular expression `pattern` is found.

    Raises:
      UserError: it is none.
    """
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise UserError(f"{pattern!r} is no regular expression: {error}") from None
    return map_named(lambda name, _: bool(found.search(name)), tree)


def count(tree: Tree) -> int:
    """Number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(unboxed(tree)))
