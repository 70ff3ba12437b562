"""What devices send one another in a compiled program, by collective and mesh axis.

It is read from the text of a partitioned HLO module, whose loops say how often they go round.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
# Bytes of an element; types that are not here have their size in bits in their name.
SIZES = {"pred": 1, "token": 0}

INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.+?) ([a-z][\w\-]*)\((.*)$")
COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
SHAPE = re.compile(r"([a-z]\w*)\[([\d,]*)\]")
CALLED = re.compile(r"(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
# What only changes how an array lies or is kept.
CARRIES = {"copy", "bitcast", "reshape", "convert", "transpose", "optimization-barrier"}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of HLO: its name, type, operation, and all that follows the opening parenthesis."""

    name: str
    type: str
    operation: str
    rest: str

    @property
    def operands(self) -> list[str]:
        """Names of its operands."""
        return re.findall(r"%([\w.\-]+)", self.rest[: _closing(self.rest)])

    @property
    def bytes(self) -> int:
        """Of its result."""
        return bytes_of(self.type)


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a program, as a device takes part in it.

    Attributes:
      kind: of `KINDS`.
      axes: mesh axes over which its groups go.
      members: the group of the first device, or all pairs of a permutation, one after another:
        places in the mesh.
      volume: bytes of the whole array that is gathered, reduced or sent.
      times: how often it is done in a step.
      what: the place in the model that it is from, and its type.
      share: of all devices, those that send something to another one.
    """

    kind: str
    axes: tuple[str, ...]
    members: tuple[int, ...]
    volume: int
    times: int
    what: str
    share: float = 1.0

    @property
    def sent(self) -> float:
        """Bytes that each device sends in a step, by the best algorithm: a ring's; their mean."""
        return self.share * self.most

    @property
    def most(self) -> float:
        """Of a device that sends."""
        return self.times * self.volume * factor(self.kind, len(self.members))


def factor(kind: str, size: int) -> float:
    """The share of an array that each device of a group sends: V (n - 1) / n, of all-reduce twice.

    V is the array after gathering, or before scattering (Thakur et al., 2005).
    """
    if kind == "collective-permute":
        return 1.0
    return (2 if kind == "all-reduce" else 1) * (size - 1) / size


def bytes_of(type_: str) -> int:
    """Bytes of an HLO type, all parts of a tuple together."""
    return sum(
        math.prod(int(n) for n in dimensions.split(",") if n) * _size(name)
        for name, dimensions in SHAPE.findall(type_)
    )


def collectives(text: str, sizes: Mapping[str, int]) -> list[Collective]:
    """Every collective of a module over more than one device.

    Two things count as TPU and GPU compilers leave them, and the CPU's does not: an all-reduce of
    which each device uses its own part alone is a reduce-scatter, and all-reduces that are only
    added up are one, of their sum.

    Args:
      text: of the module.
      sizes: of the mesh axes, in the order of its devices.
    """
    computations, entry = parsed(text)
    found = []
    for name, times in _visits(computations, entry):
        users = _users(computations[name])
        merged = _added(computations[name], users)
        for instruction in computations[name]:
            if instruction.operation in KINDS and instruction.name not in merged:
                one = _collective(instruction, users, sizes, times)
                found += [one] if one else []
    return found


