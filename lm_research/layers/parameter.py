"""Parameters of modules, with the letters of their axes."""

from collections.abc import Sequence

import flax.errors
import flax.linen as nn
import jax


def parameter(
    module: nn.Module,
    name: str,
    init: nn.initializers.Initializer,
    axes: Sequence[str | None],
    shape: Sequence[int],
) -> jax.Array:
    """A parameter of `module`, made by `init` where there is none yet.

    Where there is one, it is only looked up: Linen's own `param` traces the initializer in every
    trace of a model, to compare shapes, which takes longer than most layers do.

    Args:
      module: which calls it in a compact method.
      name: of the parameter.
      init: an initializer, of a key and a shape.
      axes: a letter for each axis, None for one that no mesh divides.
      shape: its sizes.

    Raises:
      flax.errors.ScopeParamShapeError: there is one, of another shape.
    """
    if not module.has_variable("params", name):
        return module.param(name, nn.with_logical_partitioning(init, tuple(axes)), tuple(shape))
    value = nn.meta.unbox(module.get_variable("params", name))
    if value.shape != tuple(shape):
        path = "/".join(module.path)
        raise flax.errors.ScopeParamShapeError(name, path, value.shape, tuple(shape))
    return value
