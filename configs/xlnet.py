"""XLNet from scratch on the documentation that Python carries, or on your own text.

    python -m lm_research train --config=configs/xlnet.py --workdir=runs/xlnet
    python -m lm_research train --config=configs/xlnet.py:size=base,steps=100000 \
        --config.data.source.paths=my.txt --workdir=runs/base
    python -m lm_research train --config=configs/xlnet.py:size=base,steps=2000 \
        --config.init=XLNET_DIRECTORY --config.data.source.paths=my.txt --workdir=runs/mine
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lm_research.config import knobs, known
from lm_research.models.xlnet import SIZES

TINY = {"tiny": (128, 4, 2)}


def get_config(arg: str = "") -> ConfigDict:
    """Knobs: size; width, layers, heads, vocab, length, batch, peak (0: its own); steps, dtype."""
    knob = knobs(
        arg,
        size="tiny",
        width=0,
        layers=0,
        heads=0,
        vocab=0,
        length=0,
        batch=0,
        steps=2000,
        peak=0.0,
        dtype="bfloat16",
    )
    known(knob.size, SIZES | TINY, "size of XLNet")
    small = knob.size in TINY
    width, layers, heads = (SIZES | TINY)[knob.size]
    return ConfigDict(
        dict(
            model=dict(
                kind="XLNet",
                vocab=placeholder(int),
                width=knob.width or width,
                layers=knob.layers or layers,
                heads=knob.heads or heads,
                dropout=0.0 if small else 0.1,
                dtype=knob.dtype,
                remat="none",
            ),
            objective=dict(kind="Permutation", length=knob.length or (128 if small else 512)),
            data=dict(
                kind="Packed",
                source=dict(kind="Documents", paths=placeholder(str)),
                tokenizer=dict(kind="BPE", vocab=knob.vocab or (2048 if small else 32_000)),
                heldout=0.05,
            ),
            weights=dict(kind="Full"),
            optimizer=dict(
                kind="AdamW",
                peak=knob.peak or (2e-3 if small else 1e-4),
                warmup=knob.steps // 20,
                decay=0.01,
            ),
            evals=dict(heldout=dict(kind="HeldOut", every=max(1, knob.steps // 10))),
            mesh=dict(data=-1, fsdp=1, tensor=1),
            seed=0,
            steps=knob.steps,
            batch=dict(size=knob.batch or (32 if small else 256), microbatches=1),
            init=placeholder(str),
            resume="same",
            checkpoint=dict(every=max(1, knob.steps // 10), keep=2),
            log=dict(
                every=10,
                tensorboard=True,
                samples=dict(every=max(1, knob.steps // 2), prompts=("Return the",), length=60),
            ),
        )
    )
