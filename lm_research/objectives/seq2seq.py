"""Write a text that belongs to a source: translation, summaries, answers."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm_research.data import rows
from lm_research.layers import Mask
from lm_research.metrics import Mean
from lm_research.models.encoder_decoder import EncoderDecoder
from lm_research.objectives.token_loss import check_chunk, token_loss

Array = jax.Array
Example = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Seq2Seq:
    """Each token of a target, from its source and those before it (Sutskever et al., 2014).

    Attributes:
      length: T and S, the tokens that a target and a source have at most; `Parallel` cuts longer
        ones.
      z_loss, smoothing, chunk: see `token_loss`.
      likelihood: the loss is the negative log-probability of the target.
    """

    length: int
    z_loss: float = 0.0
    smoothing: float = 0.0
    chunk: int | None = None
    likelihood: ClassVar[bool] = True

    def __post_init__(self):
        check_chunk(self.chunk, self.length, f"length {self.length}")

    def refusal(self, model: nn.Module) -> str:
        """Why this cannot train `model`; empty where it can."""
        return needs_source(model, self.length, self.length)

    def bound(self, tokenizer: Any) -> "Seq2Seq":
        """This objective, with what it needs to know of the tokenizer: nothing."""
        del tokenizer
        return self

    def example(self, record: Example, rng: np.random.Generator) -> Example:
        """Of a record's `source` and `target`, no longer than `length` each.

        Where `counts` say that they are several texts, each pair is a segment of its own.
        """
        del rng
        size = self.length
        example = filled(record["source"], record["target"], size, size)
        if "counts" in record:
            example |= _segments("source", record["counts"]["source"], size, "segments")
            example |= _segments("target", record["counts"]["target"], size, "target_segments")
        return example

    def measure(
        self, model: nn.Module, params: Any, batch: dict[str, Array], rngs: dict | None = None
    ) -> dict[str, Mean]:
        """Total loss in nats and weight over the batch's [B, T] targets."""
        return target_loss(self, model, params, batch, rngs)


def needs_source(model: nn.Module, source: int, target: int) -> str:
    """Why `model` cannot read `source` tokens and write `target`; empty where it can."""
    if not isinstance(model, EncoderDecoder):
        return "it has no encoder to read a source with; take an encoder-decoder, such as T5"
    for what, length, stack in (
        ("source", source, model.encoder),
        ("target", target, model.decoder),
    ):
        if stack.context is not None and length > stack.context:
            return f"a {what} may have {length} tokens, and it has {stack.context} positions for it"
    return ""


def filled(source: np.ndarray, target: np.ndarray, S: int, T: int) -> Example:
    """An example of fixed size: padding of the source is of segment 0, that of targets weighs 0."""
    return {
        "source": rows.filled(source, S),
        "segments": rows.filled(np.ones(len(source)), S),
        "targets": rows.filled(target, T),
        "weights": rows.filled(np.ones(len(target)), T, np.float32),
    }


def target_loss(
    objective: Any, model: nn.Module, params: Any, batch: dict[str, Array], rngs: dict | None
) -> dict[str, Mean]:
    """Total loss in nats and weight over the targets [B, T] of examples like those of `filled`.

    Args:
      objective: has `z_loss`, `smoothing` and `chunk`.
      model, params, batch, rngs: as `measure` takes them.
    """
    segments = batch["segments"]
    tokens, given = model.shifted(batch["targets"]), {}
    if "target_segments" in batch:
        own, position = batch["target_segments"], batch["target_position"]
        tokens = jnp.where(position == 0, model.start, tokens)
        given = {"mask": Mask(segments=(own, own)), "position": position}
        given["source_position"] = batch["source_position"]
    output = model.apply(
        {"params": params},
        tokens,
        source=batch["source"],
        source_mask=Mask(segments=(segments, segments)),
        rngs=rngs,
        **given,
    )
    return token_loss(
        output,
        batch["targets"],
        batch["weights"],
        z_loss=objective.z_loss,
        smoothing=objective.smoothing,
        chunk=objective.chunk,
    )


def _segments(side: str, counts: np.ndarray, size: int, name: str) -> Example:
    """Which text of a row each token is of, from 1 on, and its position there."""
    number, position = rows.numbered(counts)
    return {name: rows.filled(number, size), f"{side}_position": rows.filled(position, size)}
