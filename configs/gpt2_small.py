"""GPT-2 small or a sister, on OpenWebText or on text files, from scratch or a checkpoint.

    python -m lm_research train --config=configs/gpt2_small.py --workdir=runs/gpt2
    python -m lm_research train --config=configs/gpt2_small.py:size=medium --workdir=runs/medium
    python -m lm_research train --config=configs/gpt2_small.py:source=text,steps=500 \
        --config.init=GPT2_DIRECTORY --config.data.source.paths=my.txt \
        --config.checkpoint.every=100 --config.checkpoint.keep=3 --workdir=runs/mine
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lm_research.config import knobs, known
from lm_research.models.gpt2 import SIZES

SOURCES = {
    "tfds": dict(kind="TFDS", name="openwebtext", split="train", data_dir=placeholder(str)),
    "text": dict(kind="Documents", paths=placeholder(str)),
}


def get_config(arg: str = "") -> ConfigDict:
    """Knobs: size; width, layers, heads (0: the size's); length, batch, steps, source, others."""
    knob = knobs(
        arg,
        size="small",
        width=0,
        layers=0,
        heads=0,
        length=1024,
        batch=480,
        microbatches=1,
        steps=20_000,
        peak=6e-4,
        source="tfds",
        dtype="bfloat16",
    )
    known(knob.size, SIZES, "size of GPT-2")
    known(knob.source, SOURCES, "source")
    width, layers, heads = SIZES[knob.size]
    return ConfigDict(
        dict(
            model=dict(
                kind="GPT2",
                vocab=placeholder(int),
                width=knob.width or width,
                layers=knob.layers or layers,
                heads=knob.heads or heads,
                context=max(1024, knob.length),
                dropout=0.0,
                dtype=knob.dtype,
                execution="auto",
                remat="none",
            ),
            objective=dict(kind="Causal", length=knob.length),
            data=dict(
                kind="Packed",
                source=SOURCES[knob.source],
                tokenizer=dict(kind="BPE", vocab=50_257),
                heldout=0.0005 if knob.source == "tfds" else 0.05,
                documents="joined",
            ),
            weights=dict(kind="Full"),
            optimizer=dict(
                kind="AdamW", peak=knob.peak, warmup=knob.steps // 50, decay=0.1, b2=0.95, clip=1.0
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
            log=dict(
                every=10,
                tensorboard=True,
                samples=dict(every=max(1, knob.steps // 10), prompts=("",), length=100),
            ),
        )
    )
