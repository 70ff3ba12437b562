"""`Divergence`: what becomes of a batch whose loss is not finite, or leaps; decided on the device.

A batch that is not taken leaves no trace: the state, its step included, is what it was before. So
the learning rate and dropout of the next batch are those that this one would have had, and steps
count updates, while the position in the data goes on.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from lm_research import config
from lm_research.errors import UserError

Array = jax.Array
State = Any

WINDOW = 128  # losses of the newest updates, by which a spike is judged
LEAST = 16  # of them, before which nothing is a spike


@dataclasses.dataclass(frozen=True)
class Divergence:
    """What to do at a batch whose loss or gradient is not finite, or whose loss is a spike.

    Attributes:
      policy: `stop` ends the run, which names the last good checkpoint; `skip` makes no update from
        that batch and goes on with the next; `back` goes back to the checkpoint of a regular save
        (`checkpoint.every`) at least `back` steps before, and on with the data after that batch.
      spike: a loss so many standard deviations above the mean of those of the last 128 updates is
        one, from the 17th update on; the deviation counts as at least 1% of the mean. None: no
        finite loss is.
      back: steps from the checkpoint that is gone back to, to the update that was not made.
      limit: how many batches the whole run may pass over; at one more it stops.
    """

    policy: Literal["stop", "skip", "back"] = "stop"
    spike: float | None = None
    back: int = 1
    limit: int = 10

    def __post_init__(self):
        config.at_least(self, "divergence", 1, "back", "limit")
        if self.spike is not None and not self.spike > 0:
            raise UserError(f"divergence.spike is {self.spike}; it takes a number above 0, or none")

    @property
    def guards(self) -> bool:
        """Whether the step itself keeps bad batches out."""
        return self.policy != "stop" or self.spike is not None

    def target(self, step: int, every: int) -> int:
        """The last step to go back to from an update that was to be `step`.

        Args:
          step: of that update.
          every: steps between regular saves; 0 where there are none.
        """
        last = max(0, step - self.back)
        return last - last % every if every else last


def guarded(
    settings: Divergence, before: State, after: State, numbers: dict[str, Array]
) -> tuple[State, dict[str, Array]]:
    """The state after an update, or that before it if the batch is bad.

    Args:
      settings: what is bad.
      before: the state, with the losses that a spike is judged by in `recent`.
      after: the state that the update makes of it.
      numbers: loss and gradient_norm [] of the batch; `skipped` [] is added.
    """
    if not settings.guards:
        return after, numbers
    loss, recent = numbers["loss"], before.recent
    bad = ~(jnp.isfinite(loss) & jnp.isfinite(numbers["gradient_norm"]))
    if settings.spike is not None:
        bad |= _leaps(loss, recent, settings.spike)
        recent = jnp.append(recent[1:], loss.astype(jnp.float32))
    after = after.replace(recent=recent)
    kept = jax.tree.map(lambda old, new: jnp.where(bad, old, new), before, after)
    return kept, numbers | {"skipped": bad}


def _leaps(loss: Array, recent: Array, spike: float) -> Array:
    known = jnp.isfinite(recent)
    count = jnp.maximum(known.sum(), 1)
    mean = jnp.where(known, recent, 0).sum() / count
    variance = jnp.where(known, jnp.square(recent - mean), 0).sum() / count
    deviation = jnp.maximum(jnp.sqrt(variance), 0.01 * jnp.abs(mean))
    return (known.sum() >= LEAST) & (loss > mean + spike * deviation)


def recalled(settings: Divergence, losses: Sequence[float]) -> Array | None:
    """What a state has in `recent`: the newest losses, on every device of the current mesh."""
    if settings.spike is None:
        return None
    found = np.full(WINDOW, np.nan, np.float32)
    found[WINDOW - len(losses) :] = losses
    everywhere = jax.NamedSharding(jax.sharding.get_mesh(), jax.P())
    return jax.make_array_from_callback((WINDOW,), everywhere, lambda index: found[index])


def remembered(recent: Array | None) -> list[float]:
    """What `recalled` takes."""
    if recent is None:
        return []
    losses = np.asarray(recent)
    return losses[np.isfinite(losses)].tolist()
