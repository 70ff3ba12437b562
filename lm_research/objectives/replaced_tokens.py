"""Replace hidden tokens by what a small model finds likely, and find them with a large one."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm_research.layers import Output
from lm_research.metrics import Mean
from lm_research.objectives.masked import Example, Masked
from lm_research.objectives.token_loss import largest_chunk, over_pieces

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class ReplacedTokens(Masked):
    """Replaced-token detection (Clark et al., 2020), with its generator trained beside it.

    The generator learns masked language modelling. A token drawn from what it says stands for each
    hidden one, and the discriminator tells of every token whether it is the text's own: one that
    was drawn by chance as it was, is. No gradient goes through the draw. The loss is the mean over
    hidden tokens plus `detection` times the mean over all, in nats: each row's detection weighs as
    much as the tokens that it hides, so that both are one total and one weight.

    Attributes: as `Masked`; `keep` is 0.15 and `random` 0, as in the authors' code.
      detection: factor on the discriminator's loss.
    """

    random: float = 0.0
    keep: float = 0.15
    detection: float = 50.0

    def refusal(self, model: nn.Module) -> str:
        """Why this cannot train `model`; empty where it can."""
        parts = getattr(model, "parts", ())
        whole = {"generator", "discriminator"} <= set(parts)
        return "" if whole else "it is no generator and discriminator; take ELECTRAPair"

    def example(self, record: Example, rng: np.random.Generator) -> Example:
        """As `Masked`; `real` tells padding, and `noise` draws the row's tokens."""
        example = super().example(record, rng)
        real = record["weights"][: self.length - 2 * self.framed]
        real = np.pad(real, int(self.framed), constant_values=1.0).astype(np.float32)
        return example | {"real": real, "noise": np.uint32(rng.integers(2**32))}

    def measure(
        self, model: nn.Module, params: Any, batch: dict[str, Array], rngs: dict | None = None
    ) -> dict[str, Mean]:
        """Total loss in nats and weight over the batch's hidden tokens, and both losses apart."""
        hidden = self.read(model, params, batch, rngs, half="generator")
        measured = self.loss(hidden, batch)["loss"]
        drawn = jax.lax.stop_gradient(self._drawn(hidden, batch))
        # Places of no token fall off.
        places = jnp.where(batch["weights"] > 0, batch["places"], self.length)
        rows = jnp.arange(len(places))[:, None]
        put = lambda new: jnp.asarray(batch["tokens"]).at[rows, places].set(new, mode="drop")
        own, seen = put(batch["targets"]), put(drawn)
        found = self.read(model, params, {**batch, "tokens": seen}, rngs, half="discriminator")
        replaced = seen != own  # [B, T]
        nats = jnp.logaddexp(0.0, jnp.where(replaced, -found.replaced, found.replaced))
        count = batch["real"].sum(1)  # [B]
        each = (nats * batch["real"]).sum(1) / jnp.maximum(count, 1)
        total = (each * batch["weights"].sum(1)).sum()
        right = ((found.replaced > 0) == replaced) * batch["real"]
        return {
            "loss": Mean(measured.total + self.detection * total, measured.weight),
            "masked_loss": measured,
            "detection_loss": Mean(total, measured.weight),
            "detection_accuracy": Mean(right.sum(), count.sum()),
            "replaced": Mean((replaced * batch["real"]).sum(), count.sum()),
        }

    def _drawn(self, output: Output, batch: dict[str, Array]) -> Array:
        """A token for each hidden one, by the row's own noise, whatever rows are beside it."""
        hidden = jnp.take_along_axis(output.hidden, batch["places"][..., None], 1)
        B, T, _ = hidden.shape  # [B, T, D], of the hidden tokens
        chunk = largest_chunk(B, T, output.head.kernel.shape[0])
        split = lambda noise: jax.random.split(jax.random.key(noise), T)
        keys = jax.vmap(split)(batch["noise"])
        one = lambda key, logits: jax.random.categorical(key, logits, mode="high")

        draw = lambda keys, hidden: jax.vmap(jax.vmap(one))(keys, output.head(hidden))
        return over_pieces(draw, chunk, keys, hidden)
