"""The original Transformer, BART, mBART or Marian on pairs of texts: parallel files, .tsv, .jsonl.

    python -m lm_research train --config=configs/translation.py \
        --config.data.source.paths=train.en,train.de --workdir=runs/translation
    python -m lm_research train --config=configs/translation.py:family=marian \
        --config.data.source.paths=pairs.tsv --config.init=MARIAN_DIRECTORY --workdir=runs/marian
    python -m lm_research generate --checkpoint=runs/translation --prompt='A dog runs.' --greedy
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lm_research.config import knobs, known
from lm_research.models import bart, original

MARIAN = dict(activation="silu", sinusoidal=True, embedding_norm=False, head_bias=True)
FAMILIES = {  # sizes by name, and what else makes the model
    "original": (original.SIZES, dict(kind="OriginalTransformer")),
    "bart": ({name: bart.SIZES[name] for name in ("base", "large")}, dict(kind="BART")),
    "mbart": (
        {"large": bart.SIZES["large"]},
        dict(kind="BART", norm_first=True, embedding_scale=True),
    ),
    "marian": (
        {"base": bart.SIZES["marian"]},
        dict(kind="BART", embedding_scale=True, **MARIAN),
    ),
}


def get_config(arg: str = "") -> ConfigDict:
    """Knobs: family, size; width, layers, heads (0: the size's); vocab, length, others."""
    knob = knobs(
        arg,
        family="original",
        size="base",
        width=0,
        layers=0,
        heads=0,
        vocab=37_000,
        length=128,
        batch=256,
        microbatches=1,
        steps=100_000,
        warmup=4_000,
        dtype="bfloat16",
    )
    known(knob.family, FAMILIES, "family of translators")
    sizes, options = FAMILIES[knob.family]
    known(knob.size, sizes, f"size of {knob.family}")
    width, layers, heads, hidden, *dropout = sizes[knob.size]
    width = knob.width or width
    warmup = min(knob.warmup, max(1, knob.steps // 4))
    return ConfigDict(
        dict(
            model=dict(
                **options,
                vocab=placeholder(int),
                width=width,
                layers=knob.layers or layers,
                heads=knob.heads or heads,
                hidden=4 * width if knob.width else hidden,
                dropout=dropout[0] if dropout else 0.1,
                start=0,  # the tokenizer's end of a text
                dtype=knob.dtype,
            ),
            objective=dict(kind="Seq2Seq", length=knob.length, smoothing=0.1),
            data=dict(
                kind="Parallel",
                source=dict(kind="Pairs", paths=placeholder(str)),
                tokenizer=dict(kind="BPE", vocab=knob.vocab),
                heldout=0.02,
            ),
            weights=dict(kind="Full"),
            optimizer=dict(
                kind="AdamW",
                peak=(width * warmup) ** -0.5,
                warmup=warmup,
                shape="rsqrt",
                b1=0.9,
                b2=0.98,
                epsilon=1e-9,
                decay=0.0,
                clip=None,
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
