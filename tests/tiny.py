"""The smallest run that does everything: a config for tests that train.

python -m lm_research train --config=tests/tiny.py --config.data.source.paths=my.txt --workdir=run
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lm_research.config import knobs


def get_config(arg: str = "") -> ConfigDict:
    """Knobs: steps, every (of evaluations, samples and checkpoints), dispatch, dropout."""
    knob = knobs(arg, steps=12, every=4, dispatch=1, dropout=0.0)
    return ConfigDict(
        dict(
            model=dict(
                kind="GPT2",
                vocab=placeholder(int),
                width=16,
                layers=1,
                heads=2,
                context=16,
                dropout=knob.dropout,
            ),
            objective=dict(kind="Causal", length=16),
            data=dict(
                kind="Packed",
                source=dict(kind="Documents", paths=placeholder(str)),
                tokenizer=dict(kind="Bytes"),
                heldout=0.1,
            ),
            weights=dict(kind="Full"),
            optimizer=dict(kind="AdamW", peak=1e-2, warmup=2),
            evals=dict(heldout=dict(kind="HeldOut", every=knob.every, batches=2)),
            mesh=dict(data=-1, fsdp=1, tensor=1),
            seed=0,
            steps=knob.steps,
            batch=dict(size=8, microbatches=1, steps_per_dispatch=knob.dispatch),
            init=placeholder(str),
            resume="same",
            checkpoint=dict(
                every=knob.every, minutes=placeholder(float), keep=3, keep_every=placeholder(int)
            ),
            log=dict(every=1, tensorboard=False, samples=dict(every=knob.every, length=4)),
        )
    )
