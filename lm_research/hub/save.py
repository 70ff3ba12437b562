"""Writing a model as a Hugging Face directory that `transformers` loads."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lm_research import config, layers, models, tree
from lm_research.errors import UserError
from lm_research.hub import names, safetensors
from lm_research.hub.load import BEGINS, CONTEXT, GENERATION

CONTENTS = {
    name: getattr(package, name) for package in (layers, models) for name in package.__all__
}

SPECIAL = ("bos", "eos", "pad")


def save(
    directory: str | Path,
    section: Mapping[str, Any],
    params: Any,
    tokenizer: Any = None,
    *,
    eos: Sequence[int] = (),
    context: int | None = None,
) -> int:
    """Writes config.json, float32 weights and the tokenizer; returns how many tensors there are.

    The directory appears when it is complete. A bias that the model lacks is written as zeros,
    where the architecture has one.

    Args:
      directory: a new one, or an empty one.
      section: the model section that makes the model.
      params: its plain parameters, on this process's devices.
      tokenizer: a `Tokenizer`, which has ids `bos`, `eos` and `pad`; None writes none.
      eos: tokens that end a text; by default the tokenizer's.
      context: tokens that the model was made to read at once, where its own positions do not say.

    Raises:
      UserError: no architecture computes what the model does, or the directory is in use.
    """
    model = config.build(section, CONTENTS, "model")
    given = names.parameters(names.abstract(model))
    section = completed(section)
    family = names.fitting(section, given)
    layout = {family.written(name): t for name, t in names.layout(family, given).items()}
    leaves = tree.named_leaves(tree.unboxed(params))
    _check(leaves, given)

    def make(name: str) -> np.ndarray:
        return layout[name].made(lambda path, index: np.asarray(leaves[path][index]))

    with safetensors.appearing(Path(directory)) as temporary:
        described = described_as(family, section, names.sizes(given))
        if CONTEXT in family.defaults and context is not None:
            described.setdefault(CONTEXT, context)
        # Null keeps `transformers` from assuming ids of its own, which may be other tokens here.
        for name in SPECIAL:
            described.setdefault(f"{name}_token_id", getattr(tokenizer, name, None))
        if eos:
            described["eos_token_id"] = eos[0] if len(eos) == 1 else list(eos)
        safetensors.dump(described, temporary / "config.json")
        if begins := {key: described[key] for key in BEGINS if described.get(key) is not None}:
            own = {f"{name}_token_id": described[f"{name}_token_id"] for name in SPECIAL}
            safetensors.dump({**begins, **own}, temporary / GENERATION)
        safetensors.write(temporary, {name: t.shape for name, t in layout.items()}, make)
        if tokenizer is not None:
            tokenizer.save(temporary, **_read_with(section, tokenizer))
    return len(layout)


def _read_with(section: Mapping[str, Any], tokenizer: Any) -> dict[str, Any]:
    """What `transformers` has to be told for its tokenizer to give a model types of tokens."""
    types = section.get("trunk", section).get("types") or 0
    if not 0 < max(tokenizer.added_to_pairs.texts) < types:
        return {}
    return {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}


def completed(section: Mapping[str, Any]) -> dict[str, Any]:
    """A model section with its defaults, and those of its trunk."""
    parameters = inspect.signature(CONTENTS[section["kind"]]).parameters.items()
    given = {name: parameter.default for name, parameter in parameters} | dict(section)
    return given | ({"trunk": completed(given["trunk"])} if "trunk" in given else {})


def described_as(
    family: names.Family, section: Mapping[str, Any], sizes: Mapping[str, int]
) -> dict[str, Any]:
    """What config.json says of a model, given its completed section, but for its tokens."""
    return {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        **family.theirs(section, sizes),
        **family.fixed,
        "dtype": "float32",
    }


def _check(leaves: Mapping[str, Any], given: Mapping[str, names.Parameter]) -> None:
    wrong = [
        path
        for path in sorted(leaves.keys() | given.keys())
        if path not in leaves or path not in given or leaves[path].shape != given[path].shape
    ]
    if wrong:
        raise UserError(
            f"the parameters are not those of the model section: {safetensors.listed(wrong)}"
        )
    apart = [leaf for leaf in leaves.values() if isinstance(leaf, jax.Array)]
    if not all(leaf.is_fully_addressable for leaf in apart):
        raise UserError("the parameters are spread over processes; save them from one process")
