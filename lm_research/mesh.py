"""The mesh, the letter rules that lay arrays out on it, and placing a batch.

A rule maps a letter of the alphabet (see `lm_research.layers`) to mesh axes. The first rule that
finds its mesh axes free wins: an activation gives `fsdp` to B and keeps its D whole; a weight has
no B, so its D takes `fsdp`.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lm_research import log
from lm_research.errors import UserError
from lm_research.tree import unboxed

Rules = tuple[tuple[str, str | tuple[str, ...]], ...]

RULES: Rules = (
    ("B", ("data", "fsdp", "expert")),
    ("T", "sequence"),
    ("S", "sequence"),
    ("E", "expert"),
    ("L", "pipeline"),
    ("V", "tensor"),
    ("F", "tensor"),
    ("N", "tensor"),
    ("K", "tensor"),
    ("D", "fsdp"),
)


AXES = ("data", "fsdp", "expert", "pipeline", "sequence", "tensor")  # the last talk the most

POSITIONS = "TS"  # letters by which activations are laid out, and parameters are not


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Sizes of the mesh axes; one of them may be -1, which takes the devices that are left.

    Attributes:
      data: parts of the batch; each has all parameters.
      fsdp: parts of the batch; each has a part of every parameter, and gathers it to use it.
      tensor: parts of heads, of what feeds forward, and of the vocabulary.
      expert: parts of the experts, and of the batch.
      sequence: parts of the positions; attention exchanges them for parts of the heads.
      pipeline: parts of the layers, which rows of the batch go through one after another.
      slices: groups of devices that a slower network joins; `data` is split among them first.
      rules: which axes a letter takes.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    expert: int = 1
    sequence: int = 1
    pipeline: int = 1
    slices: int = 1
    rules: Rules = RULES

    def sizes(self, devices: int) -> dict[str, int]:
        """Axis sizes for `devices` devices.

        Raises:
          UserError: the sizes do not multiply to the number of devices, or the slices do not
            divide `data`.
        """
        sizes = {name: getattr(self, name) for name in AXES}
        given = ", ".join(f"{name}={size}" for name, size in sizes.items())
        free = [name for name, size in sizes.items() if size == -1]
        fixed = math.prod(size for size in sizes.values() if size != -1)
        if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
            raise UserError(f"mesh has {given}; sizes are positive and at most one of them is -1")
        if devices % fixed or (not free and fixed != devices):
            raise UserError(f"mesh has {given}, which does not make {devices} devices")
        sizes |= dict.fromkeys(free, devices // fixed)
        if self.slices < 1 or sizes["data"] % self.slices:
            raise UserError(
                f"mesh.slices is {self.slices}; it takes a divisor of mesh.data, which is "
                f"{sizes['data']}"
            )
        return sizes

    @contextlib.contextmanager
    def activate(self, devices: Sequence[jax.Device] | None = None):
        """Makes the mesh over `devices` (all) and the rules current; yields the JAX mesh."""
        devices = jax.devices() if devices is None else devices
        sizes = self.sizes(len(devices))
        # Auto axes: Linen's logical constraints do not work under Explicit ones.
        auto = (AxisType.Auto,) * len(sizes)
        placed = _arranged(list(devices), sizes, self.slices)
        mesh = jax.sharding.Mesh(placed, tuple(sizes), axis_types=auto)
        with jax.set_mesh(mesh), nn.logical_axis_rules(self.rules):
            yield mesh

    def unused(self, letters: set[str], sizes: Mapping[str, int]) -> list[str]:
        """What matched nothing: rules whose letter no array has, and mesh axes of no rule."""
        idle = [
            f"{letter} -> {axes}"
            for letter, axes in self.rules
            if letter not in letters and any(sizes.get(name, 1) > 1 for name in names_of(axes))
        ]
        ruled = {name for _, axes in self.rules for name in names_of(axes)}
        return idle + [f"mesh axis {n}" for n, size in sizes.items() if size > 1 and n not in ruled]


def names_of(axes: str | Sequence[str] | None) -> tuple[str, ...]:
    """The mesh axes of one entry of a rule or of a partition spec."""
    return () if axes is None else (axes,) if isinstance(axes, str) else tuple(axes)


def axes_of(letter: str) -> tuple[str, ...]:
    """The mesh axes that a letter takes where nothing else has them."""
    return names_of(nn.logical_to_mesh_axes((letter,), nn.get_logical_axis_rules())[0])


def parts(axes: str | Sequence[str] | None) -> int:
    """Into how many parts mesh axes cut what they share out."""
    sizes = jax.sharding.get_abstract_mesh().shape
    return math.prod(sizes[name] for name in names_of(axes))


def _arranged(devices: list[jax.Device], sizes: Mapping[str, int], slices: int) -> np.ndarray:
    """Devices as an array with the mesh's axes, those of a slice in one block of `data`.

    Raises:
      UserError: the devices do not lie in so many equal slices.
    """
    from jax.experimental.mesh_utils import create_device_mesh

    shape = {**sizes, "data": sizes["data"] // slices}
    told = [getattr(device, "slice_index", None) for device in devices]
    if slices == 1:
        # A GPU's says which host it is in, which may be of one mesh.
        if devices[0].platform == "tpu" and (count := len(set(told))) > 1:
            raise UserError(
                f"the devices lie in {count} slices and mesh.slices is 1; give "
                f"--config.mesh.slices={count}"
            )
        groups = [devices]
    elif len(set(told)) > 1:
        groups = [[d for d, own in zip(devices, told) if own == i] for i in sorted(set(told))]
    else:  # hosts of GPUs come one after another
        groups = [part.tolist() for part in np.array_split(np.array(devices), slices)]
    if len(groups) != slices or len({len(group) for group in groups}) > 1:
        raise UserError(
            f"mesh.slices is {slices}, and the devices lie in slices of "
            f"{', '.join(str(len(group)) for group in groups)}"
        )
    blocks = [create_device_mesh(tuple(shape.values()), devices=group) for group in groups]
    return np.concatenate(blocks, list(sizes).index("data"))


def single():
    """A context with one device's mesh, for work that needs no more."""
    return Mesh().activate(jax.devices()[:1])


