"""`classify`: how likely a model finds each class of given texts."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm_research.errors import UserError
from lm_research.infer.pieces import batches
from lm_research.infer.shapes import check
from lm_research.layers import Mask, shard

Array = jax.Array

TOKENS = 2**14  # read at once


def classify(model: nn.Module, params: Any, sequences: Sequence[Sequence[int]]) -> np.ndarray:
    """Probabilities of the classes of each text, float32 [texts, classes].

    Args:
      model: one that tells classes.
      params: its plain parameters.
      sequences: token ids of each text.

    Raises:
      UserError: the model tells none, or a text has tokens that it does not know, or too many.
    """
    if not (classes := getattr(model, "classes", None)):
        raise UserError("this model tells no classes; train one with the objective Classify")
    arrays = [np.asarray(sequence, np.int64).reshape(-1) for sequence in sequences]
    for i, tokens in enumerate(arrays):
        check(model, tokens, f"sequence {i}")
    found = np.zeros((len(arrays), len(classes)), np.float32)
    for rows, B, T in batches(range(len(arrays)), lambda i: len(arrays[i]), TOKENS):
        tokens, present = np.zeros((2, B, T), np.int32)
        for row, i in enumerate(rows):
            tokens[row, : len(arrays[i])], present[row, : len(arrays[i])] = arrays[i], 1
        found[rows] = np.asarray(_probabilities(model, params, tokens, present))[: len(rows)]
    return found


@functools.partial(jax.jit, static_argnums=0)
def _probabilities(model: nn.Module, params: Any, tokens: Array, present: Array) -> Array:
    tokens = shard(jnp.asarray(tokens), ("B", "T"))
    output = model.apply({"params": params}, tokens, mask=Mask(segments=(present, present)))
    return shard(jax.nn.softmax(output.scores), (None, None))
