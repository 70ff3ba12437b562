"""`Experiment`: a config resolved into the objects that a run is made of."""

import dataclasses
import hashlib
import math
import re
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn

from lm_research import config, data, evals, layers, mesh, models, objectives, optimizers, weights
from lm_research.errors import UserError
from lm_research.infer.sample import Sampler
from lm_research.mesh import Mesh
from lm_research.train import ordered
from lm_research.train.checkpoint import Checkpoint
from lm_research.train.divergence import Divergence


@dataclasses.dataclass(frozen=True)
class Batch:
    """How many examples a step sees, and how.

    Attributes:
      size: B, over all devices and processes.
      microbatches: pieces whose gradients are added up; the result is the same, the memory less.
      steps_per_dispatch: steps that the device makes per call from the host; the result is the
        same.
      epochs: how often the data is gone through, in place of `steps`.
      shards: parts whose gradients are added up in order, where `reductions` is `ordered`.
    """

    size: int
    microbatches: int = 1
    steps_per_dispatch: int = 1
    epochs: float | None = None
    shards: int = 8

    def __post_init__(self):
        config.at_least(self, "batch", 1, "size", "microbatches", "steps_per_dispatch", "shards")
        if self.epochs is not None and self.epochs <= 0:
            raise UserError(f"batch.epochs is {self.epochs}; it takes a number above 0")


@dataclasses.dataclass(frozen=True)
class Samples:
    """Texts that a run writes as it goes.

    Attributes:
      every: steps between them; 0 writes none.
      prompts: what to continue; an empty one starts a text.
      length: new tokens.
      temperature, top_p: how to draw them.
    """

    every: int = 0
    prompts: tuple[str, ...] = ("",)
    length: int = 100
    temperature: float = 0.8
    top_p: float | None = 0.95

    def __post_init__(self):
        config.at_least(self, "log.samples", 0, "every")
        config.at_least(self, "log.samples", 1, "length")
        if not self.prompts:
            raise UserError("log.samples.prompts is empty; it takes texts, and '' begins a new one")
        Sampler(self.temperature, top_p=self.top_p)  # refuses what it cannot draw with


