"""Models with their weights and tokenizers, from a run or from a Hugging Face directory."""

import dataclasses
import functools
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from lm_research import config, log, mesh, tree
from lm_research.data import chat
from lm_research.data import tokenizer as tokenizers
from lm_research.errors import UserError
from lm_research.hub import adapter, adapter_head
from lm_research.hub import load as hub
from lm_research.hub.names import Parameter, abstract, parameters
from lm_research.models import TextClassifier
from lm_research.optimizers.averaged import AveragedState
from lm_research.train import checkpoint
from lm_research.train.experiment import CONTENTS, Experiment, experiment
from lm_research.train.step import Trainer

# What an experiment says of a model that it starts from: how to run it, not what it is.
EXECUTION = ("dtype", "dropout", "attention_dropout", "execution", "remat", "kernel")
HEADED = ("Classifier", "Embedder")  # kinds of model that are a head on a trunk
BEST = "best"  # the directory of the parameters that are best by `checkpoint.best`


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model, ready to be called.

    Attributes:
      model: an unbound Linen module.
      params: plain parameters, laid out on the current mesh.
      tokenizer: None where the directory has none.
      section: the model section of a config that makes `model`.
      eos: tokens that end a text.
      context: tokens that it was made to read at once, where that is known; its positions may allow
        more.
      prefix: whether it was trained to continue texts from a prefix, whose tokens see each other.
      step: how long it was trained, where that is known.
    """

    model: nn.Module
    params: Any
    tokenizer: tokenizers.Tokenizer | None
    section: dict[str, Any]
    eos: tuple[int, ...] = ()
    context: int | None = None
    prefix: bool = False
    step: int | None = None


def is_run(path: Path) -> bool:
    """Whether `path` is a run's directory, and not Hugging Face's or PEFT's.

    Raises:
      UserError: it is none of them.
    """
    if adapter.is_adapter(path):
        return False
    if not (path / "config.json").is_file():
        what = "is not a directory" if not path.is_dir() else "has no config.json"
        raise UserError(f"{path} {what}; give a run's --workdir or a Hugging Face directory")
    stored = stored_config(path)
    if isinstance(stored, dict) and isinstance(stored.get("model"), dict):
        return True
    if not isinstance(stored, dict) or not {"model_type", "architectures"} & set(stored):
        raise UserError(f"{path / 'config.json'} is neither a run's nor a Hugging Face model's")
    return False


def section(path: Path) -> dict[str, Any]:
    """The model section that describes the weights in a directory."""
    if adapter.is_adapter(path):
        base = adapter.base(path)
        return adapter_head.section(path, base, section(base))
    return stored_config(path)["model"] if is_run(path) else hub.section(path)


def tokenizer_directory(path: Path) -> Path:
    """Where a run or a Hugging Face directory keeps its tokenizer, if it has one."""
    if adapter.is_adapter(path) and tokenizers.find(path) is None:
        return tokenizer_directory(adapter.base(path))
    return path / "tokenizer" if is_run(path) else path


def stored_config(path: Path) -> dict[str, Any]:
    """The config.json of a directory.

    Raises:
      UserError: it is damaged.
    """
    try:
        return json.loads((path / "config.json").read_text())
    except ValueError as error:
        raise UserError(
            f"{path / 'config.json'} is not JSON: {error}; mend it, or if it is a run's remove it: "
            "the command that began the run writes it again"
        ) from None


def open_checkpoint(path: str | Path, **execution: Any) -> Loaded:
    """The model in a run's directory or a Hugging Face directory, on the current mesh.

    Of a run whose weights are averaged, the average; of an adapter, its base with it merged in.

    Args:
      path: where it is.
      **execution: fields of the model section to replace, such as `dtype`; None keeps one.

    Raises:
      UserError: there is none, or it is damaged or unsupported.
    """
    path = Path(path)
    if adapter.is_adapter(path):
        return _adapted(path, **execution)
    given = {name: value for name, value in execution.items() if value is not None}
    described = {**section(path), **given}
    tokenizer = tokenizers.find(tokenizer_directory(path))
    model = config.build(described, CONTENTS, "model")
    loaded = functools.partial(Loaded, model, tokenizer=tokenizer, section=described)
    eos = chat.ends(tokenizer)
    if not is_run(path):
        ends = hub.ends(path) or eos
        return loaded(params=hub.load(path, model), eos=ends, context=hub.context(path))
    stored = stored_config(path)
    if "weights" in stored:
        if _has_best(path, stored):
            params, meta = checkpoint.load_params(path / BEST, _places(model))
        else:
            params, meta = _trained(path, {**stored, "model": described})
        objective = config.build(stored["objective"], CONTENTS, "objective")
        context, prefix = objective.length, getattr(objective, "prefix", False)
    else:  # `save_run` wrote it
        params, meta = checkpoint.load_params(path / "checkpoints", _places(model))
        eos, context = tuple(stored.get("eos", eos)), stored.get("context")
        prefix = stored.get("prefix", False)
    told = dict(eos=eos, context=context, prefix=prefix, step=int(meta["step"]))
    return loaded(params=params, **told)


def _adapted(path: Path, **execution: Any) -> Loaded:
    base = adapter.base(path)
    loaded = open_checkpoint(base, **execution)
    described = adapter_head.section(path, base, loaded.section)
    found = adapter.read(path, described)
    model, params = loaded.model, loaded.params
    if described != loaded.section:
        model = config.build(described, CONTENTS, "model")
        has = tree.named_leaves(params)
        wanted = [name for name in tree.named_leaves(abstract(model)) if name not in found.arrays]
        if lacking := [name for name in wanted if _source(name, has) is None]:
            modules = ", ".join(adapter.holding(described, lacking))
            raise UserError(
                f"neither the adapter {path} nor its base {base} holds {modules}, which PEFT drew "
                "and did not save; train it again with that in modules_to_save, or on a base that "
                "has it"
            )
        params, _ = given(model, loaded, found.arrays)
    params = found.merged(params, abstract(model))
    tokenizer = tokenizers.find(path) or loaded.tokenizer
    told = dict(model=model, params=params, section=described, tokenizer=tokenizer)
    return dataclasses.replace(loaded, **told)


def begun(asked: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """The model section of a run that starts from a model with the section `found`.

    Of the section that is asked for it takes how to run the model, and a larger vocabulary; and
    where it asks for a head on a trunk, the head, whose trunk the other model, or its trunk,
    becomes.
    """

    def execution(given: Mapping[str, Any]) -> dict[str, Any]:
        own = vocab(found)
        grows = own is not None and given.get("vocab", 0) > own
        names = (*EXECUTION, "vocab") if grows else EXECUTION
        return {name: given[name] for name in names if name in given}

    if asked["kind"] not in HEADED:
        return {**found, **execution(asked)}
    head = {name: value for name, value in asked.items() if name != "trunk" and value != "auto"}
    if found["kind"] != asked["kind"]:
        trunk = found.get("trunk", found)
        custom = hub.head(trunk["kind"], head.get("pool")) if head["kind"] == "Classifier" else {}
        found = {**custom, "trunk": trunk}
    return {**found, **head, "trunk": {**found["trunk"], **execution(asked["trunk"])}}


def given(
    model: nn.Module, loaded: Loaded, elsewhere: Collection[str] = ()
) -> tuple[Any, dict[str, Any]]:
    """Parameters of `model` from another one, None where it has none; and what to say of that.

    Those that are had from `elsewhere` are None, too, and nothing is said of them.

    Of a larger vocabulary, the other's tokens come first, and those after them begin as the mean of
    all, which hardly changes what is said of the others (Hewitt, 2021).

    Raises:
      UserError: a parameter has another shape, or one of a trunk is missing.
    """
    has, boxes = tree.named_leaves(loaded.params), abstract(model)
    shapes, letters = tree.unboxed(boxes), parameters(boxes)
    wanted = tree.named_leaves(shapes)
    taken = {name: _source(name, has) for name in wanted if name not in elsewhere}
    drawn = [name for name, source in taken.items() if source is None]
    if isinstance(model, TextClassifier):
        classes = loaded.section.get("classes", model.classes)
        if list(classes) != list(model.classes):  # the head of another task
            drawn += [name for name in ("kernel", "bias") if name in taken and name not in drawn]
    headed = ("dense/", "kernel", "bias") if isinstance(model, TextClassifier) else ()
    if lacking := [name for name in drawn if not name.startswith(headed)]:
        raise UserError(f"init has no {lacking[0]}, which the model needs")
    grown = [n for n in taken if n not in drawn and _grows(letters[n], has[taken[n]].shape)]
    for name in grown:
        axis, shape = letters[name].letters.index("V"), wanted[name].shape
        has[taken[name]] = _grown(has[taken[name]], axis, shape[axis])
    for name, source in taken.items():
        if name not in drawn and has[source].shape != wanted[name].shape:
            raise UserError(
                f"init has {source} as {list(has[source].shape)}; "
                f"the model needs {list(wanted[name].shape)}"
            )
    absent = {*elsewhere, *drawn}
    params = tree.map_named(lambda name, _: None if name in absent else has[taken[name]], shapes)
    left = sorted(set(has) - {source for source in taken.values() if source is not None})
    told = {"drawn": drawn, "let_be": left, "grown": grown}
    if drawn:
        log.fallback(", ".join(drawn), "drawn anew", f"{loaded.section['kind']} has none that fits")
    return params, {name: names for name, names in told.items() if names}


def _source(name: str, has: Mapping[str, Any]) -> str | None:
    """Which of another model's parameters one of a classifier, or of the same model, is."""
    pooler = name.replace("dense/", "pooler/dense/", 1)
    return next((n for n in (name, name.removeprefix("trunk/"), pooler) if n in has), None)


