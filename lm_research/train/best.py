"""`Best`: the best that a run has found by one of its metrics, and when it has searched enough."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from lm_research.errors import UserError
from lm_research.train.checkpoint import Checkpoint


@dataclasses.dataclass
class Best:
    """What lies beside every state, so that a run that goes on knows it.

    Attributes:
      settings: which metric, and how patient to be.
      value: of the metric, at its best; None where it was never seen.
      step: when that was.
      waited: evaluations since then.
    """

    settings: Checkpoint
    value: float | None = None
    step: int = 0
    waited: int = 0

    @classmethod
    def after(cls, settings: Checkpoint, meta: Mapping[str, Any]) -> "Best":
        """What a checkpoint says of it, or nothing yet; another metric begins anew."""
        told = meta.get("best") or {}
        if told.pop("metric", None) != settings.best:
            told = {}
        return cls(settings, **told)

    @property
    def facts(self) -> dict[str, Any]:
        """What `after` takes."""
        if self.settings.best is None:
            return {}
        told = {"metric": self.settings.best, "value": self.value, "step": self.step}
        return {"best": {**told, "waited": self.waited}}

    def improves(self, step: int, evaluator: str, numbers: Mapping[str, float]) -> bool:
        """Takes note of an evaluation; whether it is the best so far.

        Raises:
          UserError: the evaluator does not give the metric.
        """
        asked, _, metric = (self.settings.best or "").partition("/")
        if asked != evaluator:
            return False
        if metric not in numbers:
            raise UserError(
                f"checkpoint.best is {self.settings.best!r}, and evals.{evaluator} gives "
                f"{', '.join(numbers)}"
            )
        value, higher = numbers[metric], self.settings.better == "higher"
        better = math.isfinite(value) and (
            self.value is None or (value > self.value if higher else value < self.value)
        )
        if better:
            self.value, self.step, self.waited = value, step, 0
        else:
            self.waited += 1
        return better

    @property
    def exhausted(self) -> bool:
        """Whether the run was patient for long enough."""
        patience = self.settings.patience
        return patience is not None and self.waited >= patience

    def __str__(self) -> str:
        return f"{self.settings.best} {self.value:.4f} at step {self.step}"
