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
from lm_research.models import (
    albert,
    bart,
    bert,
    distilbert,
    electra,
    gemma,
    gpt2,
    gpt_neox,
    llama,
    mamba2,
    mixtral,
    modernbert,
    olmo2,
    opt,
    original,
    phi3,
    roberta,
    t5,
    xlnet,
)

FIELDS = ("width", "layers", "heads")
FAMILIES = {  # kind, sizes, what a size's numbers are, and the objective that it was made for
    "albert": ("ALBERT", albert.SIZES, FIELDS, "masked"),
    "bart": ("BART", bart.SIZES, (*FIELDS, "hidden"), "spans"),
    "bert": ("BERT", bert.SIZES, FIELDS, "masked"),
    "distilbert": ("DistilBERT", distilbert.SIZES, FIELDS, "masked"),
    "electra": (
        "ELECTRAPair",
        electra.SIZES,
        (*FIELDS, "embedding", "generator_width", "generator_heads"),
        "replaced",
    ),
    "gemma": ("Gemma", gemma.SIZES, (), "causal"),
    "gpt2": ("GPT2", gpt2.SIZES, FIELDS, "causal"),
    "gpt_neox": ("GPTNeoX", gpt_neox.SIZES, (), "causal"),
    "llama": ("Llama", llama.SIZES, (), "causal"),
    "mamba2": ("Mamba2", mamba2.SIZES, ("width", "layers"), "causal"),
    "mixtral": ("Mixtral", mixtral.SIZES, (), "causal"),
    "modernbert": ("ModernBERT", modernbert.SIZES, (*FIELDS, "hidden"), "masked"),
    "olmo2": ("OLMo2", olmo2.SIZES, (), "causal"),
    "opt": ("OPT", opt.SIZES, (), "causal"),
    "original": ("OriginalTransformer", original.SIZES, (*FIELDS, "hidden", "dropout"), "spans"),
    "phi3": ("Phi3", phi3.SIZES, (), "causal"),
    "roberta": ("RoBERTa", roberta.SIZES, FIELDS, "masked"),
    "t5": ("T5", t5.SIZES, (*FIELDS, "head", "hidden"), "spans"),
    "xlnet": ("XLNet", xlnet.SIZES, FIELDS, "permutation"),
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
# Those of learned positions, which have a context.
LEARNED = ("albert", "bart", "bert", "distilbert", "electra", "gpt2", "opt", "roberta")


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
    known(knob.family, FAMILIES, "family")
    kind, sizes, names, own = FAMILIES[knob.family]
    size = knob.size or next(iter(sizes))
    known(size, sizes, f"size of {kind}")
    objective = knob.objective or own
    known(objective, OBJECTIVES, "objective")
    fields = dict(zip(names, sizes[size])) if names else dict(sizes[size])
    chosen = {name: getattr(knob, name) for name in FIELDS if getattr(knob, name)}
    if "heads" in chosen and "kv_heads" in fields:
        chosen["kv_heads"] = chosen["heads"]
    if "width" in chosen:  # what a size derives from its own width would not fit
        fields = {name: fields[name] for name in FIELDS if name in fields}
    if knob.family in LEARNED:
        fields["context"] = max(fields.get("context", 512), knob.length)
    return ConfigDict(
        dict(
            model=dict(kind=kind, vocab=placeholder(int), **{**fields, **chosen}, dtype=knob.dtype),
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
