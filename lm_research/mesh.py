"""The mesh, the letter rules that lay arrays out on it, and placing a batch.

A rule maps a letter of the alphabet (see `lm_research.layers`) to mesh axes. The first rule that
finds its mesh axes free wins: an activation gives `fsdp` to B and keeps its D whole; a weight has
no B, so its D takes `fsdp`.
"""

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lm_research.errors import UserError
from lm_research.tree import unboxed

Rules = tuple[tuple[str, str | tuple[str, ...]], ...]

RULES: Rules = (
    ("B", ("data", "fsdp", "expert")),
    ("E", "expert"),
    ("V", "tensor"),
    ("F", "tensor"),
    ("N", "tensor"),
    ("K", "tensor"),
    ("D", "fsdp"),
)


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Sizes of the mesh axes; one of them may be -1, which takes the devices that are left."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    expert: int = 1
    rules: Rules = RULES

    def sizes(self, devices: int) -> dict[str, int]:
        """Axis sizes for `devices` devices.

        Raises:
          UserError: the sizes do not multiply to the number of devices.
        """
        sizes = {name: getattr(self, name) for name in ("data", "fsdp", "expert", "tensor")}
        given = ", ".join(f"{name}={size}" for name, size in sizes.items())
        free = [name for name, size in sizes.items() if size == -1]
        fixed = math.prod(size for size in sizes.values() if size != -1)
        if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
            raise UserError(f"mesh has {given}; sizes are positive and at most one of them is -1")
        if devices % fixed or (not free and fixed != devices):
            raise UserError(f"mesh has {given}, which does not make {devices} devices")
        return {**sizes, **dict.fromkeys(free, devices // fixed)}

    @contextlib.contextmanager
    def activate(self, devices: Sequence[jax.Device] | None = None):
        """Makes the mesh over `devices` (all) and the rules current; yields the JAX mesh."""
        devices = jax.devices() if devices is None else devices
        sizes = self.sizes(len(devices))
        # Auto axes: Linen's logical constraints do not work under Explicit ones.
        auto = (AxisType.Auto,) * len(sizes)
        mesh = jax.make_mesh(tuple(sizes.values()), tuple(sizes), auto, devices=devices)
        with jax.set_mesh(mesh), nn.logical_axis_rules(self.rules):
            yield mesh

    def unused(self, letters: set[str], sizes: Mapping[str, int]) -> list[str]:
        """The rules that matched nothing: no array has their letter, or no rule their mesh axis."""
        idle = [
            f"{letter} -> {axis}"
            for letter, axis in self.rules
            if letter not in letters and (letter != "E" or sizes["expert"] > 1)
        ]
        ruled = {
            axis for _, axes in self.rules for axis in ([axes] if isinstance(axes, str) else axes)
        }
        return idle + [f"mesh axis {n}" for n, size in sizes.items() if size > 1 and n not in ruled]


def single():
    """A context with one device's mesh, for work that needs no more."""
    return Mesh().activate(jax.devices()[:1])


def shardings(tree: Any) -> Any:
    """Where each leaf of a tree of shapes with named axes goes on the current mesh.

    Raises:
      UserError: an axis does not divide over its part of the mesh.
    """
    mesh = jax.sharding.get_mesh()
    spec = nn.get_partition_spec(tree)
    result = nn.logical_to_mesh_sharding(spec, mesh, nn.get_logical_axis_rules())
    jax.tree_util.tree_map_with_path(_check_divides, unboxed(tree), spec, result)
    return result


def placed_shapes(tree: Any) -> Any:
    """A tree of shapes with named axes as plain shapes with their shardings on the current mesh."""
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        unboxed(tree),
        shardings(tree),
    )


def _check_divides(path, leaf, letters, sharding) -> None:
    for size, letter, axes in zip(leaf.shape, letters, sharding.spec, strict=False):
        names = () if axes is None else (axes,) if isinstance(axes, str) else axes
        parts = math.prod(sharding.mesh.shape[name] for name in names)
        if size % parts:
            name = "/".join(str(key.key) for key in path if hasattr(key, "key"))
            raise UserError(
                f"axis {letter} of {name} has {size} entries, which mesh axis "
                f"{'*'.join(names)} of size {parts} does not divide"
            )


def check_batch(rows: int, what: str = "batch.size") -> None:
    """Refuses a batch whose rows the mesh's data axes do not divide.

    Raises:
      UserError: says which sizes would be accepted.
    """
    sharding = batch_sharding()
    names = sharding.spec[0] if len(sharding.spec) else ()
    names = (names,) if isinstance(names, str) else names or ()
    parts = math.prod(sharding.mesh.shape[name] for name in names)
    if rows % parts:
        raise UserError(
            f"{what} gives {rows} rows, which {'*'.join(names)} = {parts} does not divide; "
            f"it takes a multiple of {parts}"
        )


def batch_sharding(leading: int = 0) -> NamedSharding:
    """The sharding of a batch [..., B, ...] whose B comes after `leading` whole axes."""
    axes = nn.logical_to_mesh_axes(("B",), nn.get_logical_axis_rules())
    return NamedSharding(jax.sharding.get_mesh(), PartitionSpec(*(None,) * leading, *axes))


def place(batch: Any, leading: int = 0) -> Any:
    """This process's rows of a batch, as arrays that span the mesh.

    Args:
      batch: tree of numpy arrays [..., B / processes, ...].
      leading: axes before B.
    """
    sharding = batch_sharding(leading)
    return jax.tree.map(
        lambda rows: jax.make_array_from_process_local_data(sharding, np.asarray(rows)), batch
    )