def _grows(parameter: Parameter, shape: tuple[int, ...]) -> bool:
    """Whether a parameter is one of this shape but for a larger vocabulary."""
    sizes = dict(zip(parameter.letters, shape))
    grows = "V" in sizes and sizes["V"] < parameter.sizes["V"]
    return grows and sizes | {"V": 0} == parameter.sizes | {"V": 0}


def _grown(array: Any, axis: int, size: int) -> Any:
    """With so many entries along an axis, the new ones the mean of the others."""
    mean = array.mean(axis, keepdims=True).astype(array.dtype)
    more = jnp.repeat(mean, size - array.shape[axis], axis)
    return jnp.concatenate([array, more], axis)


def part_of(loaded: Loaded, name: str) -> Loaded:
    """One of the models that a model is made of, by itself."""
    section, params = loaded.model.part(name, loaded.section, loaded.params)
    model = config.build(section, CONTENTS, "model")
    return dataclasses.replace(loaded, model=model, params=params, section=section)


def writer_of(loaded: Loaded) -> Loaded:
    """The encoder-decoder by which a `ClassWriter` tells classes."""
    parts = dict(model=loaded.model.trunk, params=loaded.params["trunk"])
    return dataclasses.replace(loaded, **parts, section=loaded.section["trunk"])


