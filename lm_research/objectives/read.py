"""`read`: what a model says of a batch of texts, in its own way."""

import inspect
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_research.layers import Mask
from lm_research.models.class_writer import ClassWriter
from lm_research.objectives.token_loss import in_pieces

Array = jax.Array


def read(
    model: nn.Module, params: Any, batch: dict[str, Array], rngs: dict | None = None
) -> Array:  # [B, classes] or, of each token, [B, T, classes]
    """The scores of a batch's texts; of pairs, the model is told which text is which.

    Those of an encoder-decoder are log-likelihoods of the names of classes.
    """
    mask = Mask(segments=(batch["segments"], batch["segments"]))
    told = {"types": batch["types"]} if "types" in batch and reads_types(model) else {}
    output = model.apply({"params": params}, batch["tokens"], mask=mask, rngs=rngs, **told)
    if not isinstance(model, ClassWriter):
        return output.scores
    packed = model.packed
    targets = jnp.broadcast_to(packed.targets, output.hidden.shape[:2])
    each = in_pieces(output.head, output.hidden, targets)
    return each @ jax.nn.one_hot(packed.segments - 1, len(model.classes))


def reads_types(model: nn.Module) -> bool:
    """Whether a model, or the trunk of a classifier, knows types of tokens."""
    trunk = getattr(model, "trunk", model)
    takes = "types" in inspect.signature(type(trunk).__call__).parameters
    return takes and bool(getattr(trunk, "types", True))
