"""PEFT's adapter directories: LoRA's factors and modules trained whole, there and back."""

import collections
import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from lm_research import config, log, mesh, tree
from lm_research.errors import UserError
from lm_research.hub import load, module_names, names, safetensors
from lm_research.hub.factors import Factors, Module, modules, refuse_others, stacked
from lm_research.hub.save import CONTENTS, completed
from lm_research.models.family import Family
from lm_research.weights.lora import LoRA, begun, is_pair

CONFIG, FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
FACTOR = re.compile(r"(.*)\.lora_([AB])\.weight")
CLASSES = "classes"  # in the metadata of the tensors' file, where PEFT lets it be: their names
# What PEFT calls a head, and how the architectures that have it end.
TASKS = {
    "SEQ_CLS": "ForSequenceClassification",
    "TOKEN_CLS": "ForTokenClassification",
    "QUESTION_ANS": "ForQuestionAnswering",
}
# Keys of adapter_config.json that say what was trained, or how, and not what it computes: the
# tensors tell which modules have factors.
INERT = (
    *("alpha_pattern", "auto_mapping", "base_model_name_or_path", "exclude_modules"),
    *("fan_in_fan_out", "inference_mode", "layers_pattern", "layers_to_transform", "lora_alpha"),
    *("megatron_core", "modules_to_save", "peft_type", "peft_version", "qalora_group_size", "r"),
    *("rank_pattern", "revision", "runtime_config", "target_modules", "task_type", "use_rslora"),
    *("ensure_weight_tying", "eva_config", "lora_dropout"),
)
# Ways to draw factors that leave the base as it is.
DRAWN = (True, False, "gaussian", "eva", "orthogonal")


@dataclasses.dataclass(frozen=True)
class Adapter:
    """What an adapter's directory holds, for one model.

    Attributes:
      weights: the section of a config that goes on training it.
      arrays: what is trained, by the names that `LoRA` gives it; ranks and layers that the adapter
        lacks are zero.
    """

    weights: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def merged(self, params: Any, boxed: Any) -> Any:
        """Plain parameters: those of the base, shaped as `boxed`, with the adapter in them."""
        lora = LoRA(**{name: value for name, value in self.weights.items() if name != "kind"})
        shapes = jax.eval_shape(lambda key: lora.split(boxed, key)[0], jax.random.key(0))
        own = tree.named_leaves(params)  # of those that are trained themselves, what is not here
        trained = begun(tree.unboxed(shapes), {**own, **self.arrays})
        itself = tree.named_leaves(trained)
        held = tree.map_named(lambda name, p: None if name in itself else p, params)
        return jax.jit(lora.join, out_shardings=mesh.shardings(boxed))(trained, held)


def is_adapter(directory: str | Path) -> bool:
    """Whether a directory is one of PEFT's."""
    return (Path(directory) / CONFIG).is_file() and not (Path(directory) / "config.json").is_file()


def base(directory: str | Path) -> Path:
    """Where the model is that an adapter belongs to.

    Raises:
      UserError: it is no directory here.
    """
    named = described(directory).get("base_model_name_or_path")
    if not named or not Path(named).is_dir():
        raise UserError(
            f"{directory} is an adapter of {named!r}, which is no directory here; put the model's "
            f"into base_model_name_or_path of {CONFIG}"
        )
    return Path(named)


def described(directory: str | Path) -> dict[str, Any]:
    """The adapter_config.json of a directory.

    Raises:
      UserError: there is none, or it asks for what we do not compute.
    """
    path = Path(directory) / CONFIG
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{directory} has no {CONFIG}; give a directory of PEFT's") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if found.get("peft_type") != "LORA":
        raise UserError(f"{path} has peft_type {found.get('peft_type')!r}; it takes 'LORA' here")
    if found.get("bias", "none") != "none":
        raise UserError(f"{path} has bias {found['bias']!r}; it takes 'none' here")
    if (drawn := found.get("init_lora_weights", True)) not in DRAWN:
        raise UserError(f"{path} has init_lora_weights {drawn!r}, which changes the base's weights")
    known = {*INERT, "bias", "init_lora_weights"}
    if asked := sorted(key for key in found if key not in known and found[key]):
        raise UserError(f"{path} has {asked[0]} {found[asked[0]]!r}; an adapter here is without it")
    return found