def save_run(path: str | Path, loaded: Loaded) -> None:
    """Writes a directory that `open_checkpoint` opens, with all that `loaded` says."""
    path = Path(path)
    checkpoint.save_params(path / "checkpoints", loaded.params, loaded.step or 0)
    if loaded.tokenizer is not None:
        loaded.tokenizer.save(path / "tokenizer")
    told = {name: getattr(loaded, name) for name in ("eos", "context", "prefix")}
    described = {"model": loaded.section, **told}
    log.write_text(path / "config.json", json.dumps(described, indent=2) + "\n")


def save_adapter(target: Path, source: Path) -> tuple[int, int]:
    """Writes what a run with LoRA trained as a directory of PEFT's; counts parameters and tensors.

    Raises:
      UserError: the run trained something else, or began from no directory.
    """
    stored = stored_config(source) if is_run(source) else {}
    kind = stored.get("weights", {}).get("kind", "in one piece")
    if kind != "LoRA":
        raise UserError(f"the weights of {source} are {kind}; PEFT's format takes a run with LoRA")
    if not stored["init"]:
        raise UserError(
            f"the run in {source} began from no directory (init), so none has the weights that its "
            "factors are added to; --target_format=huggingface writes the sum"
        )
    base = Path(stored["init"])
    own = vocab(stored["model"])
    if base.is_dir() and (theirs := vocab(section(base))) != own:
        raise UserError(
            f"the run in {source} has {own:,} tokens, and its base {base} {theirs:,}; PEFT adds "
            "factors to a base of the same vocabulary, and --target_format=huggingface writes the "
            "sum"
        )
    x, trained, _, meta = split(source, stored)
    if _has_best(source, stored):
        best = checkpoint.load_parts(source / BEST, Trainer.of(x).abstract().trained)
        if best is None:
            asked, why = "the best factors", "an older version kept only the best parameters"
            log.fallback(asked, f"those of step {meta['step']}", why)
        trained = trained if best is None else best[0]
    beginning = str(Path(stored["init"]).absolute())
    tokenizer = tokenizers.find(tokenizer_directory(source))
    tensors = adapter.save_adapter(
        target, stored["model"], x.weights, trained, beginning, tokenizer
    )
    return tree.count(trained), tensors


def vocab(section: Mapping[str, Any]) -> int | None:
    """V of the model, or of its trunk, that a section makes."""
    return section.get("trunk", section).get("vocab")


def _has_best(path: Path, stored: Mapping[str, Any]) -> bool:
    """Whether a run is opened with the parameters that were its best."""
    return bool(stored["checkpoint"].get("best")) and (path / BEST).is_dir()


def _trained(path: Path, stored: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A run's parameters: only what they are made of is read, and not its data."""
    x, trained, held, meta = split(path, stored)
    return x.weights.join(trained, held), meta


def split(path: Path, stored: dict[str, Any]) -> tuple[Experiment, Any, Any, dict[str, Any]]:
    """What a run's parameters are made of: its experiment, and what is trained and held."""
    # No evaluator is made, by which some step would be the best.
    saved = {**stored["checkpoint"], "best": None, "patience": None}
    x = experiment({**stored, "data": None, "evals": {}, "checkpoint": saved})
    state = Trainer.of(x).abstract()
    wanted = {"trained": state.trained, "held": state.held}
    if averaged := isinstance(state.optimizer, AveragedState):
        wanted = {"optimizer": {"average": state.optimizer.average}, "held": state.held}
    restored = x.checkpoint.open(path / "checkpoints").restore(wanted, partial=True)
    if restored is None:
        raise UserError(f"the run in {path} has saved no checkpoint yet")
    leaves, meta = restored
    trained = leaves["optimizer"]["average"] if averaged else leaves["trained"]
    return x, trained, leaves["held"], meta


def _places(model: nn.Module) -> Any:
    """Shapes of a model's parameters with their shardings on the current mesh."""
    return mesh.placed_shapes(abstract(model))
