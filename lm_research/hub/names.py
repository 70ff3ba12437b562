"""What a family's table means for one model: where in which tensor each parameter lies."""

import dataclasses
import functools
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from lm_research import models, tree
from lm_research.errors import UserError
from lm_research.layers.stack import BLOCK, period_of, places
from lm_research.models.family import Family, Row
from lm_research.models.initial import initial


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One of our parameters: its axes as letters, and their sizes."""

    letters: str
    shape: tuple[int, ...]

    @property
    def sizes(self) -> dict[str, int]:
        """Of each letter."""
        return dict(zip(self.letters, self.shape))


@dataclasses.dataclass(frozen=True)
class Part:
    """One layer of a parameter, or one expert of it, as it lies in a tensor.

    Attributes:
      ours: the parameter's path.
      index: of the layer, and of the expert where each has a tensor of its own, in the parameter;
        empty where the tensor holds all of it.
      letters, shape: of the parameter at that index.
      groups: the tensor's axes, each one letter, several that are flattened, or none for an axis of
        one.
      axis: of the tensor, along which parts are joined; None for a part that is the whole.
      start: of this part along `axis`.
      stored: whether the model has the parameter; a bias that it lacks is zero.
      within: where the tensor flattens `axis` into the one before it, the rows that all parts
        have of it together; None elsewhere.
    """

    ours: str
    index: tuple[int, ...]
    letters: str
    shape: tuple[int, ...]
    groups: tuple[str, ...]
    axis: int | None
    start: int
    stored: bool
    within: int | None = None

    @property
    def extent(self) -> tuple[int, ...]:
        """This part's shape in the tensor."""
        sizes = dict(zip(self.letters, self.shape))
        return tuple(math.prod(sizes[letter] for letter in group) for group in self.groups)

    def theirs(self, array: np.ndarray) -> np.ndarray:
        """The parameter's layer, an array of `shape`, as the tensor has it."""
        order = [self.letters.index(letter) for letter in "".join(self.groups)]
        return array.transpose(order).reshape(self.extent)

    def read(
        self, read: Callable[[tuple[slice, ...]], np.ndarray], index: Sequence[slice]
    ) -> np.ndarray:
        """`index` of the parameter's layer, read from no more of the tensor than it needs.

        Args:
          read: slices of the tensor.
          index: a slice with bounds for each of `letters`.
        """
        wanted = dict(zip(self.letters, index))
        sizes = dict(zip(self.letters, self.shape))
        slices, shape = [], []
        for axis, group in enumerate(self.groups):
            if not group:
                slices.append(slice(0, 1))
                continue
            # Of letters flattened into one axis, the first is cut here and the others below.
            outer, inner = wanted[group[0]], [sizes[letter] for letter in group[1:]]
            start = self.start if axis == self.axis else 0
            step = math.prod(inner)
            slices.append(slice(start + outer.start * step, start + outer.stop * step))
            shape += [outer.stop - outer.start, *inner]
        flat = "".join(self.groups)
        array = self._unfolded(read, slices).reshape(shape)
        array = array.transpose([flat.index(letter) for letter in self.letters])
        outers = {group[0] for group in self.groups if group}
        return array[tuple(slice(None) if x in outers else wanted[x] for x in self.letters)]

    def strips(self, index: Sequence[slice], limit: int) -> Iterator[list[slice]]:
        """`index` in parts of about `limit` entries, each of which is whole rows of the tensor."""
        letter = next(iter(self.groups), "")[:1]
        if not letter:
            yield list(index)
            return
        axis = self.letters.index(letter)
        rows = index[axis]
        size = math.prod(cut.stop - cut.start for cut in index) // max(1, rows.stop - rows.start)
        step = max(1, limit // max(1, size))
        for start in range(rows.start, rows.stop, step):
            strip = slice(start, min(start + step, rows.stop))
            yield [*index[:axis], strip, *index[axis + 1 :]]

    def _unfolded(self, read, cut: Sequence[slice]) -> np.ndarray:
        """`cut` of the tensor with `axis` taken apart from the one before it."""
        if self.within is None:
            return read(tuple(cut))
        axis = self.axis
        outer = slice(cut[axis - 1].start * self.within, cut[axis - 1].stop * self.within)
        array = read((*cut[: axis - 1], outer, *cut[axis + 1 :]))
        array = array.reshape(*array.shape[: axis - 1], -1, self.within, *array.shape[axis:])
        return array[(*(slice(None),) * axis, cut[axis])]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One of their tensors and the parts that it is made of, in order."""

    shape: tuple[int, ...]
    parts: tuple[Part, ...]

    def made(self, read: Callable[[str, tuple[int, ...]], np.ndarray]) -> np.ndarray:
        """The tensor, float32, from `read(path, index)` of our parameters."""
        arrays = [
            part.theirs(read(part.ours, part.index))
            if part.stored
            else np.zeros(part.extent, np.float32)
            for part in self.parts
        ]
        joined = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, self.parts[0].axis)
        return np.ascontiguousarray(joined.reshape(self.shape), np.float32)


def families() -> tuple[Family, ...]:
    """Those of every architecture in `lm_research.models`."""
    modules = [sys.modules[getattr(models, name).__module__] for name in models.__all__]
    return tuple(f for module in dict.fromkeys(modules) for f in getattr(module, "FAMILIES", ()))


@functools.lru_cache(maxsize=64)  # tracing a model takes a good part of a second
def abstract(model: nn.Module) -> Any:
    """The model's parameters as shapes, boxed with the names of their axes: nothing is computed."""
    return jax.eval_shape(functools.partial(initial, model), jax.random.key(0))


def parameters(boxed: Any) -> dict[str, Parameter]:
    """By path, the parameters of `abstract`."""
    return {
        path: Parameter("".join(name or "_" for name in leaf.names), leaf.value.shape)
        for path, leaf in tree.named_leaves(boxed).items()
    }


def sizes(given: Mapping[str, Parameter]) -> dict[str, int]:
    """The size of each letter in a model; of L, all layers together."""
    found = {
        letter: size for parameter in given.values() for letter, size in parameter.sizes.items()
    }
    layers = [layer for places in _places(given).values() for layer in places if layer is not None]
    return found | ({"L": max(layers) + 1} if layers else {})


def fitting(section: Mapping[str, Any], given: Mapping[str, Parameter]) -> Family:
    """The family that computes what a model does and has its tensors, to save it as.

    Args:
      section: the model section, completed by its defaults.
      given: the model's parameters.

    Raises:
      UserError: there is none.
    """
    trunk = section.get("trunk", section)
    kind = section["kind"] if trunk is section else f"{section['kind']} of {trunk['kind']}"
    candidates = [family for family in families() if family.saved and family.makes(section)]
    if not candidates:
        alike = (family for family in families() if bool(family.task) == (trunk is not section))
        known = ", ".join(dict.fromkeys(family.kind for family in alike if family.saved))
        which = "these have" if trunk is section else f"a {section['kind']} of these has"
        raise UserError(f"model.kind {kind} has no Hugging Face architecture; {which}: {known}")
    differences = [
        [f"model.{name}" for name in family.without if trunk.get(name)] + strangers(family, given)
        for family in candidates
    ]
    fits = [family for family, found in zip(candidates, differences) if not found]
    if not fits:
        reasons = "; ".join(
            f"{family.architecture}: {', '.join(found[:5])}"
            for family, found in zip(candidates, differences)
        )
        raise UserError(f"this {kind} is none of Hugging Face's, which differ in {reasons}")
    return min(fits, key=lambda family: lacking(family, given))


def lacking(family: Family, given: Mapping[str, Parameter]) -> int:
    """How many parameters of a family a model does without."""
    has = _places(given)
    return sum(row.ours not in has for row in family.rows)


def strangers(family: Family, given: Mapping[str, Parameter]) -> list[str]:
    """Parameters that only the model has, or only the family; a bias that a model lacks is zero."""
    rows, has = {row.ours: row for row in family.rows}, _places(given)
    return [path for path in has if path not in rows] + [
        path
        for path, row in rows.items()
        if path not in has and not _dispensable(row) and not path.endswith("bias")
    ]


def layout(family: Family, given: Mapping[str, Parameter]) -> dict[str, Tensor]:
    """Every tensor of a model by its name, as `transformers` would save it."""
    parts: dict[str, list[Part]] = {}
    has, known = _places(given), sizes(given)
    for row in family.rows:
        if row.ours not in has and _dispensable(row):
            continue
        for name, part in _parts(row, given, has.get(row.ours), known, parts):
            parts.setdefault(name, []).append(part)
    return {name: Tensor(_shape(found), _whole(found)) for name, found in parts.items()}


def _whole(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Parts that know how many rows they share within an axis, where they do."""
    if parts[0].within is None:
        return tuple(parts)
    rows = sum(part.extent[part.axis] for part in parts)
    return tuple(dataclasses.replace(part, within=rows) for part in parts)


def _dispensable(row: Row) -> bool:
    return row.tied is not None or row.optional


Places = dict[int | None, tuple[str, int | None]]


def _places(given: Mapping[str, Parameter]) -> dict[str, Places]:
    """By path as tables write it, where each layer of a parameter is: its path, and the row there.

    A table writes `blocks` for every block of a stack, which has them under several names where it
    repeats a period of several (see `lm_research.layers.stack`).
    """
    blocks = {path: BLOCK.fullmatch(path) for path in given}
    rows: dict[str, dict[str, int]] = {}  # of each stack's blocks
    for path, block in blocks.items():
        if block:
            rows.setdefault(block[1], {})[block[2]] = given[path].sizes["L"]
    layers: dict[tuple[str, str], list[int]] = {}
    for stack, counts in rows.items():
        total = sum(counts.values())
        for layer, (name, _) in enumerate(
            places(total, period_of(counts, total), "first" in counts)
        ):
            layers.setdefault((stack, name), []).append(layer)
    found: dict[str, Places] = {}
    for path, block in blocks.items():
        if block:
            table = f"{block[1]}blocks/{block[3]}"
            numbered = enumerate(layers[block[1], block[2]])
            found.setdefault(table, {}).update({layer: (path, row) for row, layer in numbered})
        elif "L" in given[path].letters:
            found[path] = {layer: (path, layer) for layer in range(given[path].sizes["L"])}
        else:
            found[path] = {None: (path, None)}
    return {
        table: dict(sorted(found[table].items())) if len(found[table]) > 1 else found[table]
        for table in found
    }


def _parts(
    row: Row,
    given: Mapping[str, Parameter],
    places: Places | None,
    known: Mapping[str, int],
    before: Mapping[str, list[Part]],
) -> Iterator[tuple[str, Part]]:
    """The tensors of a row, and its part of each."""
    groups, axis, within = _groups(row.axes)
    named = re.findall(r"{([A-Z])}", row.theirs)
    stored = places is not None
    if not stored:
        places = {layer: (row.ours, layer) for layer in range(known["L"])}
    if "L" not in named:
        places = {None: (next(iter(places.values()))[0], None)}
    for layer, (path, line) in places.items():
        if stored:
            sizes = {n: size for n, size in given[path].sizes.items() if n not in named}
        else:
            sizes = {letter: known[letter] for letter in "".join(groups)}
        for expert in range(known["E"]) if "E" in named else (None,):
            name = row.theirs.replace("{L}", str(layer)).replace("{E}", str(expert))
            index = tuple(i for i in (line, expert) if i is not None)
            start = 0 if axis is None else sum(p.extent[axis] for p in before.get(name, ()))
            shape, inner = tuple(sizes.values()), 0 if within else None
            yield (
                name,
                Part(path, index, "".join(sizes), shape, groups, axis, start, stored, inner),
            )


def _groups(axes: str) -> tuple[tuple[str, ...], int | None, bool]:
    """The axes of a row, which of them is joined, and whether that lies within the one before it.

    `D+(NH)` is (D, NH), 1 and no; `(N+H)D` is (N, H, D), 1 and yes.
    """
    groups: list[str] = []
    axis, within = None, False
    for plus, several, one in re.findall(r"(\+?)(?:\(([A-Z+]+)\)|([A-Z_])|1)", axes):
        *outer, inner = several.split("+")
        groups += outer
        within |= bool(outer)
        if plus or outer:
            axis = len(groups)
        groups.append(inner or one)
    return tuple(groups), axis, within


def _shape(parts: Sequence[Part]) -> tuple[int, ...]:
    shape = list(parts[0].extent)
    axis = parts[0].axis
    if axis is not None:
        shape[axis] = sum(part.extent[axis] for part in parts)
        if parts[0].within is not None:
            shape[axis - 1 : axis + 1] = [shape[axis - 1] * shape[axis]]
    return tuple(shape)
