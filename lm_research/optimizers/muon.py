"""Muon (Jordan et al., 2024): momentum, made orthogonal matrix by matrix."""

import dataclasses
from typing import Any

import jax
import optax
from optax import contrib

from lm_research import tree
from lm_research.optimizers.decay import UNDECAYED, decayed
from lm_research.optimizers.schedule import Schedule


@dataclasses.dataclass(frozen=True)
class Muon(Schedule):
    """Orthogonalised momentum for the matrices inside blocks, AdamW for everything else.

    Attributes:
      momentum: decay rate of the momentum.
      rms: the root mean square of an update per unit of learning rate, that of AdamW's being about
        0.2, so that both share one learning rate (Liu et al., 2025).
      b1, b2: of AdamW.
      decay: weight decay, multiplied with the learning rate.
      skip: parameters in whose names this regular expression is found do not decay.
      matrices: parameters in whose names this is found are orthogonalised; stacked [L, in, ...,
        out, ...].
    """

    momentum: float = 0.95
    rms: float = 0.2
    b1: float = 0.9
    b2: float = 0.95
    decay: float = 0.1
    skip: str = UNDECAYED
    matrices: str = r"^stack/.*kernel"

    def build(self, steps: int) -> optax.GradientTransformation:
        """The transformation for a run of `steps` steps."""
        # At a learning rate of 1 and without decay: optax would decay embeddings and norms as well.
        direction = contrib.muon(
            1.0,
            beta=self.momentum,
            adam_b1=self.b1,
            adam_b2=self.b2,
            consistent_rms=self.rms,
            muon_weight_dimension_numbers=self._dimensions,
        )
        decay = optax.add_decayed_weights(-self.decay, decayed(self.skip))
        return self.clipped(direction, decay, optax.scale_by_schedule(self.learning_rate(steps)))

    def _dimensions(self, params: Any) -> Any:
        """Which axes of a matrix are contracted: the first after L; of `out`, all but the last.

        Experts have a matrix each, after L and E.
        """

        def numbers(name: str, leaf: jax.Array, chosen: bool):
            if not chosen:
                return None
            axes = tuple(range(2 if "/experts_" in name else 1, leaf.ndim))
            split = len(axes) - 1 if name.endswith("out/kernel") else 1
            return contrib.MuonDimensionNumbers(axes[:split], axes[split:])

        return tree.map_named(numbers, params, tree.matching(self.matrices, params))
