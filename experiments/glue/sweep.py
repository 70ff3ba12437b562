"""A task of GLUE on a number of seeds: mean and deviation of its metrics, beside published numbers.

    python experiments/glue/sweep.py --task=cola --path=glue/CoLA --init=BERT_DIRECTORY --seeds=5
    python experiments/glue/sweep.py --task=rte --path=DIR --seeds=3 \
        --knobs=train=train.tsv.gz,dev=dev.tsv.gz,width=64,layers=2,heads=2

Runs are kept in --runs and go on where they stopped. Writes results.json, which keeps the other
tasks that it has, and report.md beside this file.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lm_research import log
from lm_research.commands import config_flag
from lm_research.data import glue
from lm_research.evals import agreement
from lm_research.study.runs import parser, program
from lm_research.train import loop, restore
from lm_research.train.experiment import part

HERE = Path(__file__).parent
CONFIG = HERE.parent.parent / "configs" / "finetune" / "glue.py"


def config(options: argparse.Namespace, seed: int) -> Any:
    """The run of one seed."""
    knobs = [f"task={options.task}", *([f"path={options.path}"] if options.path else [])]
    found = config_flag.loaded(f"{CONFIG}:{','.join([*knobs, *filter(None, [options.knobs])])}")
    found.seed, found.init = seed, options.init or None
    found.log.tensorboard = False
    return found


def measured(workdir: Path, names: list[str]) -> dict[str, float]:
    """The metrics at the evaluation that is best by their mean on the held-out part."""
    steps: dict[int, dict[str, float]] = {}
    for row in log.rows(workdir):
        steps.setdefault(row["step"], {}).update(row)
    found = [row for row in steps.values() if "heldout/score" in row]
    best = max(found, key=lambda row: row["heldout/score"])
    return {"step": best["step"], **{name: best[name] for name in names}}


def constant(workdir: Path, names: list[str]) -> dict[str, float]:
    """The metrics of the training set's most frequent class; of a constant score."""
    stored = restore.stored_config(workdir)
    data = part(stored, "data").prepared(workdir / "data", part(stored, "objective").length)
    found = {}
    for name in names:
        where, metric = name.split("/")
        labels = data.part(where).labels
        if metric in ("pearson", "spearman"):
            found[name] = 0.0
            continue
        told = np.full(len(labels), np.bincount(data.train.labels).argmax())
        table = agreement.confusion(told, labels, len(data.classes))
        one = (1,) if metric == "f1" else ()
        found[name] = getattr(agreement, metric)(table, *one)
    return found


def swept(options: argparse.Namespace) -> dict[str, Any]:
    """What the seeds of a task give."""
    task = glue.trained(options.task)
    names = [f"{where}/{metric}" for where in task.judged for metric in task.metrics]
    rows = []
    for seed in range(options.seeds):
        workdir = options.runs / options.task / str(seed)
        if status := loop.train(config(options, seed), workdir):
            raise SystemExit(status)
        rows.append({"seed": seed, **measured(workdir, names)})
        print(rows[-1], flush=True)
    facts = json.loads((workdir / "facts.json").read_text())
    # Folders by their names alone: where they lie is nobody else's affair.
    told = {"path": Path(options.path).name, "init": Path(options.init).name}
    told["knobs"] = options.knobs
    sizes = {"parameters": facts["parameters"], "records": facts["data"]["train_documents"]}
    return {"settings": told, **sizes, "rows": rows, "constant": constant(workdir, names)}


def report(found: dict[str, Any]) -> str:
    """The table, in Markdown, in per cent."""
    percent = lambda value: "" if value is None else f"{value:.1f}"
    lines = [
        "# GLUE, development sets",
        "",
        "See `question.md`. All numbers are in per cent; deviations are of the seeds.",
        "",
        "| task | metric | ours | seeds | constant | BERT-base, dev | BERT-base, test |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in (name for name in glue.TASKS if name in found):
        task, own = glue.TASKS[name], found[name]
        for metric, least in own["constant"].items():
            values = 100 * np.array([row[metric] for row in own["rows"]])
            spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
            told = metric.removeprefix("heldout/")
            lines.append(
                f"| {task.title} | {told} | {values.mean():.1f}{spread} | {len(values)} "
                f"| {percent(100 * least)} | {percent(task.published.get(metric))} "
                f"| {percent(task.server.get(metric))} |"
            )
    lines += ["", "| task | parameters | training examples | started from | knobs |"]
    lines += ["|---|---|---|---|---|"]
    for name in (name for name in glue.TASKS if name in found):
        own = found[name]
        start, knobs = own["settings"]["init"] or "nothing", own["settings"]["knobs"] or "none"
        lines.append(
            f"| {glue.TASKS[name].title} | {own['parameters']:,} | {own['records']:,} "
            f"| {start} | `{knobs}` |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--task", required=True, help=f"one of {', '.join(glue.TASKS)}")
    flags.add_argument("--path", default="", help="a folder with the task's files; TFDS if empty")
    flags.add_argument("--init", default="", help="a run or a Hugging Face directory")
    flags.add_argument("--seeds", type=int, default=5)
    flags.add_argument("--knobs", default="", help="of configs/finetune/glue.py, such as width=64")
    flags.add_argument("--runs", type=Path, default=Path("runs/glue"))
    flags.add_argument("--output", type=Path, default=HERE)
    options = flags.parse_args()
    path = options.output / "results.json"
    results = json.loads(path.read_text()) if path.is_file() else {"tasks": {}}
    results["versions"] = {"jax": jax.__version__}
    results["tasks"][options.task] = swept(options)
    log.write_text(path, json.dumps(results, indent=2) + "\n")
    log.write_text(options.output / "report.md", report(results["tasks"]))


if __name__ == "__main__":
    program(main)
