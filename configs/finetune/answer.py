"""The answer to a question, as a part of a context: `classify` of every token as start and end.

    python -m lm_research train --config=configs/finetune/answer.py:heldout=dev-v2.0.json \
        --config.init=BERT_DIRECTORY --config.data.source.paths=train-v2.0.json --workdir=runs/squad
    python -m lm_research predict --checkpoint=runs/squad --text='Who sat on the mat?' \
        --pair='The cat sat on the mat, and the dog did not.'
    python -m lm_research predict --checkpoint=runs/squad --input=dev-v2.0.json --output=told.json

Files are SQuAD's JSON, of version 1.1 or 2.0. Contexts that are longer than `length` are read in
windows, which begin `stride` tokens after each other. Without a knob `heldout`, a tenth of the
contexts is held out. Exact match and F1 are the official ones; of 2.0, a question is taken to have
no answer where that is likelier. With the knob `tfds`, a dataset's name, questions are those of
its `split`, and `heldout` is another split:

    --config=configs/finetune/answer.py:tfds=squad/v2.0,heldout=validation

`init` is a Hugging Face directory or a run of ours; without it, a model of the knobs `family` and
`size`, or `width`, `layers` and `heads`, begins from nothing. The other knobs are those of
`classify.py`; batch, epochs and rate are BERT's on SQuAD (Devlin et al., 2019, appendix A.3).
"""

from pathlib import Path

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lm_research.commands.config_flag import dataset, loaded
from lm_research.config import parted

OWN = dict(heldout="", tfds="", split="train", question=64, stride=128, longest=30)
PUBLISHED = "length=384,batch=32,peak=5e-5,epochs=3"


def get_config(arg: str = "") -> ConfigDict:
    """Knobs: heldout (files, or a split); tfds, split; question, stride, longest (tokens); others.

    The others are those of classify.
    """
    knob, rest = parted(arg, **OWN)
    config = loaded(f"{Path(__file__).with_name('classify.py')}:{PUBLISHED},{rest}").to_dict(
        preserve_field_references=True
    )

    def source(paths: object, split: str) -> dict:
        if knob.tfds:
            return dataset(knob.tfds, split, "all")
        return dict(kind="SQuAD", paths=paths)

    config["model"]["pool"] = "each"
    config["objective"] = dict(kind="Span", length=config["objective"]["length"])
    config["data"].update(
        kind="Questions",
        source=source(placeholder(str), knob.split),
        heldout=source(knob.heldout, knob.heldout) if knob.heldout else 0.1,
        question=knob.question,
        stride=knob.stride,
    )
    del config["data"]["classes"]
    config["evals"]["heldout"].update(kind="AnswerScores", longest=knob.longest)
    config["checkpoint"]["best"] = "heldout/f1"
    return ConfigDict(config)
