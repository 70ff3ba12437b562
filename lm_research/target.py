"""Which kind of devices programs are traced for: this process's, or those of a plan."""

import contextlib
import dataclasses

import jax


@dataclasses.dataclass(frozen=True)
class Target:
    """What programs are traced for.

    Attributes:
      backend: what JAX calls the platform.
      capability: of CUDA; None elsewhere.
      here: whether this process has it, and can compile what only that platform knows.
    """

    backend: str
    capability: float | None = None
    here: bool = True


_planned: Target | None = None


def target() -> Target:
    """This process's devices, unless `tracing_for` says otherwise."""
    if _planned is not None:
        return _planned
    capability = getattr(jax.devices()[0], "compute_capability", None)
    return Target(jax.default_backend(), capability and float(capability))


@contextlib.contextmanager
def tracing_for(backend: str, capability: float | None = None):
    """Layers that are traced in here choose as they would on another machine."""
    global _planned
    before, _planned = _planned, Target(backend, capability, backend == jax.default_backend())
    try:
        yield
    finally:
        _planned = before
