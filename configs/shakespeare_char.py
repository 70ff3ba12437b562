"""nanoGPT's character-level Shakespeare, its CPU run or its GPU run, on the file that you give.

    python -m lm_research train --config=configs/shakespeare_char.py \
        --config.data.source.paths=input.txt --workdir=runs/char
    python -m lm_research train --config=configs/shakespeare_char.py:run=gpu \
        --config.data.source.paths=input.txt --workdir=runs/char_gpu
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lm_research.config import knobs, known

RUNS = {  # layers, heads, width, length, batch, steps, dropout, b2
    "cpu": (4, 4, 128, 64, 12, 2_000, 0.0, 0.99),
    "gpu": (6, 6, 384, 256, 64, 5_000, 0.2, 0.99),
}


def get_config(arg: str = "") -> ConfigDict:
    """Knobs: run (cpu, gpu); width, layers, length, batch, steps (0: its own); dtype, dispatch."""
    knob = knobs(
        arg, run="cpu", width=0, layers=0, length=0, batch=0, steps=0, dtype="float32", dispatch=10
    )
    known(knob.run, RUNS, "run")
    layers, heads, width, length, batch, steps, dropout, b2 = RUNS[knob.run]
    length, steps = knob.length or length, knob.steps or steps
    return ConfigDict(
        dict(
            model=dict(
                kind="GPT2",
                vocab=placeholder(int),
                width=knob.width or width,
                layers=knob.layers or layers,
                heads=heads,
                context=length,
                bias=False,
                activation="gelu",
                dropout=dropout,
                dtype=knob.dtype,
                remat="none",
            ),
            objective=dict(kind="Causal", length=length),
            data=dict(
                kind="Packed",
                source=dict(kind="Documents", paths=placeholder(str)),
                tokenizer=dict(kind="Characters"),
                heldout=0.1,
                split="tail",
                documents="joined",
            ),
            weights=dict(kind="Full"),
            optimizer=dict(
                kind="AdamW",
                peak=1e-3,
                warmup=100,
                final=0.1,
                b2=b2,
                decay=0.1,
                clip=1.0,
                skip="norm|bias",
            ),
            evals=dict(heldout=dict(kind="HeldOut", every=max(1, steps // 8))),
            mesh=dict(data=-1, fsdp=1, tensor=1),
            seed=1337,
            steps=steps,
            batch=dict(size=knob.batch or batch, microbatches=1, steps_per_dispatch=knob.dispatch),
            init=placeholder(str),
            resume="same",
            checkpoint=dict(every=max(1, steps // 4), keep=2),
            log=dict(
                every=10,
                tensorboard=True,
                # A new text begins with a line's end, and then fills the context.
                samples=dict(every=max(1, steps // 2), length=length - 1),
            ),
        )
    )
