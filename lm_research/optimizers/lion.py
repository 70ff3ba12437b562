"""Lion (Chen et al., 2023): the sign of an interpolated momentum."""

import dataclasses

import optax

from lm_research.optimizers.decay import UNDECAYED, decayed
from lm_research.optimizers.schedule import Schedule


@dataclasses.dataclass(frozen=True)
class Lion(Schedule):
    """Sign momentum; takes about a tenth of Adam's learning rate and ten times its decay.

    Attributes:
      b1, b2: interpolation for the update and for the momentum.
      decay: weight decay, multiplied with the learning rate.
      skip: parameters in whose names this regular expression is found do not decay.
    """

    b1: float = 0.9
    b2: float = 0.99
    decay: float = 1.0
    skip: str = UNDECAYED

    def build(self, steps: int) -> optax.GradientTransformation:
        """The transformation for a run of `steps` steps."""
        rate = self.learning_rate(steps)
        mask = decayed(self.skip)
        return self.clipped(optax.lion(rate, self.b1, self.b2, weight_decay=self.decay, mask=mask))
