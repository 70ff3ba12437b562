"""A Hugging Face directory's model: our section from its config, parameters from its tensors."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from lm_research import log, mesh, tree
from lm_research.errors import UserError
from lm_research.hub import names
from lm_research.hub.safetensors import FLOATS, Stored, listed
from lm_research.models.classifier import labels
from lm_research.models.family import Family

# Keys of any config.json that say nothing about what a model computes.
INERT = (
    *("_name_or_path", "architectures", "auto_map", "bos_token_id", "chunk_size_feed_forward"),
    *("dtype", "eos_token_id", "id2label", "is_decoder", "label2id", "model_type"),
    *("output_attentions", "output_hidden_states", "pad_token_id", "problem_type", "return_dict"),
    *("task_specific_params", "tokenizer_class", "torch_dtype", "torchscript"),
    *("transformers_version", "use_cache"),
)
GENERATION = "generation_config.json"
# Keys with which a text begins: since transformers 5 they may be in that file alone.
BEGINS = ("decoder_start_token_id", "forced_bos_token_id")
CONTEXT = "max_position_embeddings"
STRIP = 1 << 22  # entries of a tensor that are read at once
# Options of any config.json that change it.
FIXED = {"quantization_config": None, "pruned_heads": None, "is_encoder_decoder": None}


def section(directory: str | Path) -> dict[str, Any]:
    """The model section of a config that makes the model in a Hugging Face directory.

    Raises:
      UserError: its architecture is not supported, it has an option that we do not compute, or one
        of another type than it takes.
    """
    directory = Path(directory)
    config = _config(directory)
    family = _family(config, directory)
    for key, value in {**FIXED, **family.fixed}.items():
        given = config.get(key, value)
        if _differs(given, value):
            raise UserError(
                f"{directory / 'config.json'} has {key} {given!r}; "
                f"{family.architecture} takes {value!r} here"
            )
    known = {*INERT, *FIXED, *family.fixed, *family.defaults, *family.inert}
    for key in sorted(set(config) - known):
        if config[key]:  # what is off or empty asks for nothing
            log.fallback(
                f"{key}={config[key]!r} of {directory / 'config.json'}",
                f"a {family.architecture} without it",
                "it is no option that we know",
            )
    if (problem := config.get("problem_type")) == "multi_label_classification":
        asked = f"problem_type={problem!r} of {directory / 'config.json'}"
        log.fallback(asked, "probabilities that add up to 1", "a text has one class here")
    held = Stored(directory).names if family.present else ()
    present = {key: name in held for key, name in family.present.items()}
    said = _config(directory, GENERATION)
    begins = {key: said[key] for key in BEGINS if key in family.defaults and key in said}
    try:
        return family.ours({**family.defaults, **present, **config, **begins})
    except (TypeError, AttributeError, ZeroDivisionError) as error:
        told = f"{directory / 'config.json'} has a value of another kind than it takes: {error}"
        raise UserError(told) from error


def ends(directory: str | Path) -> tuple[int, ...]:
    """The tokens that end a text, as `transformers` takes them; none where nothing names them."""
    for name in (GENERATION, "config.json"):
        found = _config(Path(directory), name).get("eos_token_id")
        if found is not None:
            return tuple(found) if isinstance(found, list) else (found,)
    return ()


def context(directory: str | Path) -> int | None:
    """How many tokens config.json says the model was made to read at once, where it does."""
    config = _config(Path(directory))
    return config.get(CONTEXT, config.get("n_positions"))  # as GPT-2 and T5 call it


def family(directory: str | Path) -> Family:
    """The family of the model in a Hugging Face directory.

    Raises:
      UserError: its architecture is not supported.
    """
    return _family(_config(Path(directory)), Path(directory))


def head(kind: str, pool: str | None) -> dict[str, Any]:
    """What a classifier on a trunk of our `kind` is like by custom; nothing where there is none."""
    found = (family for family in names.families() if family.task and family.kind == kind)
    heads = (family.head for family in found if pool in (None, family.head["pool"]))
    own = next((head for head in heads if "classes" not in head), {})
    return {"kind": "Classifier", **own}


def class_names(directory: str | Path) -> list[str] | None:
    """The names of classes that config.json says, whatever the model; None where it says none."""
    there = (Path(directory) / "config.json").is_file()  # an adapter has none
    config = _config(Path(directory)) if there else {}
    return labels(config) if config.get("id2label") else None


def special(directory: str | Path, vocab: int) -> list[int]:
    """The tokens below `vocab` that config.json says mean something of their own."""
    found = _config(Path(directory)).items()
    named = [value for key, value in found if key.endswith("_token_id")]
    flat = [number for value in named for number in (value if isinstance(value, list) else [value])]
    return sorted({number for number in flat if type(number) is int and 0 <= number < vocab})


def load(directory: str | Path, model: nn.Module) -> Any:
    """The parameters of `model` from a Hugging Face directory, float32, on the current mesh.

    Each device's part is read from the files by itself: a host never holds more than one parameter
    besides.

    Raises:
      UserError: tensors are missing, of another shape or of no use to the model, weights that it
        ties differ, or a weight is NaN or infinite.
    """
    directory = Path(directory)
    boxed = names.abstract(model)
    given = names.parameters(boxed)
    candidates = _families(_config(directory), directory)
    misfit = lambda family: (len(names.strangers(family, given)), names.lacking(family, given))
    family = min(candidates, key=misfit)
    layout = names.layout(family, given)
    stored = Stored(directory)
    found = _found(stored, family)
    _check(directory, stored, found, layout, family)
    pieces: dict[str, list[tuple[str, names.Part]]] = {}
    for name, tensor in layout.items():
        for part in tensor.parts:
            pieces.setdefault(part.ours, []).append((found[name], part))

    def placed(path: str, box: nn.LogicallyPartitioned, place: jax.sharding.Sharding) -> jax.Array:
        shape = box.value.shape
        read = {}  # devices that hold the same part share one reading

        def at(index: Sequence[slice]) -> np.ndarray:
            index = [slice(*cut.indices(size)[:2]) for cut, size in zip(index, shape)]
            key = tuple((cut.start, cut.stop) for cut in index)
            if key not in read:
                read[key] = _read(stored, pieces[path], index)
            return read[key]

        # Waiting keeps the host from reading ahead of the copies to its devices.
        return jax.block_until_ready(jax.make_array_from_callback(shape, place, at))

    boxes, places = tree.named_leaves(boxed), tree.named_leaves(mesh.shardings(boxed))
    # The largest first: while one is copied to its devices it takes its memory twice.
    order = sorted(boxes, key=lambda path: -boxes[path].value.size)
    params = {path: placed(path, boxes[path], places[path]) for path in order}
    return tree.map_named(lambda path, _: params[path], boxed)


def _read(
    stored: Stored, pieces: Sequence[tuple[str, names.Part]], index: list[slice]
) -> np.ndarray:
    """`index` of a parameter, put together from its pieces: a layer each, or an expert of it."""
    result = np.empty([cut.stop - cut.start for cut in index], np.float32)
    depth = len(pieces[0][1].index)
    inner = index[depth:]
    for name, part in pieces:
        place = tuple(i - cut.start for i, cut in zip(part.index, index))
        if not all(0 <= i < cut.stop - cut.start for i, cut in zip(place, index)):
            continue
        read = lambda cut, name=name: stored.read(name, cut)
        for strip in part.strips(inner, STRIP):
            values = part.read(read, strip)
            if not np.isfinite(values).all():
                raise UserError(f"{name} in {stored.directory} has NaN or infinity in it")
            within = [slice(a.start - b.start, a.stop - b.start) for a, b in zip(strip, inner)]
            result[(*place, *within)] = values
    return result


def _config(directory: Path, name: str = "config.json") -> dict[str, Any]:
    path = directory / name
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_hook=_number)
    except FileNotFoundError:
        if name != "config.json":
            return {}
        raise UserError(f"{directory} has no config.json; give a Hugging Face directory") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None


def _number(value: dict[str, Any]) -> Any:
    """An object of a config, which may stand for a number that JSON lacks, such as infinity."""
    return float(value["__float__"]) if value.keys() == {"__float__"} else value


def _family(config: Mapping[str, Any], directory: Path) -> Family:
    """Of the families that a config may mean, the largest one whose tensors are all there."""
    candidates = _families(config, directory)
    # Tensors alone do not tell what scores are of: texts, tokens or choices.
    candidates = [family for family in candidates if family.task == candidates[0].task]
    candidates = [family for family in candidates if _agrees(config, family)] or candidates
    if len(candidates) == 1:
        return candidates[0]
    held = set(_found(Stored(directory), candidates[0]))
    whole = [family for family in candidates if _theirs(family) <= held]
    return max(whole, key=lambda family: len(family.rows), default=candidates[0])


def _agrees(config: Mapping[str, Any], family: Family) -> bool:
    """Whether a config has the values that a family takes."""
    given = {**family.fixed, **family.defaults, **config}
    return not any(_differs(given[key], value) for key, value in family.fixed.items())


def _differs(given: Any, value: Any) -> bool:
    """Whether an option asks for something else; all that is off or empty asks for the same."""
    return given != value and bool(given or value)


def _families(config: Mapping[str, Any], directory: Path) -> list[Family]:
    """By architecture, or by model type where a config has none; and its siblings, after it."""
    asked = config.get("architectures") or []
    for family in names.families():
        if family.architecture in asked or (
            not asked and not family.task and family.model_type == config.get("model_type")
        ):
            return sorted(_siblings(family), key=lambda other: other is not family)
    what = ", ".join(asked) or f"model_type {config.get('model_type')!r}"
    known = ", ".join(dict.fromkeys(family.architecture for family in names.families()))
    raise UserError(f"{directory / 'config.json'} has {what}; it takes {known}")


def _siblings(family: Family) -> list[Family]:
    """The families of one model type: a trunk with one head or another."""
    return [other for other in names.families() if other.model_type == family.model_type]


def _theirs(family: Family) -> set[str]:
    """Tensors that a directory of the family must hold: of layers, the first one's."""
    rows = [row for row in family.rows if row.tied is None and not row.optional]
    return {row.theirs.replace("{L}", "0").replace("{E}", "0") for row in rows}


