"""How rotary positions are stretched to contexts longer than those they were trained on."""

import dataclasses
import math
from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Scaling(Protocol):
    """Other frequencies for `Rotary`, and a factor on what it rotates."""

    magnitude: float

    def __call__(self, frequency: np.ndarray, base: float) -> np.ndarray:
        """The frequencies to use, of those [H / 2] that powers of `base` give."""
        ...


@dataclasses.dataclass(frozen=True)
class LinearScaling:
    """Chen et al. (2023), position interpolation: every position is divided by `factor`."""

    factor: float
    magnitude = 1.0

    def __call__(self, frequency: np.ndarray, base: float) -> np.ndarray:
        """All of them, lower by the factor."""
        del base
        return frequency / self.factor


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1 (Grattafiori et al., 2024): long waves are stretched, short ones are not.

    Attributes:
      factor: by which long waves are stretched.
      low, high: a wave that turns fewer than `low` times over `length` is long, one that turns
        more than `high` times is short; between the two the stretch is interpolated.
      length: the context of pretraining.
    """

    factor: float = 8.0
    low: float = 1.0
    high: float = 4.0
    length: int = 8192
    magnitude = 1.0

    def __call__(self, frequency: np.ndarray, base: float) -> np.ndarray:
        """Long waves lower by the factor."""
        del base
        turns = self.length * frequency / (2 * math.pi)
        kept = np.clip((turns - self.low) / (self.high - self.low), 0, 1)
        return frequency * (kept + (1 - kept) / self.factor)


@dataclasses.dataclass(frozen=True)
class YaRN:
    """Peng et al. (2023): as Llama 3, interpolated over entries, with sharper attention.

    Attributes:
      factor: by which long waves are stretched.
      length: the context of pretraining.
      fast, slow: a wave that turns more than `fast` times over `length` stays, one that turns fewer
        than `slow` times is stretched.
      magnitude: factor on rotated queries and keys; None is 0.1 ln(factor) + 1.
      truncate: whether the bounds of the interpolation are whole entries.
    """

    factor: float
    length: int
    fast: float = 32.0
    slow: float = 1.0
    magnitude: float | None = None
    truncate: bool = True

    def __post_init__(self):
        if self.magnitude is None:
            object.__setattr__(self, "magnitude", yarn_magnitude(self.factor))

    def __call__(self, frequency: np.ndarray, base: float) -> np.ndarray:
        """Long waves lower by the factor."""
        half = len(frequency)
        first, last = (
            half * math.log(self.length / (turns * 2 * math.pi)) / math.log(base)
            for turns in (self.fast, self.slow)
        )
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, 2 * half - 1)
        stretched = np.clip((np.arange(half) - first) / max(last - first, 1e-3), 0, 1)
        return frequency * (1 - stretched + stretched / self.factor)


def yarn_magnitude(factor: float, weight: float = 1.0) -> float:
    """0.1 weight ln(factor) + 1, the paper's fit of the temperature of attention."""
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1
