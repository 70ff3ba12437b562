"""`embed`: the vector of each of given texts; `nearest`: which of many are near to it."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm_research import log
from lm_research.errors import UserError
from lm_research.infer.pieces import batches
from lm_research.infer.shapes import check
from lm_research.layers import shard
from lm_research.models import TextClassifier, TextEmbedder
from lm_research.models.embedder import Embedder
from lm_research.models.trunk import OfText
from lm_research.objectives.read import output

Array = jax.Array

TOKENS = 2**14  # read at once
ROWS = 1024  # queries whose cosines are held at once


def embedder(model: nn.Module, params: Any, pool: OfText | None = None) -> tuple[nn.Module, Any]:
    """A model that makes vectors, and its parameters, of any that has read texts.

    Args:
      model: an embedder is itself; of a classifier the trunk is taken, and of others all.
      params: its plain parameters.
      pool: what the vector is of a model that is no embedder; None is the mean.

    Raises:
      UserError: the model cannot make vectors, or an embedder is to pool in another way.
    """
    if isinstance(model, TextEmbedder):
        if pool not in (None, model.pool):
            raise UserError(f"this model pools by {model.pool!r}, and --pool is {pool!r}")
        return model, params
    kind, pool = type(model).__name__, pool or "mean"
    if isinstance(model, TextClassifier):
        model, params = model.trunk, params["trunk"]
    try:
        made = Embedder(model, pool)
    except ValueError as error:
        raise UserError(str(error)) from None
    got = f"its hidden states, pooled by {pool!r}"
    log.fallback(f"vectors of a {kind}", got, "it was not trained to make vectors")
    return made, {"trunk": params}


def embed(model: nn.Module, params: Any, sequences: Sequence[Sequence[int]]) -> np.ndarray:
    """The vectors of texts, float32 [texts, D].

    Args:
      model: an embedder.
      params: its plain parameters.
      sequences: token ids of each text.

    Raises:
      UserError: a text has tokens that the model does not know, or too many.
    """
    arrays = [np.asarray(sequence, np.int64).reshape(-1) for sequence in sequences]
    for i, tokens in enumerate(arrays):
        check(model, tokens, f"sequence {i}")
    found: dict[int, np.ndarray] = {}
    for rows, B, T in batches(range(len(arrays)), lambda i: len(arrays[i]), TOKENS):
        batch = {name: np.zeros((B, T), np.int32) for name in ("tokens", "segments")}
        for row, i in enumerate(rows):
            own = slice(None, len(arrays[i]))
            batch["tokens"][row, own], batch["segments"][row, own] = arrays[i], 1
        found.update(zip(rows, np.asarray(_vectors(model, params, batch))))
    return np.stack([found[i] for i in range(len(arrays))])


def nearest(
    queries: np.ndarray, index: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:  # [queries, D], [entries, D]
    """The entries of an index that are nearest to each query by cosine, the nearest first.

    Returns:
      their places, int64, and their cosines, float32, both [queries, count], or as many as there
      are. Of equally near ones the first comes first.
    """
    queries, index = (_unit(np.float32(vectors)) for vectors in (queries, index))
    count = min(count, len(index))
    places = np.zeros((len(queries), count), np.int64)
    for start in range(0, len(queries), ROWS):
        cosines = queries[start : start + ROWS] @ index.T
        places[start : start + ROWS] = np.argsort(-cosines, 1, kind="stable")[:, :count]
    return places, np.einsum("BD,BCD->BC", queries, index[places])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


@functools.partial(jax.jit, static_argnums=0)
def _vectors(model: nn.Module, params: Any, batch: dict[str, Array]) -> Array:
    placed = {name: shard(jnp.asarray(x), ("B", "T")) for name, x in batch.items()}
    return shard(output(model, params, placed).pooled, (None, None))
