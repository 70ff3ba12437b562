"""An experiment whose data nobody reads: what a plan is made of."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from lm_research import mesh
from lm_research.data import imagined
from lm_research.errors import UserError
from lm_research.hub import adapter
from lm_research.train.duration import PROVISIONAL, timed
from lm_research.train.experiment import Experiment, completed, experiment, part
from lm_research.train.loop import begin_adapted, begin_from, with_told
from lm_research.train.restore import vocab

NO_RECORDS = {"kind": "Memory", "records": ()}


def resolved(given: Mapping[str, Any], vocab: int | None) -> dict[str, Any]:
    """A config with all that a plan needs, and sources without records in the place of its data.

    Args:
      given: the config.
      vocab: V; None where the config says it.

    Raises:
      UserError: the config cannot be used, or V is not known.
    """
    found = completed(given)
    found["data"] = _without_sources(found["data"])
    if found["init"]:
        begin_from(found, None)
    begins = begin_adapted(found, None)
    found = timed(found, found["steps"] or PROVISIONAL)
    if vocab is not None:
        model = found["model"]
        holder = model.get("trunk", model)
        holder["vocab"] = vocab
    found["model"] = with_told(found["model"], vocab or _vocab(found))
    if classes := imagined.classes(part(found, "data")):
        found["model"].setdefault("classes", list(classes))
    if begins:
        found["weights"] = adapter.read(begins, found["model"]).weights
    return found


def bound(resolved: Mapping[str, Any]) -> Experiment:
    """The experiment of a resolved config, with a tokenizer that has its special tokens.

    Raises:
      UserError: anything that the config cannot mean.
    """
    x = experiment(resolved)
    return x.bound(tokenizer(x.data))


def tokenizer(data: Any) -> Any:
    """One that has the special tokens of the data's, and perhaps no other tokens."""
    return data.tokenizer.train(("a",))


def batches(x: Experiment) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of one step's batches [1, B, ...] on the current mesh; rows are the longest."""
    token = int(tokenizer(x.data).encode("a")[0])
    record = imagined.record(x.data, x.objective.length, token)
    example = x.objective.example(record, np.random.default_rng(0))
    sharding = mesh.batch_sharding(leading=1)
    dtype = lambda array: jax.dtypes.canonicalize_dtype(array.dtype)
    return {
        name: jax.ShapeDtypeStruct(
            (1, x.batch.size, *np.shape(array)), dtype(np.asarray(array)), sharding=sharding
        )
        for name, array in example.items()
    }


def _without_sources(data: Mapping[str, Any]) -> dict[str, Any]:
    """A data section whose sources have no records, so that no file is looked for."""
    found = dict(data)
    for name, value in data.items():
        if name == "tokenizer" or not isinstance(value, Mapping):
            continue
        found[name] = NO_RECORDS if "kind" in value else dict.fromkeys(value, NO_RECORDS)
    return found


def _vocab(resolved: Mapping[str, Any]) -> int:
    named = resolved["data"].get("tokenizer", {})
    if (own := vocab(resolved["model"])) is not None:
        return own
    if named.get("kind") == "BPE" and "vocab" in named:
        return named["vocab"]
    if named.get("kind") in ("Bytes", "Pretrained"):
        return tokenizer(part(resolved, "data")).vocab
    raise UserError(
        f"the data is not read, and data.tokenizer ({named.get('kind')}) does not say how many "
        "tokens there are; give --vocab=V"
    )
