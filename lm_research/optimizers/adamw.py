"""AdamW (Loshchilov and Hutter, 2019)."""

import dataclasses

import optax

from lm_research.optimizers.decay import UNDECAYED, decayed
from lm_research.optimizers.schedule import Schedule


@dataclasses.dataclass(frozen=True)
class AdamW(Schedule):
    """Adam with decoupled weight decay.

    Attributes:
      b1, b2: decay rates of the moments.
      epsilon: added to the root of the second moment.
      decay: weight decay, multiplied with the learning rate as in PyTorch.
      skip: parameters in whose names this regular expression is found do not decay.
    """

    b1: float = 0.9
    b2: float = 0.95
    epsilon: float = 1e-8
    decay: float = 0.1
    skip: str = UNDECAYED

    def build(self, steps: int) -> optax.GradientTransformation:
        """The transformation for a run of `steps` steps."""
        return self.clipped(
            optax.adamw(
                self.learning_rate(steps),
                self.b1,
                self.b2,
                self.epsilon,
                weight_decay=self.decay,
                mask=decayed(self.skip),
            )
        )
