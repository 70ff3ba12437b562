"""Train the last layers, and what comes after them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from lm_research import tree
from lm_research.errors import UserError
from lm_research.layers.stack import layers_after

Tree = Any

# What comes after the layers: the last norm, the heads of language models, and a classifier's own.
AFTER = (
    r"^((trunk|encoder|decoder|generator|discriminator)/)*(norm|transform|head|head_bias|pooler|detector)"
    r"(/|$)|^(dense/)?(kernel|bias)$"
)


@dataclasses.dataclass(frozen=True)
class LastLayers:
    """Trains the last `count` layers of each stack; those before them have no moments.

    Attributes:
      count: how many; 0 trains a head on frozen features.
      besides: other parameters in whose names this regular expression is found are trained, too; by
        default the last norm and the heads. A head that is the embedding's table is held with it.
    """

    count: int
    besides: str = AFTER

    def __post_init__(self):
        if self.count < 0:
            raise ValueError(f"count is {self.count}; it takes a number from 0 on")

    def split(self, params: Tree, key: jax.Array) -> tuple[Tree, Tree]:
        """Two trees, each with its rows of the stacked parameters [L, ...].

        Raises:
          UserError: there are fewer layers, or nothing is trained.
        """
        del key
        leaves = tree.named_leaves(params)
        after = layers_after({path: leaf.value.shape[0] for path, leaf in leaves.items()})
        layers = 1 + max((left for rows in after.values() for left in rows), default=-1)
        if self.count > layers:
            raise UserError(f"weights.count is {self.count}, and the model has {layers} layers")
        chosen = tree.matching(self.besides, params)

        def part(late: bool):
            def take(path: str, box: Any, whole: bool):
                if path not in after:
                    return box if whole == late else None
                first = sum(left >= self.count for left in after[path])
                rows = box.value[first:] if late else box.value[:first]
                return box.replace(value=rows) if rows.shape[0] else None

            return tree.map_named(take, params, chosen)

        trained = part(True)
        if not jax.tree.leaves(trained):
            raise UserError(
                f"weights.count is 0 and weights.besides {self.besides!r} is found in no name; "
                "nothing would be trained"
            )
        return trained, part(False)

    def join(self, trained: Tree, held: Tree) -> Tree:
        """The layers in their order."""

        def joined(late: jax.Array | None, early: jax.Array | None):
            rows = [part for part in (early, late) if part is not None]
            return jnp.concatenate(rows) if len(rows) > 1 else next(iter(rows), None)

        return jax.tree.map(joined, trained, held, is_leaf=lambda leaf: leaf is None)
