"""`tap`: a named activation that can be read or patched, under `jit` and `scan`."""

import flax.linen as nn
import jax
from flax import struct

Array = jax.Array


@struct.dataclass
class Patch:
    """Replaces an activation x by x * keep + add.

    Steering is (1, delta), ablation (0, 0), patching in another run's activation (0, its value).
    Inside a stack both carry a leading layer axis.
    """

    keep: Array
    add: Array


def tap(module: nn.Module, name: str, x: Array) -> Array:
    """Names the activation x.

    Read it with `apply(..., mutable=["taps"])`; patch it by passing a collection `patches` that
    holds a `Patch` under the same path. Costs nothing where neither is asked for.
    """
    if module.has_variable("patches", name):
        patch = module.get_variable("patches", name)
        x = (x * patch.keep + patch.add).astype(x.dtype)
    module.sow("taps", name, x, reduce_fn=lambda _, new: new, init_fn=lambda: None)
    return x
