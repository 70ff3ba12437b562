"""Which of several choices answers a question: `classify` of each choice after the question.

    python -m lm_research train --config=configs/finetune/choose.py:heldout=validation.csv \
        --config.init=BERT_DIRECTORY --config.data.source.paths=train.csv --workdir=runs/arc
    python -m lm_research train --config=configs/finetune/choose.py:tfds=ai2_arc/ARC-Easy \
        --workdir=runs/arc
    python -m lm_research predict --checkpoint=runs/arc --text='Which of these is a mammal?' \
        --choice='a whale' --choice='a shark' --choice='a trout'
    python -m lm_research evaluate --checkpoint=GPT2_DIRECTORY --choices=validation.csv

Files are .csv or .jsonl as ARC, PIQA and your own have them (see `MultipleChoice`), questions need
not have as many choices as others. With `flawed=true` rows that are no such questions are left out.
Without a knob `heldout`, a tenth of the questions is held out; `test` names files that are judged
beside it. The last line asks a language model that has learned no such thing.

`init` is a Hugging Face directory or a run of ours; without it, a model of the knobs `family` and
`size`, or `width`, `layers` and `heads`, begins from nothing. The other knobs are those of
`classify.py`. `convert` writes an encoder as `...ForMultipleChoice`.
"""

from pathlib import Path

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lm_research.commands.config_flag import dataset, loaded
from lm_research.config import parted

OWN = dict(heldout="", test="", flawed=False, tfds="")


def get_config(arg: str = "") -> ConfigDict:
    """Knobs: heldout, test (files), flawed; tfds (a dataset's name); those of classify."""
    knob, rest = parted(arg, "split", **OWN)
    config = loaded(f"{Path(__file__).with_name('classify.py')}:{rest}").to_dict(
        preserve_field_references=True
    )
    flawed = "leave out" if knob.flawed else "refuse"

    def source(paths, split: str) -> dict:
        if knob.tfds:
            return dataset(knob.tfds, split, "all")
        return dict(kind="MultipleChoice", paths=paths, flawed=flawed)

    given = knob.heldout or knob.tfds
    config["objective"] = dict(kind="Choose", length=config["objective"]["length"])
    del config["data"]["classes"]
    config["data"].update(
        kind="Choices",
        source=source(placeholder(str), "train"),
        heldout=source(knob.heldout, "validation") if given else 0.1,
        others=dict(test=source(knob.test, "test")) if knob.test else {},
    )
    evaluator = config["evals"]["heldout"]
    if knob.test:
        config["evals"]["test"] = dict(evaluator, part="test")
    return ConfigDict(config)
