"""`every_record`: what a model says of each record of a part of the data, on every host."""

from collections.abc import Callable
from typing import Any, TypeVar

import flax.linen as nn
import jax
import numpy as np

from lm_research import mesh, metrics
from lm_research.data import Source, pipeline
from lm_research.layers import shard

Array = jax.Array
T = TypeVar("T")


def every_record(
    objective: Any,
    source: Source,
    rows: int,
    kept: Callable[[Array, dict[str, Array]], tuple[Array, ...]],
    told: Callable[..., T],
) -> Callable[[nn.Module, Any], tuple[dict[str, float], list[T]]]:
    """A function of a model and its parameters: means over the records, and what each one tells.

    Args:
      objective: has `scores(model, params, batch)` and `loss(scores, batch)`.
      source: the records.
      rows: how many at once.
      kept: what is wanted of a batch, given its scores: arrays [B, ...].
      told: what to make of it, given a record's number and its row of each array.

    Raises:
      UserError: the mesh does not divide so many rows.
    """
    mesh.check_batch(rows, "the evaluation batch")

    @jax.jit(static_argnums=0)
    def scored(model, params, batch):
        scores = objective.scores(model, params, batch)
        # Every host has a part of the rows, and gets them all.
        whole = tuple(shard(x, (None,) * x.ndim) for x in kept(scores, batch))
        return objective.loss(scores, batch), whole

    def run(model: nn.Module, params: Any) -> tuple[dict[str, float], list[T]]:
        total, found, before = None, [], ()

        def take(whole: tuple[Array, ...]) -> None:
            for row in zip(*map(np.asarray, whole)):
                if len(found) < len(source):  # rows beyond the last record fill up the batch
                    found.append(told(len(found), *row))

        for batch in pipeline.heldout_batches(source, objective, rows, mesh.share()):
            means, whole = scored(model, params, mesh.place(batch))
            total = means if total is None else metrics.add(total, means)
            take(before)  # while the device works on the next
            before = whole
        take(before)
        return {name: float(mean.value()) for name, mean in total.items()}, found

    return run
