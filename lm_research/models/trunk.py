"""What models that read a text as a whole have in common: a trunk, and one vector of each text."""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_research.models.encoder_decoder import EncoderDecoder

Array = jax.Array

OfText = Literal["first", "last", "mean"]
Pool = Literal[OfText, "each"]


class OnTrunk(nn.Module):
    """A model that reads a text as a whole.

    Attributes:
      trunk: reads the text; its own heads are not asked.
    """

    trunk: nn.Module
    causal = continues = predicts = False  # no attributes: it reads a text as a whole

    @property
    def context(self) -> int | None:
        """How many positions the trunk knows; None where there is no such limit."""
        return getattr(self.trunk, "context", None)

    @property
    def turn(self) -> int | None:
        """Tokens beyond which the trunk reads a text otherwise."""
        return getattr(self.trunk, "turn", None)

    @property
    def vocab(self) -> int:
        """V."""
        return self.trunk.vocab


def bare(model: nn.Module, of: str) -> nn.Module:
    """A model without its heads, as the trunk of another; `of` is what that is to be.

    Raises:
      ValueError: it is on a trunk already, or has no single stream of hidden states.
    """
    single = hasattr(model, "causal") and not isinstance(model, OnTrunk | EncoderDecoder)
    if not single or hasattr(model, "classes") or hasattr(model, "parts"):
        raise ValueError(f"a {type(model).__name__} cannot be the trunk of {of}")
    heads = dict(predicts=False, transform=None, head_bias=False, pooler=None, detector=None)
    fields = {field.name for field in dataclasses.fields(model)}
    return model.clone(**{name: off for name, off in heads.items() if name in fields})


def pooled(hidden: Array, present: Array | None, pool: OfText) -> Array:
    """One vector of each text: [B, T, D] and [B, T] to [B, 1, D]."""
    if pool == "first":
        return hidden[:, :1]
    if present is None:
        return hidden[:, -1:] if pool == "last" else hidden.mean(1, keepdims=True)
    if pool == "mean":
        total = jnp.einsum("BTD,BT->BD", hidden, present.astype(hidden.dtype))
        return (total / jnp.maximum(present.sum(1, keepdims=True), 1))[:, None]
    slots = jnp.arange(hidden.shape[1])
    last = jnp.where(present, slots, 0).max(1)  # [B]
    return jnp.take_along_axis(hidden, last[:, None, None], 1)
