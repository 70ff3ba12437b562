"""What a family says of its Hugging Face counterpart: a table of tensors, and configs to and fro.

The table is data; `lm_research.hub` reads and writes weights by it, in both directions.
"""

import dataclasses
from collections.abc import Callable, Mapping
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
      kind: ours; None where it is read and never written.
      model_type, architecture: theirs.
      rows: every parameter's tensor.
      section: our model section, given their config completed by `defaults`.
      config: their config's own part, given our section completed by its defaults, and the size
        of each letter.
      defaults: what they take where a config lacks a key that `section` reads.
      fixed: their options of which we compute one value only.
      inert: their keys that do not change what a model computes.
      without: our options that this architecture does not have.
      prefix: of tensor names; files of a bare trunk lack it.
      buffers: patterns of tensors in files that are no parameters.
      spellings: parts of tensors' names in older files, and what they are now.
      doubles: tensors that some files hold besides those that they equal.
      present: keys that a config does not have, and that `section` is given: each says whether the
        files hold a tensor.
    """

    kind: str | None
    model_type: str
    architecture: str
    rows: tuple[Row, ...]
    section: Callable[[Mapping[str, Any]], dict[str, Any]]
    config: Callable[[Mapping[str, Any], Mapping[str, int]], dict[str, Any]]
    defaults: Mapping[str, Any]
    fixed: Mapping[str, Any]
    inert: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    prefix: str = ""
    buffers: tuple[str, ...] = ()
    spellings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    doubles: Mapping[str, str] = dataclasses.field(default_factory=dict)
    present: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def written(self, name: str) -> str:
        """What a tensor is called in a file: a trunk without a head is written without prefix."""
        alone = all(row.theirs.startswith(self.prefix) for row in self.rows)
        return name[len(self.prefix) :] if alone else name


# What most decoders' configs call our options.
DECODER = {
    "vocab": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head": "head_dim",
    "hidden": "intermediate_size",
    "tied": "tie_word_embeddings",
    "epsilon": "rms_norm_eps",
}
# Options that are the size of a letter, which a section may leave to be derived.
LETTERS = dict(vocab="V", width="D", layers="L", heads="N", kv_heads="K", head="H", hidden="F")


def our_options(config: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A section's options that their config has under other names, where it has them."""
    return {ours: config[theirs] for ours, theirs in names.items() if theirs in config}


def their_options(
    section: Mapping[str, Any], sizes: Mapping[str, int], names: Mapping[str, str]
) -> dict[str, Any]:
    """Their options that a section, completed by its defaults, has under other names."""
    return {
        theirs: sizes[LETTERS[ours]] if ours in LETTERS else section[ours]
        for ours, theirs in names.items()
    }


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
