"""A task of GLUE: `classify` with the task's own data, labels and metrics.

    python -m lm_research train --config=configs/finetune/glue.py:task=cola,path=glue/CoLA \
        --config.init=BERT_DIRECTORY --workdir=runs/cola
    python -m lm_research predict --checkpoint=runs/cola --glue=cola --input=glue/CoLA \
        --output=submission
    python -m lm_research train --config=configs/finetune/glue.py:task=stsb --workdir=runs/stsb

The path is a folder with the task's official files: train.tsv, dev.tsv, dev_matched.tsv and so on.
Without one, TFDS brings the data. Other files and columns are read when the knobs name them:

    --config=configs/finetune/glue.py:task=stsb,path=STS,train=a.csv,dev=b.csv,text=5,pair=6,label=4

The other knobs are those of `classify.py`. Batch, epochs and rate are those of the published runs
(`lm_research/data/glue.py`).
"""

from pathlib import Path

from ml_collections import ConfigDict

from lm_research.commands.config_flag import loaded
from lm_research.config import parted
from lm_research.data import glue

OWN = dict(task="cola", path="", train="train.tsv", dev="", text="", pair="", label="")
PUBLISHED = "batch=32,peak=2e-5,epochs=3"


def get_config(arg: str = "") -> ConfigDict:
    """Knobs: task; path, train, dev (files); text, pair, label (columns); those of classify."""
    knob, rest = parted(arg, "tfds", "split", **OWN)
    task = glue.trained(knob.task)
    config = loaded(f"{Path(__file__).with_name('classify.py')}:{PUBLISHED},{rest}").to_dict(
        preserve_field_references=True
    )
    columns = {
        name: int(column) if column.isdigit() else column
        for name in ("text", "pair", "label")
        if (column := getattr(knob, name))
    }

    def source(file: str, split: str) -> dict:
        return glue.labelled(knob.task, file, split, knob.path, **columns)

    parts = {
        name: source(knob.dev if knob.dev and name == "heldout" else file, split)
        for name, (file, split) in task.judged.items()
    }
    heldout = config["evals"]["heldout"]
    evaluator = dict(kind="Scores", every=heldout["every"], batch=64, metrics=task.metrics)
    config["data"].update(
        source=source(knob.train, "train"),
        heldout=parts.pop("heldout"),
        others=parts,
        classes=task.labels or None,
        numeric=task.numeric,
    )
    if task.numeric:
        config["objective"] = dict(kind="Regress", length=config["objective"]["length"])
    config["evals"] = {
        name: dict(evaluator, part=name) for name in ("heldout", *config["data"]["others"])
    }
    config["checkpoint"]["best"] = "heldout/score"
    return ConfigDict(config)
