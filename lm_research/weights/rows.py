"""Train some rows of a table, such as those of new tokens."""

import dataclasses
from typing import Any

import jax
import numpy as np

from lm_research import tree
from lm_research.errors import UserError
from lm_research.weights.part import selected, united, where

Tree = Any


@dataclasses.dataclass(frozen=True)
class Rows:
    """Trains these rows of a table; its others keep every bit, and have no moments.

    Attributes:
      rows: a list of ids, or a range as text: `50257:` is from that one on, `10:20` without 20.
      table: the table is the parameter in whose name this regular expression is found.
      rest: another section of `weights`, for everything else; None holds it.
    """

    rows: tuple[int, ...] | str
    table: str = r"\bembedding/table$"
    rest: Any = None

    def __post_init__(self):
        if getattr(self.rest, "adapter", None):
            raise ValueError("rest.adapter is set; only weights of kind LoRA begin from an adapter")

    def split(self, params: Tree, key: jax.Array) -> tuple[Tree, Tree]:
        """Rows in the table's place among what `rest` trains; and the tables beside the others.

        Raises:
          UserError: there is no such table, or it has no such rows.
        """
        chosen = selected("table", self.table, params)
        tables, others = where(chosen, params, True), where(chosen, params, False)
        # Rows of their own do not lie as the table does: few need not divide over a mesh.
        take = lambda path, box: box.replace(
            value=box.value[self._ids(path, box.value.shape[0])], names=(None, *box.names[1:])
        )
        rows = tree.map_named(take, tables)
        if self.rest is None:
            return rows, {"tables": tables, "others": others}
        trained, held = self.rest.split(others, key)
        return united(rows, trained), {"tables": tables, "others": held}

    def join(self, trained: Tree, held: Tree) -> Tree:
        """The tables with these rows in them."""
        tables, others = held["tables"], held["others"]
        absent = lambda leaf: leaf is None
        mine = jax.tree.map(lambda t, r: None if t is None else r, tables, trained, is_leaf=absent)
        put = lambda path, table, rows: table.at[self._ids(path, table.shape[0])].set(rows)
        made = tree.map_named(put, tables, mine)
        if self.rest is not None:
            theirs = jax.tree.map(
                lambda t, r: r if t is None else None, tables, trained, is_leaf=absent
            )
            others = self.rest.join(theirs, others)
        return united(made, others)

    def _ids(self, path: str, size: int) -> np.ndarray:
        """The rows' ids, of a table of so many."""
        ids = self.rows
        if isinstance(ids, str):
            start, colon, stop = ids.partition(":")
            if not colon or not (start + stop).isdecimal():
                raise UserError(f"weights.rows is {ids!r}; it takes ids, or a range such as '100:'")
            ids = range(int(start or 0), int(stop or size))
        if not ids or min(ids) < 0 or max(ids) >= size or len(set(ids)) < len(ids):
            raise UserError(
                f"weights.rows is {self.rows!r}; {path} takes different numbers of rows, "
                f"from 0 to {size - 1}"
            )
        return np.asarray(ids)
