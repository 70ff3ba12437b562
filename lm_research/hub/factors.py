"""LoRA's factors of our matrices, and those of the modules that `peft` has for them.

A module's difference is scale times B A, with A [r, in] and B [out, r]. Where it is several of our
matrices behind one another, such as GPT-2's query, key and value, which share A there, each has a
block of ranks of its own: A holds those of all, and B is zero outside of each one's own rows.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from lm_research.errors import UserError
from lm_research.hub import names
from lm_research.hub.safetensors import listed
from lm_research.weights.lora import split_axes

WEIGHT = ".weight"
Factors = tuple[np.ndarray, np.ndarray]  # A [r, in] and B [out, r]


@dataclasses.dataclass(frozen=True)
class Side:
    """One axis of a module's weight, as a part of it has it.

    Attributes:
      letters: of the part that lie along it, in the weight's order.
      shape: of these.
      ours: the same letters in the order of our parameter.
      rows: where along the axis the part is.
      size: of the axis, all parts together.
    """

    letters: str
    shape: tuple[int, ...]
    ours: str
    rows: np.ndarray
    size: int

    def theirs(self, factor: np.ndarray) -> np.ndarray:
        """A factor [..., r], whose axes are those of `ours`, as rows [n, r] of the weight's."""
        order = [self.ours.index(letter) for letter in self.letters]
        return factor.transpose(*order, len(order)).reshape(-1, factor.shape[-1])

    def back(self, rows: np.ndarray) -> np.ndarray:
        """What `theirs` was made of."""
        order = [self.letters.index(letter) for letter in self.ours]
        return rows.reshape(*self.shape, -1).transpose(*order, len(order))


@dataclasses.dataclass(frozen=True)
class Piece:
    """One layer of a matrix of ours in a module.

    Attributes:
      path, index: which it is.
      inner, outer: what it reads and what it puts out: the sides of our factors `a` and `b`.
    """

    path: str
    index: tuple[int, ...]
    inner: Side
    outer: Side

    @property
    def sides(self) -> tuple[Side, Side]:
        """Both."""
        return self.inner, self.outer


@dataclasses.dataclass(frozen=True)
class Module:
    """A linear module of theirs.

    Attributes:
      name: as in the tensors' names.
      transposed: whether its weight is [in, out], as that of `Conv1D` is.
      pieces: our matrices in it, in order.
    """

    name: str
    transposed: bool
    pieces: tuple[Piece, ...]

    def made(self, ours: Mapping[str, np.ndarray]) -> Factors:
        """A and B from our factors, by name; those of matrices that have none are left out."""
        found = [piece for piece in self.pieces if f"{piece.path}/a" in ours]
        pairs = []
        for piece in found:
            a, b = (ours[f"{piece.path}/{factor}"][piece.index] for factor in "ab")
            pairs.append((piece.inner.theirs(a), piece.outer.theirs(np.moveaxis(b, 0, -1))))
        ranks = [read.shape[1] for read, _ in pairs]
        sizes = [side.size for side in found[0].sides]
        whole = [np.zeros((size, sum(ranks)), np.float32) for size in sizes]
        for piece, pair, stop in zip(found, pairs, np.cumsum(ranks)):
            for result, side, rows in zip(whole, piece.sides, pair):
                result[side.rows, stop - rows.shape[1] : stop] = rows
        return np.ascontiguousarray(whole[0].T), whole[1]

    def read(self, piece: Piece, factors: Factors) -> Factors:
        """Our `a` [..., r] and `b` [r, ...] of a piece, without ranks that are other pieces'."""
        both = [factors[0].T, factors[1]]
        theirs = [rows[side.rows] for rows, side in zip(both, piece.sides)]
        mine = np.ones(both[0].shape[1], bool)
        for whole, own in zip(both, theirs):
            mine &= own.any(0) | ~whole.any(0)
        a, b = (rows[:, mine] for rows in theirs)
        return piece.inner.back(a), np.moveaxis(piece.outer.back(b), -1, 0)


