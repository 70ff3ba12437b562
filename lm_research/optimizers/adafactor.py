"""Adafactor (Shazeer and Stern, 2018): second moments kept as rows and columns."""

import dataclasses

import optax

from lm_research.optimizers.decay import UNDECAYED, decayed
from lm_research.optimizers.schedule import Schedule


@dataclasses.dataclass(frozen=True)
class Adafactor(Schedule):
    """Adam's second moments in factored form, with little memory of their own.

    Attributes:
      momentum: decay rate of a first moment; None keeps none.
      relative: whether updates are scaled by the size of the parameter.
      decay: weight decay per step, multiplied with the learning rate.
      skip: parameters in whose names this regular expression is found do not decay.
    """

    momentum: float | None = None
    relative: bool = True
    decay: float = 0.0
    skip: str = UNDECAYED

    def build(self, steps: int) -> optax.GradientTransformation:
        """The transformation for a run of `steps` steps."""
        rate = self.learning_rate(steps)
        scale = optax.adafactor(
            None, momentum=self.momentum, multiply_by_parameter_scale=self.relative
        )
        # optax.adafactor already turns the sign; it would apply its own decay without the learning
        # rate.
        decay = optax.add_decayed_weights(-self.decay, decayed(self.skip))
        return self.clipped(scale, decay, optax.scale_by_schedule(rate))