def parsed(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Instructions of each computation, and the name of the first that runs."""
    computations: dict[str, list[Instruction]] = {}
    here, entry = [], ""
    for line in text.splitlines():
        if begins := COMPUTATION.match(line):
            here = computations.setdefault(begins[1], [])
            entry = begins[1] if line.startswith("ENTRY") else entry
        elif found := INSTRUCTION.match(line):
            here.append(Instruction(*found.groups()))
    return computations, entry


def _visits(computations, name: str, times: int = 1) -> Iterator[tuple[str, int]]:
    """The computations that run from one on, and how often."""
    yield name, times
    for instruction in computations.get(name, ()):
        rounds = times
        if instruction.operation == "while":
            rounds = times * trips(instruction, computations)
        elif instruction.operation not in ("call", "conditional", "async-start"):
            continue
        called = CALLED.findall(instruction.rest)
        if branches := re.search(r"branch_computations=\{(.*?)\}", instruction.rest):
            called += re.findall(r"%?([\w.\-]+)", branches[1])
        for other in called:
            if other in computations:
                yield from _visits(computations, other, rounds)


def trips(loop: Instruction, computations: Mapping[str, Sequence[Instruction]]) -> int:
    """How often a loop goes round: as XLA notes it, or as its condition compares; else once."""
    if noted := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.rest):
        return int(noted[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)[1]
    lines = list(computations.get(condition, ()))
    for line in tuple(lines):
        for other in CALLED.findall(line.rest):
            lines += computations.get(other, ())
    limits = [re.match(r"(\d+)\)", line.rest) for line in lines if line.operation == "constant"]
    return max((int(limit[1]) for limit in limits if limit), default=1)


def _collective(instruction, users, sizes, times) -> Collective | None:
    kind, volume, devices = instruction.operation, instruction.bytes, math.prod(sizes.values())
    if kind == "collective-permute":
        groups = members = crossing(instruction.rest)
    else:
        groups = replica_groups(instruction.rest, devices)
        members = groups[0]
    if not groups.size or groups.shape[1] < 2:
        return None
    if kind == "reduce-scatter":
        volume *= groups.shape[1]
    elif kind == "all-reduce" and _scattered(instruction, users, groups.shape[1]):
        kind = "reduce-scatter"
    place = np.stack(np.unravel_index(groups, tuple(sizes.values())))  # [axes, groups, members]
    varies = (place != place[:, :, :1]).any((1, 2))
    axes = tuple(name for name, moves in zip(sizes, varies) if moves)
    what = re.search(r'op_name="(.*?)"', instruction.rest)
    where = _shorter(what[1]) if what else instruction.name
    named = f"{where} {re.sub(r'{[^}]*}', '', instruction.type)}"
    share = len(groups) / devices if kind == "collective-permute" else 1.0
    return Collective(kind, axes, tuple(members.ravel().tolist()), volume, times, named, share)


def crossing(text: str) -> np.ndarray:  # [pairs, 2]
    """Who sends to whom in a collective-permute; those that only keep their own do not count."""
    pairs = re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", text)[1]
    found = np.array(re.findall(r"(\d+),(\d+)", pairs), int).reshape(-1, 2)
    return found[found[:, 0] != found[:, 1]]


def replica_groups(text: str, devices: int) -> np.ndarray:  # [groups, members]
    """The groups of a collective, in any of the ways in which XLA writes them.

    They are lists, `[4,2]<=[2,4]T(1,0)` (a reshaped and transposed count), or axes of a mesh:
    `mesh['a'=2,'b'=4], device_ids=([..]T(..)) {'a','b':(1)2}`.
    """
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", text):
        return _iota(found[2]).reshape(_numbers(found[1]))
    named = re.search(r"replica_groups=mesh\[(.*?)\](?:, device_ids=\((.*?\)?)\))? \{(.*?)\}", text)
    if named:
        return _mesh_groups(*named.groups())
    listed = re.search(r"replica_groups=\{(\{.*?\})?\}", text)
    if listed and listed[1]:
        return np.array([_numbers(group) for group in re.findall(r"\{([\d,]+)\}", listed[1])])
    return np.arange(devices)[None]


def _mesh_groups(axes: str, order: str | None, chosen: str) -> np.ndarray:
    sizes = {name: int(size) for name, size in re.findall(r"'(.*?)'=(\d+)", axes)}
    shape, moved = [], []
    parts = re.findall(r"'(.*?)'(?::\((\d+)\)(\d+))?", chosen)
    for name, size in sizes.items():
        # An axis may be cut: what comes before a part of it, the part, and what comes after.
        cut = [(int(b), int(n)) for other, b, n in parts if other == name and n]
        before, part = cut[0] if cut else (1, size)
        moved += [len(shape) + 1] if any(other == name for other, *_ in parts) else []
        shape += [before, part, size // before // part]
    places = np.arange(math.prod(shape)) if order is None else _iota(order)
    kept = [axis for axis in range(len(shape)) if axis not in moved]
    members = math.prod(shape[axis] for axis in moved)
    return places.reshape(shape).transpose(*kept, *moved).reshape(-1, members)


def _iota(text: str) -> np.ndarray:
    """`[4,2]T(1,0)`: the numbers from 0 on, so shaped and transposed, in a row."""
    shape, order = re.match(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text).groups()
    numbers = np.arange(math.prod(_numbers(shape))).reshape(_numbers(shape))
    return (numbers.transpose(_numbers(order)) if order else numbers).ravel()


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _scattered(reduced: Instruction, users: Mapping[str, list[Instruction]], size: int) -> bool:
    """Whether every use of an all-reduce is of the part that belongs to the device."""
    ends, waiting = [], [reduced]
    while waiting:
        for user in users.get(waiting.pop().name, ()):
            (waiting if user.operation in CARRIES else ends).append(user)
    part = lambda end: end.operation == "dynamic-slice" and end.bytes * size == reduced.bytes
    return bool(ends) and all(map(part, ends))


def _added(instructions: Sequence[Instruction], users: Mapping[str, list]) -> set[str]:
    """All-reduces whose only use is to be added to another one over the same groups."""
    sums: dict[str, tuple[str, str]] = {}  # of each sum, the groups and one all-reduce in it
    merged: set[str] = set()
    for one in instructions:
        if one.operation == "all-reduce" and not one.type.startswith("("):
            sums[one.name] = re.search(r"replica_groups=(.*?), \w+=", one.rest)[1], one.name
        elif one.operation == "add":
            parts = [sums.get(name) for name in one.operands]
            alone = all(len(users.get(name, ())) == 1 for name in one.operands)
            if None not in parts and alone and len({groups for groups, _ in parts}) == 1:
                merged.add(parts[1][1])
                sums[one.name] = parts[0]
    return merged


def _users(instructions: Sequence[Instruction]) -> dict[str, list[Instruction]]:
    """The instructions that read each one's result."""
    found: dict[str, list[Instruction]] = {}
    for instruction in instructions:
        for name in instruction.operands:
            found.setdefault(name, []).append(instruction)
    return found


def _closing(text: str) -> int:
    """Where the parenthesis that is open at the beginning closes."""
    depth = 1
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return place
    return len(text)


def _size(name: str) -> float:
    """Bytes of an element of a type such as f32 or bf16."""
    if name in SIZES:
        return SIZES[name]
    bits = re.search(r"\d+", name)
    return int(bits[0]) / 8 if bits else 0


def _shorter(name: str) -> str:
    """Where in a model an operation is from, without what every name has."""
    way = "backward " if "transpose(" in name else ""
    again = "again " if "rematted" in name else ""
    parts = [p for p in name.split("/") if not re.search(r"[(<]|^(while|body|closed_call)$", p)]
    return f"{way}{again}{'/'.join(dict.fromkeys(parts[-4:]))}"
