"""A vector of each text, near to those of texts that belong with it: for retrieval and similarity.

    python -m lm_research train --config=configs/finetune/embed.py:text=question,pair=answer \
        --config.init=BERT_DIRECTORY --config.data.source.paths=faq.tsv --workdir=runs/faq
    python -m lm_research search --checkpoint=runs/faq --index=answers.txt --query='Where is it?'
    python -m lm_research embed --checkpoint=runs/faq --input=texts.txt --output=vectors.npy

Tables are .tsv, .csv or .jsonl with two texts that belong together, and with the knob `negative` a
third that is near and wrong, in columns that the knobs name (or number, where files do not name
them). Every other pair of a batch is wrong for a text, so larger batches learn more. Without a knob
`heldout`, a tenth of the pairs is held out; the run keeps the parameters that retrieve best there.
With the knob `tfds`, a dataset's name, texts are those of its `split`, columns are its fields, and
`heldout` is another split.

Without a knob `pair`, texts are a line each of .txt files, or those of .jsonl, and each is its own
pair under another dropout (SimCSE; Gao et al., 2021). `scored` names folders of STS tasks, or files
of SICK or STS-B, with + between: Spearman's correlation with the first is told on the way, that
with the others at the end. A run without pairs keeps the parameters that are best by the first.

    --config=configs/finetune/embed.py:scored=glue/STS-B/sts-dev.csv+sts/STS12-en-test+sts/STS13-en-test

`init` is a Hugging Face directory or a run of ours, an encoder or a decoder. `dropout` is that of
the trunk, where it is not to be that of its family. The other knobs are those of `classify.py`.
"""

from pathlib import Path

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lm_research.commands.config_flag import dataset, loaded
from lm_research.config import parted
from lm_research.errors import UserError

OWN = dict(
    heldout="",
    tfds="",
    split="train",
    text="text",
    pair="",
    negative="",
    scored="",
    pool="mean",
    temperature=0.05,
    symmetric=False,
    dropout=-1.0,  # as the family has it
)
USUAL = "length=64,batch=64,peak=5e-5,epochs=3"
AT_THE_END = 10**9  # steps, which no run has


def get_config(arg: str = "") -> ConfigDict:
    """Knobs: heldout; tfds, split; text, pair, negative (columns); scored; pool; others."""
    knob, rest = parted(arg, **OWN)
    config = loaded(f"{Path(__file__).with_name('classify.py')}:{USUAL},{rest}").to_dict(
        preserve_field_references=True
    )
    if knob.negative and not knob.pair:
        raise UserError("the knob 'negative' is given and 'pair' is not; it takes both")
    columns = {
        name: int(column) if column.isdigit() and not knob.tfds else column
        for name in ("text", "pair", "negative")
        if (column := getattr(knob, name))
    }

    def source(paths: object, split: str) -> dict:
        if knob.tfds:
            return dataset(knob.tfds, split, columns)
        if not knob.pair:
            field = {} if knob.text.isdigit() else dict(field=knob.text)
            return dict(kind="TextFiles", paths=paths, separator="\n", **field)
        return dict(kind="Table", paths=paths, columns=columns)

    paths = [path for path in knob.scored.split("+") if path]
    scored = {Path(path).name.partition(".")[0]: path for path in paths}
    if len(scored) < len(paths):
        raise UserError(f"the knob 'scored' is {knob.scored!r}; it takes paths of different names")
    every, length = config["evals"]["heldout"]["every"], config["objective"]["length"]
    trunk = config["model"]["trunk"] | (dict(dropout=knob.dropout) if knob.dropout >= 0 else {})
    config["model"] = dict(kind="Embedder", trunk=trunk, pool=knob.pool, normalised=True)
    config["objective"] = dict(
        kind="Contrast", length=length, temperature=knob.temperature, symmetric=knob.symmetric
    )
    config["data"] = dict(
        kind="Related",
        source=source(placeholder(str), knob.split),
        heldout=source(knob.heldout, knob.heldout) if knob.heldout else 0.1,
        others={name: dict(kind="STS", paths=path) for name, path in scored.items()},
        tokenizer=config["data"]["tokenizer"],
    )
    config["evals"] = dict(heldout=dict(kind="Retrieval" if knob.pair else "HeldOut", every=every))
    for name in scored:
        often = every if name == next(iter(scored)) else AT_THE_END
        config["evals"][name] = dict(kind="Similarity", every=often, part=name, batch=64)
    best = "heldout/score" if knob.pair else None
    if scored and not knob.pair:
        best = f"{next(iter(scored))}/spearman"
    config["checkpoint"]["best"] = best
    if best is None:
        config["checkpoint"]["patience"] = None
    return ConfigDict(config)
