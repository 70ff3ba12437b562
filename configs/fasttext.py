"""fastText on labelled texts, the baseline that pretrained models have to beat.

    python -m lm_research train --config=configs/fasttext.py --workdir=runs/sentiment \
        --config.data.source.paths=train.tsv
    python -m lm_research train --config=configs/fasttext.py:heldout=dev.tsv,text=sentence \
        --config.data.source.paths=train.tsv --workdir=runs/sentiment
    python -m lm_research predict --checkpoint=runs/sentiment --input=new.txt --output=new.jsonl
    python -m lm_research convert --source=runs/sentiment --target=vectors

Tables are .tsv, .csv or .jsonl with a text and a label in columns that the knobs name (or number,
where files do not name them), or .txt as fastText's own. Without a knob `heldout`, a tenth of the
texts is held out.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lm_research.config import knobs


def get_config(arg: str = "") -> ConfigDict:
    """Knobs: text, label (columns); order, least and most (n-grams); width and others."""
    knob = knobs(
        arg,
        heldout="",
        text="text",
        label="label",
        width=32,
        order=2,
        least=0,  # of n-grams of characters; 0 has none
        most=5,
        buckets=2**18,
        length=128,
        batch=512,
        epochs=3.0,
        steps=0,  # in place of epochs
        peak=0.01,
        dropout=0.0,
        decay=0.0,
        epsilon=1e-4,  # so that rare n-grams, whose gradients are small, move little
        lowercase=True,
    )
    column = lambda name: int(name) if name.isdigit() else name
    columns = dict(text=column(knob.text), label=column(knob.label))
    heldout = dict(kind="Table", paths=knob.heldout, columns=columns) if knob.heldout else 0.1
    characters = (knob.least, knob.most) if knob.least else None
    often = lambda parts: max(1, knob.steps // parts) if knob.steps else 1 / parts
    size = dict(size=knob.batch, microbatches=1, steps_per_dispatch=10)
    return ConfigDict(
        dict(
            model=dict(
                kind="FastText",
                vocab=placeholder(int),
                width=knob.width,
                dropout=knob.dropout,
            ),
            objective=dict(kind="Classify", length=knob.length, smoothing=0.0),
            data=dict(
                kind="Labelled",
                source=dict(kind="Table", paths=placeholder(str), columns=columns),
                heldout=heldout,
                classes=placeholder(tuple),
                tokenizer=dict(
                    kind="Words",
                    least=1,
                    most=placeholder(int),
                    lowercase=knob.lowercase,
                    order=knob.order,
                    characters=characters,
                    buckets=knob.buckets,
                ),
            ),
            weights=dict(kind="Full"),
            optimizer=dict(
                kind="AdamW",
                peak=knob.peak,
                warmup=0,
                shape="linear",
                decay=knob.decay,
                epsilon=knob.epsilon,
                b2=0.999,
                clip=None,
            ),
            evals=dict(heldout=dict(kind="HeldOut", every=often(10))),
            mesh=dict(data=-1, fsdp=1, tensor=1),
            seed=0,
            steps=knob.steps or placeholder(int),
            batch=size if knob.steps else dict(size, epochs=knob.epochs),
            init=placeholder(str),
            resume="same",
            checkpoint=dict(every=often(2), keep=1),
            log=dict(every=10, tensorboard=True, samples=dict(every=0)),
        )
    )