def _found(stored: Stored, family: Family) -> dict[str, str]:
    """What each tensor is called in the files, by the name that `transformers` writes."""
    buffers = [re.compile(f"({re.escape(family.prefix)})?{p}") for p in family.buffers]
    rows = [row for other in _siblings(family) for row in other.rows]
    theirs = {row.theirs.replace("{L}", "0") for row in rows} | set(family.doubles)
    whole = {name for name in theirs if not name.startswith(family.prefix)}  # heads have no prefix
    found = {}
    for name in stored.names:
        if any(pattern.fullmatch(name) for pattern in buffers):
            continue
        spelled = name
        for old, new in family.spellings.items():
            spelled = spelled.replace(old, new)
        bare = not spelled.startswith(family.prefix) and spelled not in whole
        found[family.prefix + spelled if bare else spelled] = name
    # Of several names of one tensor a file may have kept any.
    rows = {row.ours: row.theirs for row in family.rows}
    for row in family.rows:
        if row.tied is not None and row.theirs in found:
            found.setdefault(rows[row.tied], found[row.theirs])
    return found


def _check(
    directory: Path,
    stored: Stored,
    found: Mapping[str, str],
    layout: Mapping[str, names.Tensor],
    family: Family,
) -> None:
    missing = [name for name in layout if name not in found]
    shapes = [
        f"{found[name]} is {list(stored.shape(found[name]))}, not {list(tensor.shape)}"
        for name, tensor in layout.items()
        if name in found and stored.shape(found[name]) != tensor.shape
    ]
    types = [
        f"{found[name]} is {stored.dtype(found[name])}, which is none of {', '.join(FLOATS)}"
        for name in layout
        if name in found and stored.dtype(found[name]) not in FLOATS
    ]
    tied = tied_tensors(layout, family)
    aside = {name for other in _siblings(family) for name in _theirs(other)} - set(layout)
    if left := sorted(aside & set(found)):
        log.note(tensors_let_be=left)
    other = sorted(found[name] for name in set(found) - set(layout) - set(tied) - aside)
    troubles = [
        f"{what}: {listed(entries)}"
        for what, entries in (
            ("missing", missing),
            ("wrong shape", shapes),
            ("wrong dtype", types),
            ("unknown", other),
        )
        if entries
    ]
    if troubles:
        raise UserError(
            f"{directory} does not hold this {family.architecture}; {'; '.join(troubles)}"
        )
    for name, same in tied.items():
        if name in found and not _equal(stored, found[name], found[same]):
            raise UserError(
                f"{directory}: {found[name]} differs from {found[same]} though config.json "
                'ties them; set "tie_word_embeddings": false'
            )


def tied_tensors(layout: Mapping[str, names.Tensor], family: Family) -> dict[str, str]:
    """Tensors that this model does without, and those that hold the same weights."""
    rows = {row.ours: row.theirs for row in family.rows}
    tied = {
        row.theirs: rows[row.tied]
        for row in family.rows
        if row.tied is not None and row.theirs not in layout
    }
    return tied | {name: same for name, same in family.doubles.items() if same in layout}


def _equal(stored: Stored, one: str, other: str) -> bool:
    shape = stored.shape(one)
    if shape != stored.shape(other):
        return False
    starts = range(0, shape[0], 4096)  # a few rows at a time: tables are large
    rest = tuple(slice(0, size) for size in shape[1:])
    cuts = [(slice(start, min(start + 4096, shape[0])), *rest) for start in starts]
    return all(np.array_equal(stored.read(one, cut), stored.read(other, cut)) for cut in cuts)
