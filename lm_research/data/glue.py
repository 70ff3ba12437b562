"""The tasks of GLUE (Wang et al., 2019): columns, labels and metrics, from their files or TFDS.

Labels are spelled as the tasks' own files spell them, and stand in the order of TFDS.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_research.config import known

Column = str | int
NLI = ("entailment", "neutral", "contradiction")
TWO = ("entailment", "not_entailment")


@dataclasses.dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
      title: as the benchmark writes it, which also names its folder.
      columns: of train.tsv and of what models are judged by; a number where files name none.
      test: columns of the test files.
      tfds: fields that TFDS has the texts in.
      labels: in order; none where labels are scores.
      metrics: of `Scores`; GLUE takes their mean.
      judged: files to judge by, by the name of their part of the data, and the splits of TFDS.
      tests: unlabelled files, their splits, and what the server wants predictions to be called.
      short: what to do with rows that lack columns.
      published: BERT-base (cased) on the development set by `transformers`' run_glue.py, as its
        README has it: 3 epochs, batch 32, 2e-5; MRPC and WNLI 5 epochs; by part and metric.
      server: BERT-base on the test set (Devlin et al., 2019, table 1), likewise.
    """

    title: str
    columns: Mapping[str, Column]
    test: Mapping[str, Column]
    tfds: Mapping[str, str]
    labels: tuple[str, ...] = ("0", "1")
    metrics: tuple[str, ...] = ("accuracy",)
    judged: Mapping[str, tuple[str, str]] = dataclasses.field(
        default_factory=lambda: {"heldout": ("dev.tsv", "validation")}
    )
    tests: tuple[tuple[str, str, str], ...] = ()
    short: str = "refuse"
    published: Mapping[str, float] = dataclasses.field(default_factory=dict)
    server: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def numeric(self) -> bool:
        """Whether labels are scores."""
        return not self.labels


def _task(title: str, first: Column, second: Column | None = None, label: Column = "label", **more):
    """A task with one text or two, whose test file's columns and name follow from the others."""
    texts = {"text": first} if second is None else {"text": first, "pair": second}
    given = more.pop("test", {}) | {"id": more.pop("index", "index")}
    tests = more.pop("tests", (("test.tsv", "test", f"{title}.tsv"),))
    fields = more.pop("tfds", {name: str(column) for name, column in texts.items()})
    return Task(title, {**texts, "label": label}, {**texts, **given}, fields, tests=tests, **more)


MNLI_TESTS = (
    ("test_matched.tsv", "test_matched", "MNLI-m.tsv"),
    ("test_mismatched.tsv", "test_mismatched", "MNLI-mm.tsv"),
)
SENTENCES = {"text": "sentence1", "pair": "sentence2"}

TASKS = {
    "cola": _task(
        "CoLA",
        3,
        label=1,
        test={"text": "sentence"},
        tfds={"text": "sentence"},
        metrics=("matthews",),
        published={"heldout/matthews": 56.53},
        server={"heldout/matthews": 52.1},
    ),
    "sst2": _task(
        "SST-2",
        "sentence",
        published={"heldout/accuracy": 92.32},
        server={"heldout/accuracy": 93.5},
    ),
    "mrpc": _task(
        "MRPC",
        "#1 String",
        "#2 String",
        "Quality",
        tfds=SENTENCES,
        metrics=("f1", "accuracy"),
        published={"heldout/f1": 88.85, "heldout/accuracy": 84.07},
        server={"heldout/f1": 88.9},
    ),
    "stsb": _task(
        "STS-B",
        "sentence1",
        "sentence2",
        "score",
        labels=(),
        metrics=("pearson", "spearman"),
        published={"heldout/pearson": 88.64, "heldout/spearman": 88.48},
        server={"heldout/spearman": 85.8},
    ),
    "qqp": _task(
        "QQP",
        "question1",
        "question2",
        "is_duplicate",
        index="id",
        metrics=("accuracy", "f1"),
        short="leave out",  # the official train.tsv has a few
        published={"heldout/accuracy": 90.71, "heldout/f1": 87.49},
        server={"heldout/f1": 71.2},
    ),
    "mnli": _task(
        "MNLI",
        "sentence1",
        "sentence2",
        "gold_label",
        tfds={"text": "premise", "pair": "hypothesis"},
        labels=NLI,
        judged={
            "heldout": ("dev_matched.tsv", "validation_matched"),
            "mismatched": ("dev_mismatched.tsv", "validation_mismatched"),
        },
        tests=MNLI_TESTS,
        published={"heldout/accuracy": 83.91, "mismatched/accuracy": 84.10},
        server={"heldout/accuracy": 84.6, "mismatched/accuracy": 83.4},
    ),
    "qnli": _task(
        "QNLI",
        "question",
        "sentence",
        labels=TWO,
        published={"heldout/accuracy": 90.66},
        server={"heldout/accuracy": 90.5},
    ),
    "rte": _task(
        "RTE",
        "sentence1",
        "sentence2",
        labels=TWO,
        published={"heldout/accuracy": 65.70},
        server={"heldout/accuracy": 66.4},
    ),
    "wnli": _task("WNLI", "sentence1", "sentence2", published={"heldout/accuracy": 56.34}),
    # The diagnostic set has a test only, for a model of MNLI.
    "ax": _task(
        "AX",
        "sentence1",
        "sentence2",
        tfds={"text": "premise", "pair": "hypothesis"},
        labels=NLI,
        metrics=("matthews",),
        judged={},
        tests=(("diagnostic.tsv", "test", "AX.tsv"),),
    ),
}


def task(name: str) -> Task:
    """The task of a name, such as `cola`.

    Raises:
      UserError: there is none.
    """
    known(name, TASKS, "task of GLUE")
    return TASKS[name]


def trained(name: str) -> Task:
    """A task that models are trained for.

    Raises:
      UserError: there is none of that name.
    """
    known(name, [name for name, found in TASKS.items() if found.judged], "task of GLUE to train")
    return TASKS[name]


def labelled(name: str, file: str, split: str, path: str, **columns: Column) -> dict[str, Any]:
    """The section of a source with the labelled records of one file or split.

    Args:
      name: of the task.
      file: in the folder `path`.
      split: of TFDS, where `path` is empty.
      path: a folder; empty takes TFDS.
      **columns: what replaces the task's own columns.
    """
    found = task(name)
    if not path:
        return _tfds(name, split, {**found.tfds, "label": "label"})
    return _table(Path(path) / file, {**found.columns, **columns}, short=found.short)


def unlabelled(name: str, file: str, split: str, path: str) -> dict[str, Any]:
    """The section of a source with records to predict, which have an `id`; see `labelled`."""
    found = task(name)
    if not path:
        return _tfds(name, split, {**found.tfds, "id": "idx"})
    return _table(Path(path) / file, found.test)


def _tfds(name: str, split: str, fields: dict[str, str]) -> dict[str, Any]:
    labels = list(task(name).labels) or None
    return dict(kind="TFDS", name=f"glue/{name}", split=split, fields=fields, labels=labels)


def _table(path: Path, columns: Mapping[str, Column], **more: Any) -> dict[str, Any]:
    return dict(kind="Table", paths=str(path), columns=dict(columns), form="tsv", **more)
