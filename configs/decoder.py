"""A decoder of any published size on OpenWebText or on text files, from scratch or a checkpoint.

    python -m lm_research train --config=configs/decoder.py:size=smollm2-135m --workdir=runs/smol
    python -m lm_research train --config=configs/decoder.py:size=smollm2-135m,source=docs,batch=8 \
        --workdir=runs/docs
    python -m lm_research train --config=configs/decoder.py:size=gemma-3-270m,source=text \
        --config.data.source.paths=my.txt --workdir=runs/gemma
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lm_research.config import knobs, known
from lm_research.models import gemma, gpt_neox, llama, mixtral, olmo2, opt, phi3

FAMILIES = {
    "Gemma": gemma,
    "GPTNeoX": gpt_neox,
    "Llama": llama,
    "Mixtral": mixtral,
    "OLMo2": olmo2,
    "OPT": opt,
    "Phi3": phi3,
}
KINDS = {size: kind for kind, family in FAMILIES.items() for size in family.SIZES}
AHEAD = 4
OBJECTIVES = {
    "causal": dict(kind="Causal"),
    "prefix": dict(kind="Prefix"),
    "middle": dict(kind="FillInTheMiddle"),  # takes three sentinels of the tokenizer
    "several": dict(kind="MultiToken", ahead=AHEAD),  # takes a Llama, a block for each
}
SOURCES = {
    "tfds": dict(kind="TFDS", name="openwebtext", split="train", data_dir=placeholder(str)),
    "text": dict(kind="Documents", paths=placeholder(str)),
    "docs": dict(kind="PythonDocs"),  # what every Python carries
}


def get_config(arg: str = "") -> ConfigDict:
    """Knobs: size, objective; vocab (of a tokenizer to train), length, batch, steps, others."""
    knob = knobs(
        arg,
        size="smollm2-135m",
        objective="causal",
        vocab=49_152,
        length=2048,
        batch=256,
        microbatches=1,
        steps=20_000,
        peak=1e-3,
        source="tfds",
        dtype="bfloat16",
    )
    known(knob.size, KINDS, "size of a decoder")
    known(knob.objective, OBJECTIVES, "objective of a decoder")
    known(knob.source, SOURCES, "source")
    kind = KINDS[knob.size]
    objective = dict(**OBJECTIVES[knob.objective], length=knob.length)
    if kind == "Mixtral":
        objective = dict(kind="Balanced", objective=objective, balance=0.01, z=0.001)
    return ConfigDict(
        dict(
            model=dict(
                kind=kind,
                vocab=placeholder(int),
                **FAMILIES[kind].SIZES[knob.size],
                **(dict(ahead=AHEAD) if knob.objective == "several" else {}),
                dropout=0.0,
                dtype=knob.dtype,
                execution="auto",
                remat="none",
            ),
            objective=objective,
            data=dict(
                kind="Packed",
                source=SOURCES[knob.source],
                tokenizer=dict(
                    kind="BPE", vocab=knob.vocab, sentinels=3 if knob.objective == "middle" else 0
                ),
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