def shardings(tree: Any) -> Any:
    """Where each leaf of a tree of shapes with named axes goes on the current mesh.

    Raises:
      UserError: an axis does not divide over its part of the mesh, and is not the vocabulary,
        whose size is a tokenizer's: that stays whole there, which is told.
    """
    mesh = jax.sharding.get_mesh()
    spec = nn.get_partition_spec(tree)
    rules = [rule for rule in nn.get_logical_axis_rules() if rule[0] not in POSITIONS]
    result = nn.logical_to_mesh_sharding(spec, mesh, rules)
    result = jax.tree.map(_some_whole, unboxed(tree), spec, result)
    jax.tree_util.tree_map_with_path(_check_divides, unboxed(tree), spec, result)
    return result


def _some_whole(leaf, letters, sharding) -> NamedSharding:
    """Without what stands alone beside a stack's layers, and a vocabulary that does not divide."""
    kept = []
    for letter, size, names in itertools.zip_longest(letters, leaf.shape, sharding.spec):
        if letter == "V" and size % parts(names):
            axes = "*".join(names_of(names))
            log.fallback(
                f"a vocabulary of {size} cut along mesh axis {axes}",
                "its tables whole",
                f"{parts(names)} parts do not divide it",
            )
            names = None
        kept.append(None if letter == "L" and size == 1 else names)
    return NamedSharding(sharding.mesh, PartitionSpec(*kept))


def placed_shapes(tree: Any) -> Any:
    """A tree of shapes with named axes as plain shapes with their shardings on the current mesh."""
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        unboxed(tree),
        shardings(tree),
    )


def _check_divides(path, leaf, letters, sharding) -> None:
    for size, letter, axes in zip(leaf.shape, letters, sharding.spec, strict=False):
        if size % (count := parts(axes)):
            name = "/".join(str(key.key) for key in path if hasattr(key, "key"))
            raise UserError(
                f"axis {letter} of {name} has {size} entries, which mesh axis "
                f"{'*'.join(names_of(axes))} of size {count} does not divide"
            )


def check_batch(rows: int, what: str = "batch.size") -> None:
    """Refuses a batch whose rows the mesh's data axes do not divide.

    Raises:
      UserError: says which sizes would be accepted.
    """
    names = axes_of("B")
    check_multiple(f"{what} gives {rows} rows", rows, "*".join(names), parts(names))


def check_length(length: int, what: str = "objective.length") -> None:
    """Refuses texts whose positions the mesh's `sequence` does not divide.

    Raises:
      UserError: says which lengths would be accepted.
    """
    check_multiple(f"{what} is {length}", length, "mesh.sequence", parts("sequence"))


def check_multiple(told: str, count: int, name: str, divisor: int) -> None:
    """Refuses a count that a divisor does not divide.

    Args:
      told: what the count is of.
      count: what is to be shared out.
      name: of what shares it out.
      divisor: into how many parts.

    Raises:
      UserError: says what would be accepted.
    """
    if count % divisor:
        raise UserError(
            f"{told}, which {name} = {divisor} does not divide; it takes a multiple of {divisor}"
        )


def share() -> tuple[int, int]:
    """Which rows of a batch this process has: the number of its part, and how many there are.

    Processes that hold the same rows, of other layers or heads, have the same part.

    Raises:
      UserError: the rows of its devices do not lie together.
    """
    return _share(batch_sharding(), parts(axes_of("B")))


@functools.lru_cache
def _share(sharding: NamedSharding, shares: int) -> tuple[int, int]:
    where = sharding.addressable_devices_indices_map((shares,)).values()
    mine = sorted({rows.start or 0 for (rows,) in where})
    if mine != list(range(mine[0], mine[0] + len(mine))) or mine[0] % len(mine):
        raise UserError(
            f"the mesh gives process {jax.process_index()} rows {mine} of each {shares}, which do "
            "not lie together; give the axes that share out rows (data, fsdp, expert) sizes that "
            "fit into the processes"
        )
    return mine[0] // len(mine), shares // len(mine)


def batch_sharding(leading: int = 0) -> NamedSharding:
    """The sharding of a batch [..., B, ...] whose B comes after `leading` whole axes."""
    spec = PartitionSpec(*(None,) * leading, axes_of("B"))
    return NamedSharding(jax.sharding.get_mesh(), spec)


def place(batch: Any, leading: int = 0) -> Any:
    """This process's rows of a batch, as arrays that span the mesh.

    Args:
      batch: tree of numpy arrays [..., B / parts, ...]: the rows of this process's `share`.
      leading: axes before B.
    """
    sharding, shares = batch_sharding(leading), share()[1]

    def spanning(rows):
        rows = np.asarray(rows)
        whole = [n * shares if axis == leading else n for axis, n in enumerate(rows.shape)]
        return jax.make_array_from_process_local_data(sharding, rows, tuple(whole))

    return jax.tree.map(spanning, batch)
