"""Any family at any of its sizes, with any objective that makes sense for it, on your text.

    python -m lm_research train --workdir=runs/bert --config.data.source.paths=my.txt \
        --config=configs/pretrain.py:family=bert,size=base,objective=masked
    python -m lm_research train --config=configs/pretrain.py:family=t5,size=small --workdir=runs/t5

Without paths it is the documentation that Python carries. An objective that makes no sense for a
family, such as `masked` for `gpt2`, is refused with the reason. Families with recipes of their own
have configs of their own: `bert.py`, `decoder.py`, `t5.py`, `xlnet.py` and others.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lm_research import objectives
from lm_research.config import knobs, known
from lm_research.models.sizes import sized

OWN = {  # the objective that a family was made for, where it is not the causal one
    **dict.fromkeys(("albert", "bert", "distilbert", "modernbert", "roberta"), "masked"),
    **dict.fromkeys(("bart", "original", "t5"), "spans"),
    "electra": "replaced",
    "xlnet": "permutation",
}
OBJECTIVES = {
    "causal": "Causal",
    "masked": "Masked",
    "replaced": "ReplacedTokens",
    "permutation": "Permutation",
    "spans": "SpanCorruption",
    "denoisers": "Denoisers",
    "prefix": "Prefix",
    "middle": "FillInTheMiddle",
    "multi": "MultiToken",
}
OBJECTIVES = {name: kind for name, kind in OBJECTIVES.items() if kind in objectives.__all__}


def get_config(arg: str = "") -> ConfigDict:
    """Knobs: family, size, objective (empty: the family's first, and own); width and others."""
    knob = knobs(
        arg,
        family="gpt2",
        size="",
        objective="",
        width=0,
        layers=0,
        heads=0,
        vocab=8192,
        length=256,
        batch=32,
        microbatches=1,
        steps=10_000,
        peak=1e-3,
        dtype="bfloat16",
    )
    objective = knob.objective or OWN.get(knob.family, "causal")
    known(objective, OBJECTIVES, "objective")
    model = sized(
        knob.family,
        knob.size,
        width=knob.width,
        layers=knob.layers,
        heads=knob.heads,
        length=knob.length,
    )
    return ConfigDict(
        dict(
            model=dict(**model, vocab=placeholder(int), dtype=knob.dtype, remat="none"),
            objective=dict(kind=OBJECTIVES[objective], length=knob.length),
            data=dict(
                kind="Packed",
                source=dict(kind="Documents", paths=placeholder(str)),
                tokenizer=dict(
                    kind="BPE",
                    vocab=knob.vocab,
                    roles=("pad", "mask", "cls", "sep"),
                    sentinels=100,
                ),
                heldout=0.05,
                documents="joined",
            ),
            weights=dict(kind="Full"),
            optimizer=dict(
                kind="AdamW", peak=knob.peak, warmup=knob.steps // 20, decay=0.1, b2=0.98, clip=1.0
            ),
            evals=dict(heldout=dict(kind="HeldOut", every=max(1, knob.steps // 10))),
            mesh=dict(data=-1, fsdp=1, tensor=1),
            seed=0,
            steps=knob.steps,
            batch=dict(size=knob.batch, microbatches=knob.microbatches),
            init=placeholder(str),
            resume="same",
            checkpoint=dict(every=max(1, knob.steps // 10), keep=2),
            log=dict(every=10, tensorboard=True, samples=dict(every=0)),
        )
    )