def read(directory: str | Path, section: Mapping[str, Any]) -> Adapter:
    """An adapter of the model that a section makes.

    Raises:
      UserError: its tensors are not of this model, or it does what we do not compute.
    """
    directory, settings = Path(directory), described(directory)
    if not (directory / FILE).is_file():
        raise UserError(f"{directory} has no {FILE}; let PEFT save the adapter as safetensors")
    family, given, layout = _laid_out(section)
    linear = modules(layout, given)
    pairs, whole = _sorted(safetensors.Stored(directory, FILE), family, layout, linear)
    if not pairs:
        raise UserError(f"{directory / FILE} holds no factors")
    # Ours is one scale for all: what a module's differs from the first one's is in its B.
    unit = _scaling(settings, *next(iter(pairs.items()))) or 1.0
    found: dict[str, dict[tuple[int, ...], Factors]] = {}
    for name, (a, b) in pairs.items():
        b = b * np.float32(_scaling(settings, name, (a, b)) / unit)
        for piece in linear[name].pieces:
            found.setdefault(piece.path, {})[piece.index] = linear[name].read(piece, (a, b))
    rank = max(a.shape[-1] for layers in found.values() for a, _ in layers.values())
    arrays = {}
    for path, layers in found.items():
        arrays |= stacked(path, given[path], layers, rank)
    weights = {"kind": "LoRA", "rank": rank, "scale": unit * rank, "pattern": _exactly(found)}
    if whole:
        itself = _whole(layout, given, whole)
        arrays |= itself
        weights["besides"] = _exactly(itself)
    if settings.get("lora_dropout"):
        asked = f"lora_dropout={settings['lora_dropout']!r} of {directory / CONFIG}"
        log.fallback(asked, "factors without dropout", "LoRA here has none")
    return Adapter({**weights, "adapter": str(directory)}, arrays)


def holding(section: Mapping[str, Any], paths: Iterable[str]) -> list[str]:
    """The modules of theirs that hold these parameters of the model that a section makes."""
    wanted, (_, _, layout) = set(paths), _laid_out(section)
    held = (n for n, tensor in layout.items() if wanted & {part.ours for part in tensor.parts})
    return sorted({name.rpartition(".")[0] for name in held})


def save_adapter(
    directory: str | Path,
    section: Mapping[str, Any],
    weights: LoRA,
    trained: Any,
    base: str | None,
    tokenizer: Any = None,
) -> int:
    """Writes adapter_config.json and float32 tensors; returns how many tensors there are.

    The directory appears when it is complete.

    Args:
      directory: a new one, or an empty one.
      section: the model section that makes the model.
      weights: what it was trained by.
      trained: its plain trained parameters, on this process's devices.
      base: where the model is that the factors are added to.
      tokenizer: has `save(directory)`; None writes none.

    Raises:
      UserError: `transformers` has something that was trained in no module, or in a part of one.
    """
    family, given, layout = _laid_out(section)
    linear = modules(layout, given)
    arrays = {name: np.asarray(leaf) for name, leaf in tree.named_leaves(trained).items()}
    paths = [
        tree.path_name(path)
        for path, node in jax.tree_util.tree_leaves_with_path(trained, is_leaf=is_pair)
        if is_pair(node)
    ]
    refuse_others(paths, linear, "the run")
    adapted = {
        name: module
        for name, module in linear.items()
        if any(piece.path in paths for piece in module.pieces)
    }
    written, ranks = {}, {}
    for name, module in adapted.items():
        a, b = module.made(arrays)
        ranks[name] = a.shape[0]
        written |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    itself = {name: array for name, array in arrays.items() if name in given}
    kept = module_names.modules_to_save(layout, set(itself))
    inside = lambda name: set(module_names.enclosing(name)) & set(kept)
    if copied := _tied_to(filter(inside, layout), layout, family):
        raise UserError(
            f"the run trained {copied[0]} besides factors, to which its model ties {copied[1]}; "
            "PEFT saves a copy that the other one does not follow; --target_format=huggingface "
            "writes the sum"
        )
    for name, tensor in layout.items():
        if inside(name):
            written[name] = tensor.made(lambda path, index: itself[path][index])
    rank = collections.Counter(ranks.values()).most_common(1)[0][0]
    alpha = lambda rank: weights.scaling * rank
    targeted = {module: module in ranks for module in (n.rpartition(".")[0] for n in layout)}
    others = {module_names.suffix(name, ranks, r): r for name, r in ranks.items() if r != rank}
    task = _task(family)
    own = {"base_model_class": family.architecture, "parent_library": "transformers"}
    named = {CLASSES: json.dumps(list(section["classes"]))} if family.task else {}
    settings = {
        "peft_type": "LORA",
        "task_type": task,
        "auto_mapping": own if task is None else None,
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha(rank),
        "rank_pattern": others,
        "alpha_pattern": {name: alpha(r) for name, r in others.items()},
        "target_modules": sorted({module_names.suffix(name, targeted, True) for name in ranks}),
        "modules_to_save": kept or None,
        "fan_in_fan_out": all(module.transposed for module in adapted.values()),
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
    }
    with safetensors.appearing(Path(directory)) as temporary:
        safetensors.dump(settings, temporary / CONFIG)
        tensors = {PREFIX + name: np.ascontiguousarray(array) for name, array in written.items()}
        save_file(tensors, temporary / FILE, metadata={"format": "pt", **named})
        if tokenizer is not None:
            tokenizer.save(temporary)
    return len(written)


