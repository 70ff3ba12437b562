"""`read` and `output`: what a model says of a batch of texts, in its own way."""

import inspect
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_research.layers import Mask, Output
from lm_research.models.class_writer import ClassWriter
from lm_research.objectives.token_loss import in_pieces

Array = jax.Array


def read(
    model: nn.Module, params: Any, batch: dict[str, Array], rngs: dict | None = None
) -> Array:  # [B, classes] or, of each token, [B, T, classes]
    """The scores of a batch's texts; of pairs, the model is told which text is which.

    Those of an encoder-decoder are log-likelihoods of the names of classes.
    """
    found = output(model, params, batch, rngs)
    if not isinstance(model, ClassWriter):
        return found.scores
    packed = model.packed
    targets = jnp.broadcast_to(packed.targets, found.hidden.shape[:2])
    each = in_pieces(found.head, found.hidden, targets)
    return each @ jax.nn.one_hot(packed.segments - 1, len(model.classes))


def output(
    model: nn.Module, params: Any, batch: dict[str, Array], rngs: dict | None = None
) -> Output:
    """What a model says of the texts of a batch: `tokens`, `segments`, and of pairs `types`."""
    mask = Mask(segments=(batch["segments"], batch["segments"]))
    told = {"types": batch["types"]} if "types" in batch and reads_types(model) else {}
    return model.apply({"params": params}, batch["tokens"], mask=mask, rngs=rngs, **told)


def reads_types(model: nn.Module) -> bool:
    """Whether a model, or the trunk of a classifier, knows types of tokens."""
    trunk = getattr(model, "trunk", model)
    takes = "types" in inspect.signature(type(trunk).__call__).parameters
    return takes and bool(getattr(trunk, "types", True))
