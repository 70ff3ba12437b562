"""A small modern decoder on the documentation that Python carries, or on your own text.

    python -m lm_research train --config=configs/quickstart.py --workdir=runs/quickstart
    python -m lm_research train --config=configs/quickstart.py \
        --config.data.source.paths=my.txt --workdir=runs/mine
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lm_research.config import knobs


def get_config(arg: str = "") -> ConfigDict:
    """Knobs: vocab, width, layers, length, batch, steps."""
    knob = knobs(arg, vocab=2048, width=128, layers=4, length=256, batch=16, steps=500)
    return ConfigDict(
        dict(
            model=dict(
                kind="Llama",
                vocab=placeholder(int),
                width=knob.width,
                layers=knob.layers,
                heads=max(1, knob.width // 64),
                head_norms=True,
                tied=True,
                dtype="bfloat16",
                remat="none",
            ),
            objective=dict(kind="Causal", length=knob.length),
            data=dict(
                kind="Packed",
                source=dict(kind="Documents", paths=placeholder(str)),
                tokenizer=dict(kind="BPE", vocab=knob.vocab),
                heldout=0.05,
            ),
            weights=dict(kind="Full"),
            optimizer=dict(
                kind="Muon",
                peak=1e-2,
                warmup=knob.steps // 20,
                shape="wsd",
                cooldown=0.5,
                final=0.0,
            ),
            evals=dict(heldout=dict(kind="HeldOut", every=max(1, knob.steps // 4))),
            mesh=dict(data=-1, fsdp=1, tensor=1),
            seed=0,
            steps=knob.steps,
            batch=dict(size=knob.batch, microbatches=1, steps_per_dispatch=1),
            init=placeholder(str),
            resume="same",
            checkpoint=dict(every=max(1, knob.steps // 4), keep=2),
            log=dict(
                every=5,
                tensorboard=True,
                samples=dict(every=max(1, knob.steps // 2), prompts=("", "Return the"), length=60),
            ),
        )
    )