def _laid_out(
    section: Mapping[str, Any],
) -> tuple[Family, dict[str, names.Parameter], dict[str, names.Tensor]]:
    """The family of a section's model, its parameters, and its tensors by name."""
    given = names.parameters(names.abstract(config.build(section, CONTENTS, "model")))
    family = names.fitting(completed(section), given)
    layout = names.layout(family, given)
    return family, given, {family.written(name): tensor for name, tensor in layout.items()}


def _sorted(
    stored: safetensors.Stored,
    family: Family,
    layout: Mapping[str, names.Tensor],
    linear: Mapping[str, Module],
) -> tuple[dict[str, Factors], dict[str, np.ndarray]]:
    """The factors in a file by module, and other tensors of the model by name."""
    factors: dict[str, dict[str, np.ndarray]] = {}
    whole, unknown = {}, []
    for name in sorted(stored.names):
        array = stored.read(name, tuple(slice(0, size) for size in stored.shape(name)))
        if not np.isfinite(array).all():
            raise UserError(f"{name} in {stored.directory} has NaN or infinity in it")
        inner = name.removeprefix(PREFIX)
        factor = FACTOR.fullmatch(inner)
        known = linear if factor else layout
        inner = factor[1] if factor else inner
        spelled = (inner, family.prefix + inner, inner.removeprefix(family.prefix))
        if not (found := [spelling for spelling in spelled if spelling in known]):
            unknown.append(name)
        elif factor:
            factors.setdefault(found[0], {})[factor[2]] = array
        else:
            whole[found[0]] = array
    for name, pair in factors.items():
        sizes = [side.size for side in linear[name].pieces[0].sides]
        shapes = [pair[key].shape if key in pair else None for key in "AB"]
        rank = max((shape[axis] for axis, shape in enumerate(shapes) if shape), default=0)
        if shapes != [(rank, sizes[0]), (sizes[1], rank)]:
            unknown.append(f"{name}.lora_A and lora_B as {shapes}")
    unknown += [
        f"{name} as {array.shape}"
        for name, array in whole.items()
        if array.shape != layout[name].shape
    ]
    if copied := _tied_to(whole, layout, family):
        raise UserError(
            f"{stored.directory / FILE} has {copied[0]}, to which the model ties {copied[1]}; PEFT "
            "trains a copy that the other one does not follow, and here both are one"
        )
    if unknown:
        raise UserError(
            f"{stored.directory / FILE} is not an adapter of linear modules of this "
            f"{family.architecture}: {safetensors.listed(unknown)}"
        )
    return {name: (pair["A"], pair["B"]) for name, pair in factors.items()}, whole


def _tied_to(
    saved: Iterable[str], layout: Mapping[str, names.Tensor], family: Family
) -> tuple[str, str] | None:
    """A tensor of those saved whole and one that is the same weights in the model, if any are."""
    whole, tied = set(saved), load.tied_tensors(layout, family)
    return next(((same, name) for name, same in tied.items() if same in whole), None)


def _scaling(settings: Mapping[str, Any], name: str, factors: Factors) -> float:
    """What PEFT multiplies a module's B A with."""
    alpha, rank = settings.get("lora_alpha", 8), len(factors[0])
    for key, value in (settings.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({key})$", name):
            alpha = value
            break
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _whole(
    layout: Mapping[str, names.Tensor],
    given: Mapping[str, names.Parameter],
    whole: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Our parameters that are in whole tensors."""
    arrays: dict[str, np.ndarray] = {}
    for name, array in whole.items():
        for part in (part for part in layout[name].parts if part.stored):
            mine = arrays.setdefault(part.ours, np.full(given[part.ours].shape, np.nan, np.float32))
            index = [slice(0, size) for size in part.shape]
            mine[part.index] = part.read(lambda cut, array=array: array[cut], index)
    if cut := [path for path, array in arrays.items() if np.isnan(array).any()]:
        raise UserError(f"the adapter holds {safetensors.listed(cut)} of some layers only")
    return arrays


def _exactly(paths: Iterable[str]) -> str:
    """A pattern that is found in these names and no other."""
    return f"^({'|'.join(map(re.escape, sorted(paths)))})$"


def _task(family: Family) -> str | None:
    """What PEFT calls that which a family's models are for, where that is a kind of its own."""
    ends = {"LMHeadModel": "CAUSAL_LM", "ForCausalLM": "CAUSAL_LM"}
    ends |= {"ForConditionalGeneration": "SEQ_2_SEQ_LM"}
    ends |= {ending: task for task, ending in TASKS.items()}
    return next((ends[end] for end in ends if family.architecture.endswith(end)), None)
