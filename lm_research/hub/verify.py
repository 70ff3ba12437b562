"""`verify`: a Hugging Face directory's model here and in `transformers`, on the same inputs."""

import dataclasses
import functools
import gc
import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from lm_research import log, tree
from lm_research.data import tokenizer as tokenizers
from lm_research.errors import UserError
from lm_research.hub import load, names, trace
from lm_research.hub.cases import Case, cases, until
from lm_research.hub.reference import Reference
from lm_research.hub.trace import difference
from lm_research.objectives.token_loss import token_loss

Array = jax.Array

# A gradient that is all but zero, as that of a key's bias, is mostly rounding: it is compared as a
# part of at least so much of the largest of any tensor.
FLOOR = 0.03

# Roundings of the reference that are looked at where a difference is beyond the tolerance: of its
# weights as they are, and of weights moved by a unit in the last place.
ROUNDINGS = 8


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much is computed.

    Attributes:
      tolerance: of each difference, as a part of the largest entry.
      batch, length: B and T of the cases.
      gradient: whether gradients are compared, too; they take as much memory as the weights.
    """

    tolerance: float = 1e-4
    batch: int = 3
    length: int = 64
    gradient: bool = True

    def __post_init__(self):
        for name, least in (("batch", 1), ("length", 2)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}; it takes {least} or more")


@dataclasses.dataclass(frozen=True)
class Row:
    """What one case showed: differences as parts of the largest entry.

    Attributes:
      case: its name.
      shape: B and T.
      logits, loss: their differences.
      gradient: the largest of any tensor; None where gradients were not compared.
      tensor: whose that is.
      nearest: of those beyond the tolerance, the tensor nearest to the loss.
      exact: how far ours are from the reference in float64, where that was asked: of logits, loss
        and gradient.
      rounding: how far the reference in float32 is from that at most, over `ROUNDINGS`.
    """

    case: str
    shape: tuple[int, int]
    logits: float
    loss: float
    gradient: float | None = None
    tensor: str = ""
    nearest: str = ""
    exact: tuple[float, float, float] | None = None
    rounding: tuple[float, float, float] | None = None

    @property
    def differences(self) -> tuple[float, float, float]:
        """Of logits, loss and gradient."""
        return self.logits, self.loss, self.gradient or 0.0

    @property
    def largest(self) -> float:
        """Of all its differences."""
        return max(self.differences)

    def within(self, tolerance: float) -> bool:
        """Whether they are the tolerance or less, or what float32 makes of the reference, too.

        Then ours is as near to the reference in float64 as its own roundings are, up to a factor of
        two, or within the tolerance.
        """
        if self.exact is None or self.rounding is None:
            return self.largest <= tolerance
        each = zip(self.differences, self.exact, self.rounding)
        return all(
            apart <= tolerance or ours <= max(tolerance, 2 * theirs) for apart, ours, theirs in each
        )


@dataclasses.dataclass(frozen=True)
class Report:
    """What a comparison found.

    Attributes:
      architecture: theirs.
      versions: of what was compared.
      rows: one for each case.
      tensors: how many have a gradient that was compared.
      tolerance: that each difference had to keep to.
      parted: where they part, in a line; "" where they don't.
    """

    architecture: str
    versions: Mapping[str, str]
    rows: tuple[Row, ...]
    tensors: int
    tolerance: float
    parted: str = ""

    @property
    def largest(self) -> float:
        """Of all differences."""
        return max(row.largest for row in self.rows)

    def __str__(self) -> str:
        width = max(len(row.case) for row in self.rows)
        lines = [f"{'':{width}}    tokens    logits      loss  gradient"]
        for row in self.rows:
            shape = "{} x {}".format(*row.shape)
            gradient = "" if row.gradient is None else f"   {row.gradient:.1e}   {row.tensor}"
            line = f"{row.case:{width}}  {shape:>8}   {row.logits:.1e}   {row.loss:.1e}{gradient}"
            rounded = (
                ""
                if row.exact is None
                else "   (from float64: {}, theirs {})".format(
                    *(f"{max(each):.1e}" for each in (row.exact, row.rounding))
                )
            )
            lines.append(line.rstrip() + rounded)
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        against = f"{self.architecture} in float32 beside {versions}"
        if self.parted:
            return "\n".join([*lines, f"{against}:", self.parted])
        beyond = any(row.largest > self.tolerance for row in self.rows)
        least = ", or as near to float64 as theirs" if beyond else ""
        return "\n".join([*lines, f"{against}: equal within {self.tolerance:g}{least}"])


def verify(
    directory: str | Path,
    model: nn.Module,
    params: Callable[[], Any],
    limits: Limits = Limits(),
) -> Report:
    """Compares a model with what `transformers` makes of a directory; one is in memory at a time.

    Where a difference is beyond the tolerance, both are compared with the reference in float64: it
    is no fault of ours where ours is as near to that as theirs. How near theirs is, a single
    rounding tells badly, which may be a lucky one; so theirs is asked again with weights that
    differ in their last places, of which float32 says no more.

    Args:
      directory: Hugging Face's, of the same weights.
      model: ours, in float32.
      params: reads its parameters onto the current mesh.
      limits: how much is computed, and how close it has to be.

    Raises:
      UserError: PyTorch or `transformers` is not installed, or does not load the directory.
    """
    directory = Path(directory)
    family = load.family(directory)
    architecture = family.architecture
    reference = Reference(directory, architecture)
    inputs = _cases(directory, model, reference, limits)
    given = names.parameters(names.abstract(model))
    layout = {family.written(name): tensor for name, tensor in names.layout(family, given).items()}
    with tempfile.TemporaryDirectory() as scratch:
        for i, case in enumerate(inputs):
            save_file(reference.measured(case, limits.gradient), f"{scratch}/{i}.safetensors")
        positions, order = reference.positions, reference.order(inputs[0])
        versions = {**reference.versions, "jax": jax.__version__}
        del reference
        gc.collect()
        ours = params()
        rows = []
        measured = lambda case: _measured(
            model, limits.gradient, case.pairs, ours, *case.given(positions), *_goal(case)
        )
        for i, case in enumerate(inputs):
            found = measured(case)
            with safe_open(f"{scratch}/{i}.safetensors", framework="numpy") as file:
                told, theirs = set(file.keys()), file.get_tensor
                rows.append(_row(case, found, told, theirs, layout, order, limits.tolerance))
    report = Report(
        architecture,
        versions,
        tuple(rows),
        sum(_has_gradient(tensor) for tensor in layout.values()) if limits.gradient else 0,
        limits.tolerance,
    )
    if all(row.within(limits.tolerance) for row in rows):
        return report
    reference = Reference(directory, architecture)
    rows = [
        row
        if row.within(limits.tolerance)
        else _beside_float64(row, case, measured(case), reference, layout, limits)
        for row, case in zip(rows, inputs)
    ]
    report = dataclasses.replace(report, rows=tuple(rows))
    at = next((i for i, row in enumerate(rows) if not row.within(limits.tolerance)), None)
    if at is None:
        return report
    points = trace.points(reference, model, ours, inputs[at], layout)
    return dataclasses.replace(report, parted=_told(rows[at], points, limits.tolerance))


def _cases(directory: Path, model: nn.Module, reference: Reference, limits: Limits) -> list[Case]:
    tokenizer = tokenizers.find(directory)
    if tokenizer is not None and tokenizer.vocab > model.vocab:
        raise UserError(
            f"{directory} has a tokenizer of {tokenizer.vocab} tokens and a model of "
            f"{model.vocab}; give the tokenizer that belongs to it"
        )
    context = getattr(model, "context", None) or reference.context
    found = cases(
        model,
        batch=1 if reference.one_row else limits.batch,
        length=limits.length,
        context=context,
        special=load.special(directory, model.vocab),
        tokenizer=tokenizer,
    )
    if not reference.pads_left:
        why = "transformers' own model does not say the same with it"
        log.fallback("a comparison with padding before a text", "none", why)
        found = [case for case in found if case.name != "padding left"]
    if not reference.positions:  # it can't be told to begin at the end
        found = [until(case, context) if case.last else case for case in found]
    return found


def _goal(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Targets and weights as our model reads the case."""
    if not case.packed:
        return case.targets, case.weights
    return case.flat(case.targets)[None], case.flat(case.weights)[None]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _measured(
    model: nn.Module,
    gradient: bool,
    pairs: bool,
    params: Any,
    tokens: Array,
    keywords: dict[str, Any],
    targets: Array,
    weights: Array,
) -> tuple[Array, Array, Any]:
    """Logits, mean loss and gradients, by the loss that training takes."""

    def mean(params):
        output = model.apply({"params": params}, tokens, **keywords)
        output = trace.headed(output)
        goal = targets % output.head.kernel.shape[0]
        loss = token_loss(output, goal, weights)["loss"].value()
        pair = output.pooled if output.pair is None else output.pair
        if pair is not None and pairs:
            loss = loss - jax.nn.log_softmax(pair)[:, 0].mean()
        return loss, output.logits

    if not gradient:
        loss, logits = mean(params)
        return logits, loss, None
    (loss, logits), gradients = jax.value_and_grad(mean, has_aux=True)(params)
    return logits, loss, gradients


