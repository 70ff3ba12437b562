"""Where two implementations of a model part: the first layer and tensor whose output differs."""

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm_research import tree
from lm_research.hub.cases import Case
from lm_research.hub.names import Part, Tensor
from lm_research.hub.reference import Reference
from lm_research.layers import Head, Output

NOISE = 1e-6  # of the largest entry: what float32 itself does to a sum of a few hundred
JUMP = 10.0  # a difference so much above all before it begins here


@dataclasses.dataclass(frozen=True)
class Point:
    """One activation of both models.

    Attributes:
      theirs: the torch module that gives it.
      ours: the path of our module, or of those whose results are theirs together.
      layer: which, or None outside of layers; of those that share parameters, their group.
      difference: as a part of the largest entry.
    """

    theirs: str
    ours: str
    layer: int | None
    difference: float

    def __str__(self) -> str:
        place = "" if self.layer is None else f"layer {self.layer}: "
        return f"{place}{self.theirs} (ours: {self.ours}), by {self.difference:.1e}"


def parting(points: list[Point], tolerance: float) -> tuple[Point, Point | None]:
    """The first point where the models part, and the last one before it.

    That is where the difference jumps; else where it first exceeds the tolerance, or is largest.
    """
    differences = [point.difference for point in points]
    before = np.maximum.accumulate([NOISE, *differences])
    jumps = (i for i, found in enumerate(differences) if found > JUMP * before[i])
    over = (i for i, found in enumerate(differences) if found > tolerance)
    i = next(jumps, next(over, int(np.argmax(differences))))
    return points[i], points[i - 1] if i else None


def points(
    reference: Reference,
    model: nn.Module,
    params: Any,
    case: Case,
    layout: Mapping[str, Tensor],
) -> list[Point]:
    """Every activation that both models have, in the reference's order of computing.

    They are found by the family's table: the module that owns a tensor, and ours that owns its
    parameters, give the same; so do whole layers, and what goes into the first of each stack.
    """
    ours = _activations(model, params, case, reference.positions)
    tensors = {  # of several, the first counts: a weight stands before its bias
        owner: tensor for name, tensor in reversed(layout.items()) if (owner := _owner(name))
    }
    layers = {
        match[1]: (parent, tensor.parts[0].index)
        for name, tensor in layout.items()
        if (match := re.match(r"(.*?\.\d+)\.", name)) and (parent := _parent(tensor.parts[0], ours))
    }
    first = [name for name in layers if name.endswith(".0")]
    found, calls = [], {}
    for name, theirs in reference.activations(case, [*tensors, *layers], first):
        call = calls[name] = calls.get(name, -1) + 1
        if name == "logits":
            path, value = name, ours[name]
        elif name.endswith(" input"):
            path = _embedded(layers[name.removesuffix(" input")][0], ours)
            value = ours[path] if path and call == 0 else None  # shared layers are called again
        elif name in layers:
            parent, index = layers[name]
            path = f"{parent}/residual"
            value = _layer(ours[path], parent, (*index, call), ours)
        else:
            path = " + ".join(dict.fromkeys(map(_module, tensors[name].parts)))
            value = _output(tensors[name], ours, call)
        if value is not None and (pair := _aligned(case, value, theirs)):
            number = re.search(r"\.(\d+)(\.|$)", name)
            layer = int(number[1]) if number else None
            found.append(Point(name, path, layer, difference(*pair)))
    return found


def headed(output: Output) -> Output:
    """An output whose logits are a detector's of two classes, or a bare trunk's hidden states."""
    if output.replaced is not None:
        two = jnp.stack([jnp.zeros_like(output.replaced), output.replaced], -1)
        return output.replace(hidden=two, head=Head(jnp.eye(2)))
    if output.head is not None:
        return output
    return output.replace(head=Head(jnp.eye(output.hidden.shape[-1])))


def difference(ours: Any, theirs: Any, floor: float = 0.0) -> float:
    """The largest difference, as a part of the reference's largest entry or of `floor`."""
    ours, theirs = np.asarray(ours, np.float32), np.asarray(theirs, np.float32)
    largest = max(float(np.abs(theirs).max(initial=0.0)), floor)
    found = float(np.abs(ours - theirs).max(initial=0.0))
    if not np.isfinite(found):
        return float("inf")
    return found / largest if largest else found


