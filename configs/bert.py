"""BERT or one of its kind by its size, on hidden tokens of Wikipedia, of texts or of Python's.

    python -m lm_research train --config=configs/bert.py --workdir=runs/bert
    python -m lm_research train --config=configs/bert.py:size=mini,unit=span --workdir=runs/spans
    python -m lm_research train --config=configs/bert.py:source=text,size=tiny,steps=2000,batch=32 \
        --workdir=runs/tiny
    python -m lm_research train --config=configs/bert.py:source=text,pairs=next --config.init=BERT \
        --config.data.source.paths=my.txt --workdir=runs/mine
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lm_research.config import knobs, known
from lm_research.models import albert, bert, distilbert, modernbert, roberta

FAMILIES = {
    "albert": ("ALBERT", albert.SIZES),
    "bert": ("BERT", bert.SIZES),
    "distilbert": ("DistilBERT", distilbert.SIZES),
    "modernbert": ("ModernBERT", modernbert.SIZES),
    "roberta": ("RoBERTa", roberta.SIZES),
}
PAIRS = {"none": "Masked", "next": "NextSentence", "order": "SentenceOrder"}
SOURCES = {
    "tfds": dict(
        kind="TFDS", name="wikipedia/20230601.en", split="train", data_dir=placeholder(str)
    ),
    "text": dict(kind="Documents", paths=placeholder(str)),
}


def get_config(arg: str = "") -> ConfigDict:
    """Knobs: family, size; width, layers, heads (0: the size's); the objective's; and others."""
    knob = knobs(
        arg,
        family="bert",
        size="base",
        width=0,
        layers=0,
        heads=0,
        pairs="none",
        rate=0.15,
        unit="token",
        masks="dynamic",
        length=128,
        batch=256,
        microbatches=1,
        steps=100_000,
        peak=1e-4,
        vocab=30_522,
        source="tfds",
        dropout=0.1,
        dtype="bfloat16",
    )
    known(knob.family, FAMILIES, "family")
    known(knob.pairs, PAIRS, "kind of pairs")
    known(knob.source, SOURCES, "source")
    kind, sizes = FAMILIES[knob.family]
    known(knob.size, sizes, f"size of {kind}")
    width, layers, heads, *hidden = sizes[knob.size]
    own = {} if knob.pairs == "none" else {"pair": True}
    if hidden:
        own["hidden"] = knob.width * 3 // 2 or hidden[0]
    if kind != "ModernBERT":  # whose positions have no end
        own["context"] = max(512, knob.length)
    return ConfigDict(
        dict(
            model=dict(
                kind=kind,
                vocab=placeholder(int),
                width=knob.width or width,
                layers=knob.layers or layers,
                heads=knob.heads or heads,
                dropout=knob.dropout,
                attention_dropout=knob.dropout,
                dtype=knob.dtype,
                execution="auto",
                remat="none",
                **own,
            ),
            objective=dict(
                kind=PAIRS[knob.pairs],
                length=knob.length,
                rate=knob.rate,
                unit=knob.unit,
                masks=knob.masks,
                framed=True,
            ),
            data=dict(
                kind="Packed",
                source=SOURCES[knob.source],
                tokenizer=dict(kind="BPE", vocab=knob.vocab, roles=("mask", "cls", "sep")),
                heldout=0.0005 if knob.source == "tfds" else 0.05,
                documents="joined",
            ),
            weights=dict(kind="Full"),
            optimizer=dict(
                kind="AdamW",
                peak=knob.peak,
                warmup=knob.steps // 20,
                shape="linear",
                decay=0.01,
                b2=0.999,
                clip=1.0,
            ),
            evals=dict(
                heldout=dict(
                    kind="HeldOut", every=max(1, knob.steps // 20), batches=placeholder(int)
                )
            ),
            mesh=dict(data=-1, fsdp=1, tensor=1),
            seed=0,
            steps=knob.steps,
            batch=dict(size=knob.batch, microbatches=knob.microbatches, steps_per_dispatch=1),
            init=placeholder(str),
            resume="same",
            checkpoint=dict(
                every=max(1, knob.steps // 20),
                minutes=placeholder(float),
                keep=3,
                keep_every=placeholder(int),
            ),
            log=dict(every=10, tensorboard=True, samples=dict(every=0)),
        )
    )
