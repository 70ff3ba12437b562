"""Predictions for the test sets of GLUE, in the files that the benchmark's server takes."""

from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np

from lm_research import config, log
from lm_research.data import TFDS, Source, Table, glue
from lm_research.data.labelled import check_distinct
from lm_research.errors import UserError
from lm_research.infer.classify import scores, told
from lm_research.infer.text import Line

SCALE = (0.0, 5.0)  # of the scores that the server takes


def submit(
    model: nn.Module,
    params: Any,
    tokenizer: Any,
    length: int | None,
    *,
    task: str,
    path: str,
    directory: Path,
) -> list[Path]:
    """Writes a file of predictions for each test set of a task, and returns where.

    A model of MNLI also answers the diagnostic set, where its file is there.

    Args:
      model, params, tokenizer: the classifier's.
      length: tokens that it was trained on at most.
      task: the task's name.
      path: a folder with the official files, or the one file itself; empty takes TFDS.
      directory: where to write.

    Raises:
      UserError: a file is missing, or the model's classes are not the task's.
    """
    _check(model, task)
    tests = [(task, *test) for test in glue.task(task).tests]
    if task == "mnli":
        [(file, *rest)] = glue.task("ax").tests
        if not path or (Path(path) / file).is_file():
            tests.append(("ax", file, *rest))
        else:
            log.fallback("AX.tsv", "none", f"{path} has no {file}")
    written = []
    for name, file, split, server in tests:
        source = _source(name, file, split, path, alone=len(tests) == 1)
        lines = [_line(source, i) for i in range(len(source))]
        found = scores(model, params, *told(lines, tokenizer, length))
        rows = zip(_indices(source), _spelled(model, found))
        text = "".join(f"{index}\t{prediction}\n" for index, prediction in rows)
        log.write_text(directory / server, f"index\tprediction\n{text}")
        written.append(directory / server)
    return written


def _check(model: nn.Module, task: str) -> None:
    """Refuses a model of other classes than the task's; scores have one, of any name."""
    wanted, classes = glue.task(task).labels, tuple(getattr(model, "classes", None) or ())
    fits = set(classes) == set(wanted) if wanted else len(classes) == 1
    if not fits:
        takes = ", ".join(wanted) or "one score"
        raise UserError(
            f"the checkpoint's classes are {', '.join(classes) or 'none'}; {task} takes {takes}"
        )


def _source(name: str, file: str, split: str, path: str, alone: bool) -> Source:
    folder = Path(path)
    if path and alone and folder.is_file():
        path, file = str(folder.parent), folder.name
    section = glue.unlabelled(name, file, split, path)
    return config.build(section, {"Table": Table, "TFDS": TFDS}, "input")


def _indices(source: Any) -> list[Any]:
    """The index of each record, by which the server knows it.

    Raises:
      UserError: one is blank, or another's; says which.
    """
    found = [source[i]["id"] for i in range(len(source))]
    for i, index in enumerate(found):
        if not str(index).strip():
            raise UserError(f"{source.where(i)} has no index")
    check_distinct(source, "index")
    return found


def _line(source: Any, index: int) -> Line:
    record = source[index]
    return Line(source.where(index), text=record["text"], pair=record.get("pair"))


def _spelled(model: nn.Module, found: np.ndarray) -> list[str]:
    """Predictions as the server takes them: names of classes, or scores within their scale."""
    if len(model.classes) == 1:
        return [f"{score:.3f}" for score in np.clip(found[:, 0], *SCALE)]
    return [model.classes[i] for i in found.argmax(1)]
