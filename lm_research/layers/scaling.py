"""How rotary positions are stretched to contexts longer than those they were trained on."""

import dataclasses
import math
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


@runtime_checkable
class Scaling(Protocol):
    """Other frequencies for `Rotary`, and a factor on what it rotates."""

    magnitude: float

    def __call__(self, frequency: np.ndarray, base: float, length: Array) -> np.ndarray | Array:
        """The frequencies to use, [H / 2] or for each row [B, H / 2].

        Args:
          frequency: those [H / 2] that powers of `base` give.
          base: of the powers.
          length: tokens of each row up to its last, those in a cache included, [B].
        """
        ...


@dataclasses.dataclass(frozen=True)
class LinearScaling:
    """Chen et al. (2023), position interpolation: every position is divided by `factor`."""

    factor: float
    magnitude = 1.0

    def __call__(self, frequency: np.ndarray, base: float, length: Array) -> np.ndarray:
        """All of them, lower by the factor."""
        del base, length
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

    def __call__(self, frequency: np.ndarray, base: float, length: Array) -> np.ndarray:
        """Long waves lower by the factor."""
        del base, length
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

    def __call__(self, frequency: np.ndarray, base: float, length: Array) -> np.ndarray:
        """Long waves lower by the factor."""
        del length
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


@dataclasses.dataclass(frozen=True)
class DynamicNTK:
    """A base that grows with the text, so that long waves are stretched as far as it takes.

    NTK-aware interpolation (Peng et al., 2023, section 3.1) with the factor of what is being read:
    texts of up to `length` tokens are read as without it. Keys that are in a cache stay as they
    were rotated, as in `transformers`, so that beyond `length` a text read at once and one read
    token by token are not the same.

    Attributes:
      factor: a text of n times the length has the base of NTK-aware interpolation by
        `factor` n - (`factor` - 1).
      length: the context of pretraining.
    """

    factor: float
    length: int
    magnitude = 1.0

    def __call__(self, frequency: np.ndarray, base: float, length: Array) -> Array:
        """Lower ones for rows that are longer than the context of pretraining."""
        del base
        half = len(frequency)
        ratio = jnp.maximum(length, self.length) / self.length  # [B]
        growth = (self.factor * ratio - (self.factor - 1)) ** (half / (half - 1))
        return frequency * growth[:, None] ** -(np.arange(half) / half).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class LongRoPE:
    """Ding et al. (2024): each wave is stretched by a factor of its own, found by search.

    Attributes:
      short, long: factors [H / 2] for texts of up to `length` tokens, and for longer ones.
      length: the context of pretraining.
      magnitude: factor on rotated queries and keys.
      turn: tokens beyond which all of a text is read otherwise than before.
    """

    short: tuple[float, ...]
    long: tuple[float, ...]
    length: int
    magnitude: float = 1.0

    @property
    def turn(self) -> int:
        return self.length

    def __call__(self, frequency: np.ndarray, base: float, length: Array) -> Array:
        """Divided by the factors for the length of each row."""
        del base
        if len(self.short) != len(frequency) or len(self.long) != len(frequency):
            raise ValueError(
                f"LongRoPE has {len(self.short)} short and {len(self.long)} long factors; heads "
                f"with {2 * len(frequency)} rotated entries take {len(frequency)}"
            )
        short, long = (frequency / np.float32(factors) for factors in (self.short, self.long))
        return jnp.where(length[:, None] > self.length, long, short)


def yarn_magnitude(factor: float, weight: float = 1.0) -> float:
    """0.1 weight ln(factor) + 1, the paper's fit of the temperature of attention."""
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1