def _row(
    case: Case,
    found: tuple[Array, Array, Any],
    told: Collection[str],
    theirs: Callable[[str], np.ndarray],
    layout: Mapping[str, names.Tensor],
    order: Mapping[str, int],
    tolerance: float,
) -> Row:
    logits, loss, gradients = found
    apart = difference(case.flat(logits), theirs("logits"))
    row = Row(case.name, case.tokens.shape, apart, difference(loss, theirs("loss")))
    if gradients is None:
        return row
    leaves = tree.named_leaves(jax.device_get(gradients))
    read = lambda path, index: leaves[path][index]
    # A tensor that is no parameter of theirs has no gradient there.
    held = [name for name, t in layout.items() if _has_gradient(t) and f"gradient {name}" in told]
    expected = lambda name: theirs(f"gradient {name}")
    floor = FLOOR * max(float(np.abs(expected(name)).max()) for name in held)
    each = {name: difference(layout[name].made(read), expected(name), floor) for name in held}
    worst = max(each, key=each.get)
    apart = [name for name in held if not each[name] <= tolerance]
    nearest = max(apart, key=lambda name: order.get(name, -1), default="")
    return dataclasses.replace(row, gradient=each[worst], tensor=worst, nearest=nearest)


def _beside_float64(
    row: Row,
    case: Case,
    found: tuple[Array, Array, Any],
    reference: Reference,
    layout: Mapping[str, names.Tensor],
    limits: Limits,
) -> Row:
    """A row with how far ours and theirs are from theirs in float64, where that is finite."""
    with reference.in_float64():
        exact = reference.measured(case, limits.gradient)
    theirs = [reference.measured(case, limits.gradient)]
    for seed in range(1, ROUNDINGS):
        with reference.nudged(seed):
            theirs.append(reference.measured(case, limits.gradient))
    grads = [name for name in exact if name.startswith("gradient ")]
    floor = FLOOR * max((float(np.abs(exact[name]).max()) for name in grads), default=0.0)

    def apart(made: Mapping[str, np.ndarray]) -> tuple[float, float, float]:
        logits, loss = (difference(made[name], exact[name]) for name in ("logits", "loss"))
        gradient = max((difference(made[n], exact[n], floor) for n in grads), default=0.0)
        return logits, loss, gradient

    ours = _row(case, found, exact, exact.__getitem__, layout, {}, limits.tolerance)
    rounding = tuple(max(each) for each in zip(*map(apart, theirs)))
    if not np.isfinite(rounding).all():
        return row
    return dataclasses.replace(row, exact=ours.differences, rounding=rounding)


def _has_gradient(tensor: names.Tensor) -> bool:
    """Whether our model has all of it."""
    return all(part.stored for part in tensor.parts)


def _told(row: Row, points: list[trace.Point], tolerance: float) -> str:
    """Where models part, in a line."""
    point, before = trace.parting(points, tolerance)
    if row.logits <= tolerance and row.loss <= tolerance:
        return (
            f"parts first in '{row.case}', in gradients alone, next to the loss in that of "
            f"{row.nearest}; the largest difference is {row.gradient:.1e}"
        )
    after = "" if before is None else f"; what comes before agrees, last {before.theirs}"
    return f"parts first in '{row.case}', in {point}{after}"
