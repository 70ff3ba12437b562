"""SIGTERM and SIGINT ask a run to save and stop, on whichever process they come."""

import signal

import jax
import jax.numpy as jnp
import numpy as np


class Interruption:
    """Listens to SIGTERM and SIGINT within a block; a second one stops at once."""

    def __init__(self):
        self.asked = False
        self._before: jax.Array | None = None  # whether any process was asked, a call ago
        self._previous = {}

    def __enter__(self) -> "Interruption":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number, frame) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def agreed(self) -> bool:
        """Whether to stop now: the same answer on all processes, which all must ask.

        Among several, the answer is that of the call before: devices find it among their other
        work, and no host waits for it.
        """
        if jax.process_count() == 1:
            return self.asked
        before, self._before = self._before, _anywhere(self.asked)
        return before is not None and bool(before)


def _anywhere(fact: bool) -> jax.Array:
    """Whether `fact` holds on any process, once the devices have come to it."""
    mesh = jax.sharding.get_mesh()
    each, everywhere = (jax.NamedSharding(mesh, spec) for spec in (jax.P(mesh.axis_names), jax.P()))
    facts = jax.make_array_from_callback((mesh.size,), each, lambda _: np.full(1, fact))
    return jax.jit(jnp.any, out_shardings=everywhere)(facts)
