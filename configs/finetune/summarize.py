"""Summaries: a pretrained T5 or BART learns to write the short text that belongs to a long one.

    python -m lm_research train --config=configs/finetune/summarize.py:heldout=dev.jsonl \
        --config.init=T5_DIRECTORY --config.data.source.source.paths=train.jsonl --workdir=runs/tldr
    python -m lm_research evaluate --checkpoint=runs/tldr --paths=test.jsonl --metrics=rouge
    python -m lm_research generate --checkpoint=runs/tldr --input=articles.txt --output=tldrs.txt \
        --beams=4 --length_penalty=0.8

Files are as `Pairs` reads them, .jsonl with `source` and `target` among them (SciTLDR): a source
may be a list of sentences, a target a list of summaries, each of which is learned from and any of
which counts when texts are judged. `init` is a Hugging Face directory or a run of ours
(configs/t5.py on text at hand); without it, a small T5 begins from nothing. Without a knob
`heldout`, a tenth is held out. With the knob `tfds`, a dataset's name, texts are those of its
`split`, in the fields `source` and `target`, and `heldout` is another split:

    --config=configs/finetune/summarize.py:tfds=cnn_dailymail,source=article,target=highlights

The run keeps the parameters whose summaries have the best ROUGE-L.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lm_research.commands.config_flag import dataset
from lm_research.config import knobs


def get_config(arg: str = "") -> ConfigDict:
    """Knobs: heldout; tfds, split, source, target; length, new (tokens; 0 is length); others."""
    knob = knobs(
        arg,
        heldout="",
        tfds="",
        split="train",
        source="source",
        target="target",
        length=512,
        new=64,
        epochs=10.0,
        batch=8,
        peak=3e-4,
        warmup=0.1,
        smoothing=0.1,
        dropout=0.1,
        width=256,
        layers=4,
        vocab=8192,
        evaluations=1.0,  # in an epoch
        limit=200,
        patience=5,
        dtype="float32",
    )

    def source(paths: object, split: str) -> dict:
        if knob.tfds:
            fields = dict(source=knob.source, target=knob.target)
            return dataset(knob.tfds, split, fields)
        return dict(kind="Pairs", paths=paths, fields=(knob.source, knob.target))

    heldout = source(knob.heldout, knob.heldout) if knob.heldout else 0.1
    often = min(0.999, 1 / (knob.evaluations * knob.epochs))  # a share of the run
    return ConfigDict(
        dict(
            model=dict(
                kind="T5",
                vocab=placeholder(int),
                width=knob.width,
                layers=knob.layers,
                heads=max(1, knob.width // 64),
                head=min(64, knob.width),
                hidden=4 * knob.width,
                dropout=knob.dropout,
                dtype=knob.dtype,
                remat="none",
            ),
            objective=dict(kind="Seq2Seq", length=knob.length, smoothing=knob.smoothing),
            data=dict(
                kind="Parallel",
                source=dict(kind="EachTarget", source=source(placeholder(str), knob.split)),
                heldout=heldout,
                tokenizer=dict(kind="BPE", vocab=knob.vocab),
                packed=True,
            ),
            weights=dict(kind="Full"),
            optimizer=dict(
                kind="AdamW",
                peak=knob.peak,
                warmup=knob.warmup,
                shape="linear",
                final=0.0,
                b2=0.999,
                decay=0.01,
                clip=1.0,
                skip="norm|bias",  # what decays and how warm-up begins is as in `transformers`
                first="zero",
            ),
            evals=dict(
                heldout=dict(kind="HeldOut", every=often),
                written=dict(
                    kind="Generation",
                    every=often,
                    limit=knob.limit,
                    length=knob.new or placeholder(int),
                    metrics=["rouge"],
                ),
            ),
            mesh=dict(data=-1, fsdp=1, tensor=1),
            seed=0,
            steps=placeholder(int),
            batch=dict(size=knob.batch, microbatches=1, steps_per_dispatch=1, epochs=knob.epochs),
            init=placeholder(str),
            resume="same",
            checkpoint=dict(
                every=often,
                keep=1,
                best="written/rougeL",
                better="higher",
                patience=knob.patience,
            ),
            log=dict(every=10, tensorboard=True, samples=dict(every=0)),
        )
    )