def modules(
    layout: Mapping[str, names.Tensor], given: Mapping[str, names.Parameter]
) -> dict[str, Module]:
    """The linear modules of a model, by name.

    Args:
      layout: the model's tensors.
      given: its parameters.
    """
    found = {}
    for name, tensor in layout.items():
        if not name.endswith(WEIGHT) or len(tensor.shape) != 2:
            continue
        pieces = [_piece(part, tensor, given) for part in tensor.parts]
        if None in pieces:
            continue
        reads = _axis(tensor.parts[0], pieces[0].inner.letters)
        module = name.removesuffix(WEIGHT)
        found[module] = Module(module, reads == 0, tuple(pieces))
    return found


def stacked(
    path: str, given: names.Parameter, layers: Mapping[tuple[int, ...], Factors], rank: int
) -> dict[str, np.ndarray]:
    """Our factors of all layers, by name; where there are none, or of less rank, they are zero."""
    lead = given.shape[: len(next(iter(layers)))]
    a, b = next(iter(layers.values()))
    both = {
        f"{path}/a": np.zeros((*lead, *a.shape[:-1], rank), np.float32),
        f"{path}/b": np.zeros((*lead, rank, *b.shape[1:]), np.float32),
    }
    for index, (a, b) in layers.items():
        both[f"{path}/a"][index][..., : a.shape[-1]] = a
        both[f"{path}/b"][index][: len(b)] = b
    return both


def refuse_others(paths: Sequence[str], found: Mapping[str, Module], what: str) -> None:
    """Refuses factors of matrices that are in no linear module.

    Raises:
      UserError: names them.
    """
    has = {piece.path for module in found.values() for piece in module.pieces}
    if others := [path for path in paths if path not in has]:
        raise UserError(
            f"{what} has factors of {listed(others)}, which `transformers` has in no linear "
            "module of its own, so that PEFT cannot hold them"
        )


def _piece(
    part: names.Part, tensor: names.Tensor, given: Mapping[str, names.Parameter]
) -> Piece | None:
    """A part of a weight as a matrix of ours; None where it is none that PEFT has factors of."""
    if not part.stored or "E" in part.letters or len(part.index) > 1:
        return None  # `transformers` keeps experts in one parameter, which is no module
    _, inner, outer = split_axes(tuple(given[part.ours].letters))
    if not inner or not outer or part.ours.endswith("table"):
        return None  # PEFT's embeddings are modules of another kind, and heads may be tied to them
    sides = [_side(part, tensor, "".join(letters)) for letters in (inner, outer)]
    return None if None in sides else Piece(part.ours, part.index, *sides)


def _side(part: names.Part, tensor: names.Tensor, ours: str) -> Side | None:
    axis = _axis(part, ours)
    if axis is None:
        return None
    sizes = dict(zip(part.letters, part.shape))
    letters = _axes(part)[axis]
    shape = tuple(sizes[letter] for letter in letters)
    rows = np.arange(math.prod(shape))
    if part.within is not None and axis == part.axis - 1:
        inner = part.extent[part.axis]
        first = np.arange(len(rows) // inner) * part.within + part.start
        rows = (first[:, None] + np.arange(inner)).ravel()
    elif part.within is None and axis == part.axis:
        rows = rows + part.start
    return Side(letters, shape, ours, rows, tensor.shape[axis])


def _axes(part: names.Part) -> tuple[str, ...]:
    """The letters along each axis of the weight."""
    if part.within is None:
        return part.groups
    at, groups = part.axis, part.groups
    return (*groups[: at - 1], groups[at - 1] + groups[at], *groups[at + 1 :])


def _axis(part: names.Part, letters: str) -> int | None:
    """Which axis of the weight has just these letters."""
    found = [i for i, group in enumerate(_axes(part)) if set(group) == set(letters)]
    return found[0] if found else None
