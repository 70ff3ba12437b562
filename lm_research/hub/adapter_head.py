"""The head that an adapter adds to its base: a classifier that was trained whole beside factors."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_research.errors import UserError
from lm_research.hub import load, names, safetensors
from lm_research.hub.adapter import CLASSES, CONFIG, FACTOR, FILE, PREFIX, TASKS, described
from lm_research.models.family import Family


def section(directory: str | Path, base: str | Path, found: Mapping[str, Any]) -> dict[str, Any]:
    """The model section of a base with an adapter in it.

    It is the base's own where the adapter has no head, and where the base has the same one. Classes
    have the names that we wrote, else those of the base where it has as many, else `LABEL_0` and
    so on, as `transformers` has them.

    Args:
      directory: the adapter's.
      base: the base's directory.
      found: the base's section.

    Raises:
      UserError: the adapter lacks the head that it is said to have, or it may be of several kinds.
    """
    directory, trunk = Path(directory), found.get("trunk", found)
    if not (directory / FILE).is_file():
        return dict(found)  # `adapter.read` says what is missing
    heads = [f for f in names.families() if f.task and f.kind == trunk["kind"]]
    stored = safetensors.Stored(directory, FILE)
    whole = {name.removeprefix(PREFIX): stored.shape(name) for name in stored.names}
    whole = {name: shape for name, shape in whole.items() if not FACTOR.fullmatch(name)}
    family = _family(directory, heads, whole, found["kind"] == "Classifier")
    if family is None:
        return dict(found)
    count = whole[_classifier(family)][0]
    written = safetensors.metadata(directory / FILE).get(CLASSES)
    choices = (
        json.loads(written) if written else None,
        family.head.get("classes"),
        found.get("classes"),
        load.class_names(base),
    )
    named = [f"LABEL_{i}" for i in range(count)]
    classes = next((list(own) for own in choices if own and len(own) == count), named)
    same = found if found["kind"] == "Classifier" else {}
    return {**same, "kind": "Classifier", "trunk": trunk, **family.head, "classes": classes}


def _family(
    directory: Path, heads: Sequence[Family], whole: Mapping[str, Any], headed: bool
) -> Family | None:
    """Which of a trunk's heads an adapter has; None where it has none, or says nothing of one."""
    settings = described(directory)
    task = settings.get("task_type")
    told = TASKS.get(task, "")
    if task is None:
        told = (settings.get("auto_mapping") or {}).get("base_model_class") or ""
    elif not told:
        return None
    asked = [family for family in heads if family.architecture.endswith(told)]
    fits = [family for family in asked if _classifier(family) in whole]
    if not fits and told in TASKS.values() and not headed:
        takes = ", ".join(sorted({_classifier(family) for family in asked}))
        lacks = f"holds no {takes}" if takes else "is of a base that takes no such head here"
        raise UserError(f"{directory / CONFIG} has task_type {task!r}, and the adapter {lacks}")
    if not fits or (headed and not told):
        return None
    if not told:  # a text's head has two products, and a token's one
        fits = [f for f in fits if len(_head(f)) > 2 and _head(f) <= set(whole)] or fits
        if len({family.head["pool"] for family in fits}) > 1:
            raise UserError(
                f"{directory / CONFIG} has no task_type, and {_classifier(fits[0])} may judge "
                f"texts or tokens; it takes {', '.join(TASKS)}"
            )
    return max(fits, key=lambda family: "classes" not in family.head)


def _head(family: Family) -> set[str]:
    """Names of the tensors of a classifier's own products."""
    return {row.theirs for row in family.rows if not row.ours.startswith("trunk/")}


def _classifier(family: Family) -> str:
    """The tensor [classes, D]."""
    return next(row.theirs for row in family.rows if row.ours == "kernel")
