"""How the learning rate moves over a run, and the clipping that every optimizer shares."""

import dataclasses
from typing import Literal

import optax

from lm_research.optimizers.layerwise import layerwise


@dataclasses.dataclass(frozen=True)
class Schedule:
    """What every optimizer is configured with.

    Attributes:
      peak: the highest learning rate.
      warmup: steps of linear growth from 0 to the peak.
      shape: after warm-up: constant; linear or cosine decay to the end of the run; `wsd`,
        constant and then a linear decay over the last part (warmup-stable-decay, Hu et al., 2024);
        or `rsqrt`, one over the square root of the step, whatever `final` (Vaswani et al., 2017).
      final: the last learning rate, as a fraction of the peak.
      cooldown: the part of the run over which `wsd` decays.
      clip: the gradient's global norm is scaled down to this; None leaves it.
      layerwise: the learning rate of a layer, as a fraction of that of the layer after it; the
        head has all of it, and the embedding the least.
      first: whether the first step of warm-up moves already, at 1 / (warmup + 1) of the peak, as in
        nanoGPT, or has a rate of zero, as in `transformers`.
    """

    peak: float
    warmup: int = 0
    shape: Literal["constant", "linear", "cosine", "wsd", "rsqrt"] = "cosine"
    final: float = 0.1
    cooldown: float = 0.2
    clip: float | None = 1.0
    layerwise: float = 1.0
    first: Literal["moves", "zero"] = "moves"

    def __post_init__(self):
        if not 0 < self.layerwise <= 1:
            raise ValueError(f"layerwise is {self.layerwise}; it takes a number over 0, to 1")
        if self.warmup < 0:
            raise ValueError(f"warmup is {self.warmup}; it takes a number from 0 on")

    def learning_rate(self, steps: int) -> optax.Schedule:
        """The learning rate as a function of the step, for a run of `steps` steps."""
        peak, end, rest = self.peak, self.peak * self.final, max(1, steps - self.warmup)
        start = max(1, self.warmup)
        if self.shape == "wsd":
            decay = max(1, round(steps * self.cooldown))
            body = optax.linear_schedule(peak, end, decay, max(0, rest - decay))
        else:
            body = {
                "constant": optax.constant_schedule(peak),
                "linear": optax.linear_schedule(peak, end, rest),
                "rsqrt": lambda step: peak * (start / (start + step)) ** 0.5,
                "cosine": optax.cosine_decay_schedule(peak, rest, self.final),
            }[self.shape]
        if not self.warmup:
            return body
        first = peak / (self.warmup + 1) if self.first == "moves" else 0.0
        return optax.join_schedules(
            [optax.linear_schedule(first, peak, self.warmup), body], [self.warmup]
        )

    def clipped(
        self, *transformations: optax.GradientTransformation
    ) -> optax.GradientTransformation:
        """The transformations between clipping by global norm and what each layer gets of them."""
        clip = [] if self.clip is None else [optax.clip_by_global_norm(self.clip)]
        layers = [] if self.layerwise == 1 else [layerwise(self.layerwise)]
        return optax.chain(*clip, *transformations, *layers)
