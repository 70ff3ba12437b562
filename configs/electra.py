"""ELECTRA by its size, generator and discriminator together, on Wikipedia, texts or Python's.

    python -m lm_research train --config=configs/electra.py --workdir=runs/electra
    python -m lm_research train --config=configs/electra.py:source=text,width=128,layers=2,heads=2 \
        --workdir=runs/tiny
    python -m lm_research convert --source=runs/electra --part=discriminator --target=discriminator
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lm_research.config import knobs, known
from lm_research.models.electra import SIZES

SOURCES = {
    "tfds": dict(
        kind="TFDS", name="wikipedia/20230601.en", split="train", data_dir=placeholder(str)
    ),
    "text": dict(kind="Documents", paths=placeholder(str)),
}


def get_config(arg: str = "") -> ConfigDict:
    """Knobs: size; width, layers, heads (0: the size's); rate, detection; and others."""
    knob = knobs(
        arg,
        size="small",
        width=0,
        layers=0,
        heads=0,
        rate=0.15,
        detection=50.0,
        length=128,
        batch=128,
        microbatches=1,
        steps=1_000_000,
        peak=5e-4,
        vocab=30_522,
        source="tfds",
        dropout=0.1,
        dtype="bfloat16",
    )
    known(knob.size, SIZES, "size of ELECTRA")
    known(knob.source, SOURCES, "source")
    width, layers, heads, embedding, small, small_heads = SIZES[knob.size]
    if knob.width:  # as the size small has them
        width, embedding, small, small_heads = knob.width, knob.width // 2, knob.width // 4, 1
    return ConfigDict(
        dict(
            model=dict(
                kind="ELECTRAPair",
                vocab=placeholder(int),
                width=width,
                layers=knob.layers or layers,
                heads=knob.heads or heads,
                embedding=embedding,
                generator_width=small,
                generator_heads=small_heads,
                context=max(512, knob.length),
                dropout=knob.dropout,
                attention_dropout=knob.dropout,
                dtype=knob.dtype,
                execution="auto",
                remat="none",
            ),
            objective=dict(
                kind="ReplacedTokens",
                length=knob.length,
                rate=knob.rate,
                detection=knob.detection,
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
                warmup=min(10_000, knob.steps // 20),
                shape="linear",
                decay=0.01,
                b2=0.999,
                epsilon=1e-6,
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