def _activations(model: nn.Module, params: Any, case: Case, positions: bool) -> dict[str, Any]:
    """Ours by path: what modules with parameters give, and taps; stacked over layers."""
    tokens, keywords = case.given(positions)
    logits, state = _called(model, params, tokens, keywords)
    made = {
        path.removesuffix("/0").removesuffix("/__call__"): value
        for path, value in tree.named_leaves(state.get("intermediates", {})).items()
    }
    return {**made, **tree.named_leaves(state.get("taps", {})), "logits": logits}


@functools.partial(jax.jit, static_argnums=0)
def _called(model: nn.Module, params: Any, tokens: jax.Array, keywords: dict[str, Any]) -> Any:
    owns = lambda module, method: (
        method == "__call__"
        and any(module.has_variable("params", name) for name in ("kernel", "scale", "table"))
    )
    output, state = model.apply(
        {"params": params},
        tokens,
        **keywords,
        capture_intermediates=owns,
        mutable=["intermediates", "taps"],
    )
    return headed(output).logits, state


def _owner(tensor: str) -> str | None:
    """The torch module that owns a tensor and gives what is made with it alone."""
    owner, _, name = tensor.rpartition(".")
    return owner if name in ("weight", "bias") else None


def _module(part: Part) -> str:
    """The path of our module that has a parameter."""
    return part.ours.rpartition("/")[0]


def _parent(part: Part, ours: Mapping[str, Any]) -> str | None:
    """The path of the block that a parameter is in."""
    within = lambda tap: tap.endswith("/residual") and part.ours.startswith(tap[: -len("residual")])
    tap = next(filter(within, ours), None)
    return tap and tap.removesuffix("/residual")


def _embedded(parent: str, ours: Mapping[str, Any]) -> str | None:
    """The path of what goes into the stack that a block is in."""
    within = lambda tap: tap.endswith("embedded") and parent.startswith(tap[: -len("embedded")])
    return next(filter(within, ours), None)


def _layer(
    value: Any, parent: str | None, index: tuple[int, ...], ours: Mapping[str, Any]
) -> np.ndarray:
    """One layer's of what is stacked over layers, and over calls where they share parameters."""
    stacked = ours[f"{parent}/residual"].ndim - 3 if parent else 0  # axes before [B, T, D]
    return np.asarray(value)[index[:stacked]]


def _output(tensor: Tensor, ours: Mapping[str, Any], call: int) -> np.ndarray | None:
    """What their module gives, made of the outputs of ours that hold its parameters."""
    pieces = []
    for part in tensor.parts:
        value = ours.get(_module(part))
        if value is None:
            return None
        value = _layer(value, _parent(part, ours), (*part.index, call), ours)
        # What a product keeps, behind B and T, are its kernel's last axes.
        kept = max(0, len(part.shape) + 2 - value.ndim)
        if value.ndim < 3 or value.shape[kept - len(part.shape) :] != part.shape[kept:]:
            return None
        letters = part.letters[kept:]
        groups = ("T", *(group for group in part.groups if set(group) <= set(letters)))
        flat = value.reshape(-1, *part.shape[kept:])  # tokens; and heads, where a norm is of each
        as_tensor = dataclasses.replace(
            part, letters=f"T{letters}", shape=flat.shape, groups=groups
        )
        pieces.append(as_tensor.theirs(flat))
    # Joined where the tensor is: behind one another, or head by head.
    axis = 1 if part.axis is None else groups.index(part.groups[part.axis])
    return np.concatenate(pieces, axis).reshape(*value.shape[:2], -1)


def _aligned(case: Case, ours: Any, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Both at the tokens that are no padding; None where they are not of one kind."""
    ours, rows = np.asarray(ours), case.tokens.shape
    if theirs.shape[:2] == rows[::-1] and rows[0] != rows[1]:
        theirs = np.swapaxes(theirs, 0, 1)
    if theirs.shape[:2] == rows:
        present = case.present == 1
    elif case.source is not None and theirs.shape[:2] == case.source.shape:
        present = case.source_present == 1
    else:
        return None
    theirs = theirs[present]
    if case.packed and ours.shape[:2] == (1, len(theirs)):
        ours = ours[0]
    elif ours.shape[:2] == present.shape:
        ours = ours[present]
    else:
        return None
    if ours.size != theirs.size:
        return None
    return ours.reshape(len(ours), -1), theirs.reshape(len(theirs), -1)
