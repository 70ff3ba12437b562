"""Optimizers: frozen settings with `build(steps) -> optax.GradientTransformation`."""

from lm_research.optimizers.adafactor import Adafactor
from lm_research.optimizers.adamw import AdamW
from lm_research.optimizers.averaged import Averaged
from lm_research.optimizers.lion import Lion
from lm_research.optimizers.muon import Muon

__all__ = ["Adafactor", "AdamW", "Averaged", "Lion", "Muon"]