@dataclasses.dataclass(frozen=True)
class Logging:
    """What a run says of itself.

    Attributes:
      every: steps between rows of metrics.
      tensorboard: whether rows go there, too.
      samples: texts that it writes.
      watchdog: seconds in one place after which the run says where it waits; 0 never does.
      profile: `START:STEPS`, the first step of a trace and how many it is of.
    """

    every: int = 10
    tensorboard: bool = True
    samples: Samples = Samples()
    watchdog: float = 120.0
    profile: str | None = None

    def __post_init__(self):
        config.at_least(self, "log", 1, "every")
        config.at_least(self, "log", 0, "watchdog")
        if self.profile is not None and not re.fullmatch(r"0*[1-9]\d*:0*[1-9]\d*", self.profile):
            raise UserError(
                f"log.profile is {self.profile!r}; it takes START:STEPS, such as 100:5: the first "
                "step to trace and how many, both from 1 on"
            )

    @property
    def traced(self) -> tuple[int, int] | None:
        """The first and the last step of the trace."""
        if self.profile is None:
            return None
        first, count = map(int, self.profile.split(":"))
        return first, first + count - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that determines a run.

    A config gives every field but `reductions` and `divergence`; code that only makes steps gives
    what differs from the defaults.

    Attributes:
      model: an unbound Linen module.
      objective: makes examples and scores batches.
      data: prepares text for training.
      weights: what is trained.
      optimizer: how.
      evals: evaluators by name.
      mesh: how devices share the work.
      seed: of initial weights, data order and dropout.
      steps: updates in all.
      batch: examples per step.
      init: a run or a Hugging Face directory to start from.
      resume: whether a run with another config may be continued.
      checkpoint: when to save and what to keep.
      log: what to write.
      divergence: what to do when a loss is not finite, or leaps.
      reductions: `fast`, or `ordered`: the same bits whatever the number of devices that share the
        batch out, for copies of the gradient.
    """

    model: nn.Module
    objective: Any
    data: Any = None
    weights: Any = dataclasses.field(default_factory=weights.Full)
    optimizer: Any
    evals: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    seed: int = 0
    steps: int
    batch: Batch
    init: str | None = None
    resume: Literal["same", "changed"] = "same"
    checkpoint: Checkpoint = dataclasses.field(default_factory=Checkpoint)
    log: Logging = Logging()
    divergence: Divergence = dataclasses.field(default_factory=Divergence)
    reductions: Literal["fast", "ordered"] = "fast"

    def __post_init__(self):
        config.at_least(self, "", 0, "seed", "steps")
        if self.seed >= 2**32:
            raise UserError(f"seed is {self.seed}; it takes a number under {2**32}")
        config.at_least(self.objective, "objective", 1, "length")
        for name, evaluator in self.evals.items():
            config.at_least(evaluator, f"evals.{name}", 1, "every")
        if (best := self.checkpoint.best) and best.partition("/")[0] not in self.evals:
            raise UserError(
                f"checkpoint.best is {best!r}; it takes one of the evaluators, "
                f"{', '.join(self.evals) or 'of which there are none'}, a slash and a metric"
            )
        if self.log.traced is not None and self.log.traced[0] > self.steps:
            raise UserError(
                f"log.profile begins at step {self.log.traced[0]}, and the run has {self.steps} "
                "steps"
            )
        if self.checkpoint.keep < self.regular:
            raise UserError(
                f"divergence.back is {self.divergence.back}, and of the checkpoints of every "
                f"{self.checkpoint.every} steps only {self.checkpoint.keep} are kept; "
                f"checkpoint.keep takes {self.regular} or more"
            )
        if reason := self.objective.refusal(self.model):
            kind = type(self.objective).__name__
            raise UserError(f"objective {kind} cannot train this model: {reason}")
        if reason := getattr(self.objective, "indivisible", ""):
            if self.batch.microbatches > 1:
                raise UserError(
                    f"batch.microbatches is {self.batch.microbatches}, and {reason}; it takes 1"
                )
            if self.reductions == "ordered":
                raise UserError(f"reductions is 'ordered', and {reason}; it takes 'fast'")
        pieces = {"microbatches": self.batch.microbatches}
        if self.reductions == "ordered":
            pieces["shards"] = self.batch.shards
        if self.batch.size % math.prod(pieces.values()):
            told = " times ".join(f"batch.{name} {count}" for name, count in pieces.items())
            raise UserError(f"batch.size {self.batch.size} is not a multiple of {told}")
        context = getattr(self.model, "context", None)
        if context is not None and self.objective.length > context:
            raise UserError(
                f"objective.length {self.objective.length} is more than the {context} positions "
                "that the model has (model.context)"
            )

    @property
    def regular(self) -> int:
        """How many of the regular saves it takes to go back to one of them; 0 if none is."""
        every = self.checkpoint.every
        goes_back = every and self.divergence.policy == "back"
        return -(-self.divergence.back // every) + 1 if goes_back else 0

    def check_mesh(self) -> None:
        """Refuses a batch that the current mesh does not divide.

        Raises:
          UserError: says which sizes would be accepted.
        """
        rows = self.batch.size // self.batch.microbatches
        mesh.check_batch(rows, "batch.size / batch.microbatches")
        mesh.check_length(self.objective.length)
        if self.reductions == "ordered":
            ordered.check(self.batch.shards)

    def bound(self, tokenizer: Any) -> "Experiment":
        """With the special tokens that the objective needs.

        Raises:
          UserError: the tokenizer lacks one.
        """
        return dataclasses.replace(self, objective=self.objective.bound(tokenizer))


# Sections of one kind need not name it.
KINDS = {
    "mesh": "Mesh",
    "batch": "Batch",
    "checkpoint": "Checkpoint",
    "log": "Logging",
    "divergence": "Divergence",
}

# What the kinds of these sections come from.
PACKAGES = {
    "model": models,
    "objective": objectives,
    "data": data,
    "weights": weights,
    "optimizer": optimizers,
}

# Fields of a model that are ids of tokens.
TOKENS = ("start", "first")

SCALARS = ("seed", "steps", "init", "resume", "reductions")

# What may change when a run is continued: none of it changes what is computed.
FREE = ("resume", "log", "checkpoint", "evals", "mesh", "batch.steps_per_dispatch")

CONTENTS = {
    name: getattr(package, name)
    for package in (layers, data, models, objectives, optimizers, weights, evals)
    for name in package.__all__
    if name[0].isupper()
} | {thing.__name__: thing for thing in (Mesh, Batch, Samples, Logging, Checkpoint, Divergence)}


def completed(given: Mapping[str, Any]) -> dict[str, Any]:
    """A plain config with every top-level key present and every section naming its kind.

    Raises:
      UserError: a key is unknown or missing.
    """
    given = config.plain(given)
    for name in given:
        config.known(name, config.TOP, "config section")
    optional = ("init", "resume", "steps", *config.OPTIONAL)
    missing = [name for name in config.TOP if name not in given and name not in optional]
    if missing:
        raise UserError(f"the config lacks {', '.join(missing)}")
    result = {"init": None, "resume": "same", **_with_optional(given)}
    for name in config.TOP:
        if name not in SCALARS and not isinstance(result[name], Mapping):
            raise UserError(f"{name} is {result[name]!r}; it takes a section: a mapping of fields")
    for name, package in PACKAGES.items():
        if "kind" not in result[name]:
            raise UserError(f"{name} lacks kind; it takes one of {', '.join(package.__all__)}")
        config.known(result[name]["kind"], package.__all__, f"kind of {name} (at {name}.kind)")
    counted = result["model"] | dict(result["model"].get("trunk") or {})
    for name, value in counted.items():
        least = 0 if name in TOKENS else 1  # the others all count something
        if type(value) is int and value < least:
            raise UserError(f"model.{name} is {value}; it takes a number from {least} on")
    if not isinstance(samples := result["log"].get("samples", {}), Mapping):
        raise UserError(f"log.samples is {samples!r}; it takes a section: a mapping of fields")
    if "samples" in result["log"]:
        result["log"]["samples"] = {"kind": "Samples", **result["log"]["samples"]}
    result = drop_unset(result)
    if (result.get("steps") is None) == ("epochs" not in result["batch"]):
        which = "both" if "epochs" in result["batch"] else "neither"
        short = "; for a short run give a part of an epoch" if which == "both" else ""
        raise UserError(
            f"the config has {which} of steps and batch.epochs; it takes one of them{short}"
        )
    return result


def drop_unset(section: Any) -> Any:
    """A section without its unset placeholders, whose defaults are none, too.

    None stays where it replaces another default: `optimizer.clip=None` does not clip.
    """
    if not isinstance(section, dict) or "kind" not in section:
        return (
            {k: drop_unset(v) for k, v in section.items()} if isinstance(section, dict) else section
        )
    parameters = accepted(section)
    replaces = lambda name: name in parameters and parameters[name][0] not in (None, config.EMPTY)
    return {k: drop_unset(v) for k, v in section.items() if v is not None or replaces(k)}


def accepted(section: Mapping[str, Any], name: str = "") -> dict[str, tuple[Any, Any]]:
    """Default and type of what the section `name` may state; nothing where no kind is known."""
    kind = section.get("kind", KINDS.get(name))
    make = CONTENTS.get(kind) if isinstance(kind, str) else None
    return {} if make is None else config.accepted(make)


def part(given: Mapping[str, Any], name: str) -> Any:
    """The object that section `name` of a completed config names."""
    return config.build(given[name], CONTENTS, name)


def experiment(given: Mapping[str, Any]) -> Experiment:
    """A completed config, vocabulary included, as objects.

    Raises:
      UserError: anything that the config cannot mean.
    """
    hints = {field.name: field.type for field in dataclasses.fields(Experiment)}
    given = _with_optional(given)
    built = {name: part(given, name) for name in config.TOP}
    for name in SCALARS:
        config.checked(built[name], hints[name], name)
    return Experiment(**built)


def identity(given: Mapping[str, Any]) -> str:
    """A hash of what in a resolved config makes it another run, where it differs."""
    lines = [line for line in config.differences({}, given) if not line.startswith(FREE)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Lines for what differs between two resolved configs and makes them different runs."""
    lines = config.differences(*(_with_defaults(_with_optional(given)) for given in (old, new)))
    return [line for line in lines if not line.split(":")[0].startswith(FREE)]


def _with_defaults(value: Any) -> Any:
    """A config with the default of each field that a section leaves out: one written out, or one
    that is newer than a stored config, is no difference."""
    if isinstance(value, list | tuple):
        return [_with_defaults(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    defaults = {name: default for name, (default, _) in accepted(value).items()}
    plain = {k: v for k, v in defaults.items() if isinstance(v, bool | int | float | str | None)}
    return plain | {name: _with_defaults(item) for name, item in value.items()}


def _with_optional(given: Mapping[str, Any]) -> dict[str, Any]:
    """A config with what it need not declare, such as one that was stored before there was that,
    and the kinds of sections of one kind."""
    result = {**config.OPTIONAL, **given}
    for name, kind in KINDS.items():
        if isinstance(found := result.get(name), Mapping):
            result[name] = {"kind": kind, **found}
    return result
