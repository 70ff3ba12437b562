"""Train every parameter."""

import dataclasses
from typing import Any, Protocol

import jax

Tree = Any


class Weights(Protocol):
    """What is trained, what is held, and how the two make a model's parameters.

    Where what is trained is no part of the parameters, as factors of a difference are none, `apart`
    is true, and it is kept beside the best of them.
    """

    def split(self, params: Tree, key: jax.Array) -> tuple[Tree, Tree]:
        """Trained and held trees, once, from parameters boxed with the names of their axes.

        Every leaf that is made is boxed with its own axes' names, so that a mesh can shard it.
        """
        ...

    def join(self, trained: Tree, held: Tree) -> Tree:
        """The model's parameters, inside every step, from plain arrays."""
        ...


@dataclasses.dataclass(frozen=True)
class Full:
    """Everything is trained, nothing is held."""

    def split(self, params: Tree, key: jax.Array) -> tuple[Tree, Tree]:
        """All parameters, and nothing."""
        del key
        return params, {}

    def join(self, trained: Tree, held: Tree) -> Tree:
        """The trained parameters."""
        del held
        return trained
