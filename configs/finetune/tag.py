"""The label of each word, such as its part of speech or entity: `classify` of every first subword.

    python -m lm_research train --config=configs/finetune/tag.py:heldout=dev.conllu \
        --config.init=BERT_DIRECTORY --config.data.source.paths=train.conllu --workdir=runs/upos
    python -m lm_research train --config=configs/finetune/tag.py:column=-1,heldout=eng.testa.txt \
        --config.data.source.paths=eng.train.txt --workdir=runs/entities
    python -m lm_research predict --checkpoint=runs/upos --text='They buy and sell books .'
    python -m lm_research evaluate --checkpoint=runs/upos --part=test

Files are CoNLL-U, whose columns have names (upos, xpos, deprel, ...), or have columns with spaces
or tabs between, told by number, -1 the last. Labels O, B-X and I-X are judged by F1 of entities,
others by the accuracy of words; beside it stands that of each word's most frequent label. Without
a knob `heldout`, a tenth of the sentences is held out. `test` names files that are judged at the
end of the run alone. With the knob `tfds`, a dataset's name, sentences are those of its `split`,
`column` and `words` (tokens) are its fields, and `heldout` and `test` are other splits:

    --config=configs/finetune/tag.py:tfds=conll2003,column=ner,heldout=dev,test=test

`init` is a Hugging Face directory or a run of ours; without it, a model of the knobs `family` and
`size`, or `width`, `layers` and `heads`, begins from nothing. `dropout` is that of the classifier
alone, and `trunk_dropout` of the trunk, where it is not to be that of its family. The other knobs
are those of `classify.py`.
"""

from pathlib import Path

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lm_research.commands.config_flag import dataset, loaded
from lm_research.config import parted

OWN = dict(heldout="", test="", tfds="", split="train", column="upos", words="", trunk_dropout=-1.0)
AT_THE_END = 10**9  # steps, which no run has


def get_config(arg: str = "") -> ConfigDict:
    """Knobs: heldout, test (files, or splits); tfds, split; column, words; trunk_dropout; others.

    The others are those of classify.
    """
    knob, rest = parted(arg, **OWN)
    config = loaded(f"{Path(__file__).with_name('classify.py')}:{rest}").to_dict(
        preserve_field_references=True
    )
    column = lambda name: int(name) if name.removeprefix("-").isdigit() else name
    columns = dict(column=column(knob.column), words=column(knob.words) if knob.words else None)

    def source(paths: object, split: str) -> dict:
        if knob.tfds:
            fields = dict(words=knob.words or "tokens", labels=knob.column)
            return dataset(knob.tfds, split, fields)
        return dict(kind="CoNLL", paths=paths, **columns)

    heldout = config["evals"]["heldout"]
    evaluator = dict(kind="WordScores", every=heldout["every"], batch=64, part="heldout")
    config["model"]["pool"] = "each"
    if knob.trunk_dropout >= 0:
        config["model"]["trunk"]["dropout"] = knob.trunk_dropout
    config["objective"] = dict(kind="Tag", length=config["objective"]["length"], smoothing=0.0)
    config["data"].update(
        kind="LabelledWords",
        source=source(placeholder(str), knob.split),
        heldout=source(knob.heldout, knob.heldout) if knob.heldout else 0.1,
        others=dict(test=source(knob.test, knob.test)) if knob.test else {},
    )
    config["evals"] = dict(heldout=evaluator)
    if knob.test:
        config["evals"]["test"] = dict(evaluator, every=AT_THE_END, part="test")
    config["checkpoint"]["best"] = "heldout/score"
    return ConfigDict(config)
