"""Models with their weights and tokenizers, from a run or from a Hugging Face directory."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_research import config, log
from lm_research.data import tokenizer as tokenizers
from lm_research.errors import UserError
from lm_research.hub import load as hub
from lm_research.optimizers.averaged import evaluated
from lm_research.train import checkpoint
from lm_research.train.experiment import CONTENTS, experiment
from lm_research.train.step import Trainer

# What an experiment says of a model that it starts from: how to run it, not what it is.
EXECUTION = ("dtype", "dropout", "execution", "remat", "kernel")


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model, ready to be called.

    Attributes:
      model: an unbound Linen module.
      params: plain parameters, laid out on the current mesh.
      tokenizer: None where the directory has none.
      section: the model section of a config that makes `model`.
      step: how long it was trained, where that is known.
    """

    model: nn.Module
    params: Any
    tokenizer: tokenizers.Tokenizer | None
    section: dict[str, Any]
    step: int | None = None


def is_run(path: Path) -> bool:
    """Whether `path` is a run's directory, and not Hugging Face's.

    Raises:
      UserError: it is neither.
    """
    if not (path / "config.json").is_file():
        what = "is not a directory" if not path.is_dir() else "has no config.json"
        raise UserError(f"{path} {what}; give a run's --workdir or a Hugging Face directory")
    return "model_type" not in _json(path / "config.json")


def section(path: Path) -> dict[str, Any]:
    """The model section that describes the weights in a directory."""
    return _json(path / "config.json")["model"] if is_run(path) else hub.section(path)


def open_checkpoint(path: str | Path, **execution: Any) -> Loaded:
    """The model in a run's directory or a Hugging Face directory, on the current mesh.

    Args:
      path: where it is.
      **execution: fields of the model section to replace, such as `dtype`.

    Raises:
      UserError: there is none, or it is damaged or unsupported.
    """
    path = Path(path)
    if not is_run(path):
        described = {**hub.section(path), **execution}
        model = config.build(described, CONTENTS, "model")
        params = hub.load(path, model)
        return Loaded(model, params, tokenizers.find(path), described)
    stored = _json(path / "config.json")
    described = {**stored["model"], **execution}
    if "steps" not in stored:  # weights alone, as `save_run` writes them
        model = config.build(described, CONTENTS, "model")
        params, meta = checkpoint.load_params(path / "checkpoints", abstract_params(model))
        return Loaded(model, params, tokenizers.find(path / "tokenizer"), described, meta["step"])
    x = experiment({**stored, "model": described})
    state, meta = x.checkpoint.open(path / "checkpoints").restore(Trainer.of(x).abstract())
    params = x.weights.join(evaluated(state.trained, state.optimizer), state.held)
    tokenizer = tokenizers.find(path / "tokenizer")
    return Loaded(x.model, params, tokenizer, described, int(meta["step"]))
