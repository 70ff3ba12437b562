"""Texts that say given facts: WebNLG's triples, or product descriptions from attributes.

    python -m lm_research train --workdir=runs/facts --config.init=T5_DIRECTORY \
        --config=configs/finetune/data_to_text.py:corpus=webnlg_v1.6.tar.gz,language=en
    python -m lm_research train --config=configs/finetune/data_to_text.py --workdir=runs/products \
        --config.data.source.source.paths=products.jsonl
    python -m lm_research generate --checkpoint=runs/facts --beams=5 \
        --prompt='Aarhus Airport | city served | Aarhus && Aarhus | leader name | Jacob Bundsgaard'

`corpus` is WebNLG as it is published, whose train and dev parts are used, each text of an entry
learned from and all of them counting as references. Other facts come as `Pairs` reads them, each
line's `source` written as above or in any other way that is always the same; a tenth is held out.
`init` is a Hugging Face directory or a run of ours; without it, a small T5 begins from nothing. The
run keeps the parameters whose texts have the best BLEU.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lm_research.config import knobs


def get_config(arg: str = "") -> ConfigDict:
    """Knobs: corpus, language; length; epochs, peak; width, layers; others."""
    knob = knobs(
        arg,
        corpus="",
        language="en",
        length=128,
        epochs=20.0,
        batch=16,
        peak=1e-3,
        warmup=0.1,
        smoothing=0.1,
        dropout=0.1,
        width=256,
        layers=3,
        vocab=6000,
        evaluations=0.5,  # in an epoch
        limit=200,
        patience=5,
        dtype="float32",
    )
    part = lambda name: dict(
        kind="WebNLG", paths=knob.corpus, names=f"*/{knob.language}/{name}/*.xml"
    )
    source = part("train") if knob.corpus else dict(kind="Pairs", paths=placeholder(str))
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
                hidden=2 * knob.width,
                dropout=knob.dropout,
                dtype=knob.dtype,
            ),
            objective=dict(kind="Seq2Seq", length=knob.length, smoothing=knob.smoothing),
            data=dict(
                kind="Parallel",
                source=dict(kind="EachTarget", source=source),
                heldout=part("dev") if knob.corpus else 0.1,
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
                b2=0.98,
                decay=0.01,
                clip=1.0,
            ),
            evals=dict(
                heldout=dict(kind="HeldOut", every=often),
                written=dict(kind="Generation", every=often, limit=knob.limit),
            ),
            mesh=dict(data=-1, fsdp=1, tensor=1),
            seed=0,
            steps=placeholder(int),
            batch=dict(size=knob.batch, microbatches=1, steps_per_dispatch=1, epochs=knob.epochs),
            init=placeholder(str),
            resume="same",
            checkpoint=dict(
                every=often, keep=1, best="written/bleu", better="higher", patience=knob.patience
            ),
            log=dict(every=10, tensorboard=True, samples=dict(every=0)),
        )
    )
