"""What a family says of its Hugging Face counterpart: a table of tensors, and configs to and fro.

The table is data; `lm_research.hub` reads and writes weights by it, in both directions.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

from lm_research.errors import UserError


@dataclasses.dataclass(frozen=True)
class Row:
    """One of our parameters, and the tensor that holds it.

    Attributes:
      ours: the parameter's path, such as `stack/blocks/attention/query/kernel`.
      theirs: the tensor's name as `transformers` writes it, with `{L}` where the layer goes and
        `{E}` where the expert does.
      axes: the tensor's axes in its order, as letters of our parameter. Letters that it flattens
        into one axis stand in parentheses; a plus goes before the axis along which rows of the same
        tensor are joined, in table order. So torch's Linear of queries is `(NH)D`, and GPT-2's
        query, key and value in one are `D+(NH)`, `D+(KH)`, `D+(KH)`, and GPT-NeoX's, head by head,
        `(N+H)D` each. An axis of ours that has no
        letter is `_`, and one of theirs that we lack is `1`.
      tied: the parameter that stands in for this one in models that lack it.
      optional: whether models may lack it, and their files the tensor.
    """

    ours: str
    theirs: str
    axes: str
    tied: str | None = None
    optional: bool = False


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of model as `transformers` has it.

    Several of one model type are one trunk with other parts: a directory's is the largest one whose
    tensors are all there, whatever its config says, and tensors of the others are let be.

    Attributes:
      kind: ours.
      model_type, architecture: theirs.
      rows: every parameter's tensor.
      defaults: what they take where a config lacks a key that we read.
      fixed: their options of which we compute one value only.
      names: what they call our options: those that differ in no more than that, or as `READ` and
        `WRITTEN` say.
      derived: those of them that null leaves to be derived, as `DERIVED` says.
      options: ours that all models of this architecture have.
      recorded: their keys that hold one of our options where we write them, and are not read, or
        not as they are: choices of training, and what older versions of `transformers` ask for.
      section: what else our model section says, given their config completed by `defaults`.
      config: what else their config says, given our section completed by its defaults and by sizes.
      inert: their keys that do not change what a model computes.
      without: our options that this architecture does not have.
      prefix: of tensor names; files of a bare trunk lack it.
      buffers: patterns of tensors in files that are no parameters.
      spellings: parts of tensors' names in older files, and what they are now.
      doubles: tensors that some files hold besides those that they equal.
      present: keys that a config does not have, and that are read as if it had: each says whether
        the files hold a tensor.
      saved: whether models are saved as this architecture, which else is only read.
    """

    kind: str
    model_type: str
    architecture: str
    rows: tuple[Row, ...]
    defaults: Mapping[str, Any]
    fixed: Mapping[str, Any]
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    derived: tuple[str, ...] = ()
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    recorded: Mapping[str, str] = dataclasses.field(default_factory=dict)
    section: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda config: {}
    config: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda section: {}
    inert: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    prefix: str = ""
    buffers: tuple[str, ...] = ()
    spellings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    doubles: Mapping[str, str] = dataclasses.field(default_factory=dict)
    present: Mapping[str, str] = dataclasses.field(default_factory=dict)
    saved: bool = True

    @property
    def task(self) -> str:
        """Which of a trunk's classifiers it has; empty where it is none."""
        return ""

    def makes(self, section: Mapping[str, Any]) -> bool:
        """Whether a model section, completed by its defaults, may be one of this family's."""
        return section["kind"] == self.kind

    def ours(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Our model section, given their config completed by `defaults`."""
        named = with_derived(our_options(config, self.names), self.derived)
        return {"kind": self.kind, **named, **self.section(config), **self.options}

    def theirs(self, section: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
        """Their config's own part.

        Args:
          section: ours, completed by its defaults.
          sizes: of each letter, for what it leaves to be derived.
        """
        section = whole(section, sizes)
        recorded = {theirs: section[ours] for theirs, ours in self.recorded.items()}
        return {**their_options(section, self.names), **recorded, **self.config(section)}

    def written(self, name: str) -> str:
        """What a tensor is called in a file: a trunk without a head is written without prefix."""
        alone = all(row.theirs.startswith(self.prefix) for row in self.rows)
        return name[len(self.prefix) :] if alone else name


# Their names of activations, the one to write first.
ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "relu2": "relu_squared",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
    "quick_gelu": "quick_gelu",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_python": "gelu",
}


def our_activation(theirs: str) -> str:
    """Our name of an activation.

    Raises:
      UserError: it is none of ours.
    """
    if theirs not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise UserError(f"config.json asks for the activation {theirs!r}; it takes {known}")
    return ACTIVATIONS[theirs]


def their_activation(ours: str) -> str:
    """Their name of one of our activations."""
    return next(theirs for theirs, name in ACTIVATIONS.items() if name == ours)


# How options are read and written whose values they spell otherwise, too.
READ = {
    "activation": our_activation,
    "head_activation": our_activation,
    "dropout": float,
    "attention_dropout": float,
    "pair_dropout": float,
}
WRITTEN = {"activation": their_activation, "head_activation": their_activation}
# Options that are the size of a letter, which a section may leave to be derived.
LETTERS = dict(vocab="V", width="D", layers="L", heads="N", kv_heads="K", head="H", hidden="F")
# What an option that is None follows from.
DERIVED = {
    "kv_heads": lambda given: given["heads"],
    "head": lambda given: given["width"] // given["heads"],
    "hidden": lambda given: 4 * given["width"],
    "decoder_layers": lambda given: given["layers"],
    "embedding": lambda given: given["width"],
}


def our_options(config: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A section's options that their config has under other names, where it has them."""
    given = {ours: config[theirs] for ours, theirs in names.items() if theirs in config}
    return {ours: READ[ours](v) if ours in READ else v for ours, v in given.items()}


def their_options(section: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Their options that a section, which is `whole`, has under other names."""
    return {
        theirs: WRITTEN[ours](section[ours]) if ours in WRITTEN else section[ours]
        for ours, theirs in names.items()
    }


def whole(section: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
    """A section completed by its defaults, with the sizes that it leaves to be derived."""
    known = {ours: sizes[letter] for ours, letter in LETTERS.items() if letter in sizes}
    given = {ours: known.get(ours) if v is None else v for ours, v in section.items()}
    return with_derived(given, DERIVED)


def with_derived(options: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Options, and where those of `names` are None, what follows from the others."""
    return {
        ours: DERIVED[ours](options) if value is None and ours in names else value
        for ours, value in options.items()
    }
