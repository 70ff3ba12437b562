"""T5 1.1 of a size by name, on text whose spans are cut out, or on pairs of texts.

    python -m lm_research train --config=configs/t5.py --workdir=runs/t5
    python -m lm_research train --config=configs/t5.py:objective=denoisers --workdir=runs/ul2
    python -m lm_research train --config=configs/t5.py:objective=seq2seq \
        --config.data.source.paths=train.en,train.de --config.init=runs/t5 --workdir=runs/translate
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lm_research.config import knobs, known
from lm_research.models.t5 import FIRST_SIZES, SIZES

OBJECTIVES = {"spans": "SpanCorruption", "denoisers": "Denoisers", "seq2seq": "Seq2Seq"}
VERSIONS = {"1.1": SIZES, "1.0": FIRST_SIZES}


def get_config(arg: str = "") -> ConfigDict:
    """Knobs: size, version (1.1, 1.0), objective, vocab; width, layers (0: the size's); others."""
    knob = knobs(
        arg,
        size="small",
        version="1.1",
        objective="spans",
        vocab=32_000,
        width=0,
        layers=0,
        length=568,
        batch=128,
        microbatches=1,
        steps=100_000,
        peak=1e-2,
        dtype="bfloat16",
    )
    known(knob.version, VERSIONS, "version of T5")
    known(knob.size, VERSIONS[knob.version], f"size of T5 {knob.version}")
    known(knob.objective, OBJECTIVES, "objective of T5")
    width, layers, heads, head, hidden = VERSIONS[knob.version][knob.size]
    first = knob.version == "1.0"
    tokenizer = dict(kind="BPE", vocab=knob.vocab, roles=("pad",), sentinels=100)
    if knob.objective == "seq2seq":
        source = dict(kind="Pairs", paths=placeholder(str))
        data = dict(kind="Parallel", source=source, tokenizer=tokenizer, heldout=0.01)
    else:
        source = dict(kind="Documents", paths=placeholder(str))
        data = dict(
            kind="Packed", source=source, tokenizer=tokenizer, heldout=0.05, documents="joined"
        )
    return ConfigDict(
        dict(
            model=dict(
                kind="T5",
                vocab=placeholder(int),
                width=knob.width or width,
                layers=knob.layers or layers,
                heads=heads,
                head=head,
                hidden=hidden if not knob.width else 4 * knob.width,
                activation="relu" if first else "gelu_tanh",
                gated=not first,
                tied=first,
                start=1,  # the tokenizer's pad
                dtype=knob.dtype,
                remat="none",
            ),
            objective=dict(kind=OBJECTIVES[knob.objective], length=knob.length),
            data=data,
            weights=dict(kind="Full"),
            optimizer=dict(
                kind="Adafactor", peak=knob.peak, warmup=knob.steps // 50, shape="rsqrt"
            ),
            evals=dict(heldout=dict(kind="HeldOut", every=max(1, knob.steps // 20))),
            mesh=dict(data=-1, fsdp=1, tensor=1),
            seed=0,
            steps=knob.steps,
            batch=dict(size=knob.batch, microbatches=knob.microbatches, steps_per_dispatch=1),
            init=placeholder(str),
            resume="same",
            checkpoint=dict(every=max(1, knob.steps // 20), keep=3),
            log=dict(every=10, tensorboard=True, samples=dict(every=0, length=30)),
        )
    )
