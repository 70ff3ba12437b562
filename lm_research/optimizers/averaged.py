"""Averaged weights: an exponential moving average beside any optimizer."""

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import optax


class Optimizer(Protocol):
    """Settings of an optimizer."""

    def build(self, steps: int) -> optax.GradientTransformation: ...

    def learning_rate(self, steps: int) -> optax.Schedule: ...


class AveragedState(NamedTuple):
    """The average so far, uncorrected, and the state of the optimizer inside."""

    average: Any
    inner: Any


@dataclasses.dataclass(frozen=True)
class Averaged:
    """Keeps an exponential moving average of the trained weights; evaluation and inference use it.

    Attributes:
      optimizer: what trains.
      rate: of the average: what it keeps of itself at each step, once it has seen many.
    """

    optimizer: Any
    rate: float = 0.999

    def learning_rate(self, steps: int) -> optax.Schedule:
        """That of the optimizer inside."""
        return self.optimizer.learning_rate(steps)

    def build(self, steps: int) -> optax.GradientTransformation:
        """The transformation for a run of `steps` steps."""
        inner = self.optimizer.build(steps)

        def init(params):
            copy = jax.tree.map(lambda p: p.copy(), params)
            return AveragedState(copy, inner.init(params))

        def update(updates, state, params):
            updates, new = inner.update(updates, state.inner, params)
            target = optax.apply_updates(params, updates)
            keep = self.rate
            average = jax.tree.map(lambda a, p: keep * a + (1 - keep) * p, state.average, target)
            return updates, AveragedState(average, new)

        return optax.GradientTransformation(init, update)


def evaluated(trained: Any, optimizer_state: Any) -> Any:
    """The weights to evaluate: the average where there is one, else the trained weights."""
    return optimizer_state.average if isinstance(optimizer_state, AveragedState) else trained
