"""Mamba-2, or a hybrid of it with attention, on the documentation of Python or your own text.

    python -m lm_research train --config=configs/mamba2.py --workdir=runs/mamba2
    python -m lm_research train --config=configs/mamba2.py:every=4 --workdir=runs/hybrid
    python -m lm_research train --config=configs/mamba2.py:size=130m,steps=100000 \
        --config.data.source.paths=my.txt --workdir=runs/mine
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lm_research.config import knobs, known
from lm_research.models.mamba2 import SIZES

TINY = {"tiny": (128, 4)}


def get_config(arg: str = "") -> ConfigDict:
    """Knobs: size; every (n: one block of n attends); others, where 0 is the size's own."""
    knob = knobs(
        arg,
        size="tiny",
        every=0,
        width=0,
        layers=0,
        vocab=0,
        length=0,
        batch=0,
        steps=1000,
        peak=0.0,
        dtype="bfloat16",
    )
    known(knob.size, SIZES | TINY, "size of Mamba-2")
    small = knob.size in TINY
    width, layers = (SIZES | TINY)[knob.size]
    width = knob.width or width
    shape = dict(
        vocab=placeholder(int),
        width=width,
        layers=knob.layers or layers,
        head=min(64, width),
        state=32 if small else 128,
        chunk=64 if small else 256,
        tied=True,
        dtype=knob.dtype,
        remat="none",
    )
    hybrid = dict(kind="Hybrid", heads=max(1, width // 64), every=knob.every)
    return ConfigDict(
        dict(
            model=shape | (hybrid if knob.every else dict(kind="Mamba2")),
            objective=dict(kind="Causal", length=knob.length or (256 if small else 2048)),
            data=dict(
                kind="Packed",
                source=dict(kind="Documents", paths=placeholder(str)),
                tokenizer=dict(kind="BPE", vocab=knob.vocab or (2048 if small else 50_277)),
                heldout=0.05,
            ),
            weights=dict(kind="Full"),
            optimizer=dict(
                kind="AdamW",
                peak=knob.peak or (3e-3 if small else 6e-4),
                warmup=knob.steps // 20,
                decay=0.1,
                skip=r"norm|bias|embedding|position|log_decay|skip",
            ),
            evals=dict(heldout=dict(kind="HeldOut", every=max(1, knob.steps // 10))),
            mesh=dict(data=-1, fsdp=1, tensor=1),
            seed=0,
            steps=knob.steps,
            batch=dict(size=knob.batch or (16 if small else 256), microbatches=1),
            init=placeholder(str),
            resume="same",
            checkpoint=dict(every=max(1, knob.steps // 10), keep=2),
            log=dict(
                every=10,
                tensorboard=True,
                samples=dict(every=max(1, knob.steps // 2), prompts=("", "Return the"), length=60),
            ),
        )
    )
