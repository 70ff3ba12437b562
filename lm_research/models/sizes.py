"""Every family's published sizes by name, as the model sections that configs are made of."""

from typing import Any

from lm_research.config import known
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
SIZED = {  # kind, sizes, and what a size's numbers are, where it does not name them
    "albert": ("ALBERT", albert.SIZES, FIELDS),
    "bart": ("BART", bart.SIZES, (*FIELDS, "hidden")),
    "bert": ("BERT", bert.SIZES, FIELDS),
    "distilbert": ("DistilBERT", distilbert.SIZES, FIELDS),
    "electra": (
        "ELECTRAPair",
        electra.SIZES,
        (*FIELDS, "embedding", "generator_width", "generator_heads"),
    ),
    "gemma": ("Gemma", gemma.SIZES, ()),
    "gpt2": ("GPT2", gpt2.SIZES, FIELDS),
    "gpt_neox": ("GPTNeoX", gpt_neox.SIZES, ()),
    "llama": ("Llama", llama.SIZES, ()),
    "mamba2": ("Mamba2", mamba2.SIZES, ("width", "layers")),
    "mixtral": ("Mixtral", mixtral.SIZES, ()),
    "modernbert": ("ModernBERT", modernbert.SIZES, (*FIELDS, "hidden")),
    "olmo2": ("OLMo2", olmo2.SIZES, ()),
    "opt": ("OPT", opt.SIZES, ()),
    "original": ("OriginalTransformer", original.SIZES, (*FIELDS, "hidden", "dropout")),
    "phi3": ("Phi3", phi3.SIZES, ()),
    "roberta": ("RoBERTa", roberta.SIZES, FIELDS),
    "t5": ("T5", t5.SIZES, (*FIELDS, "head", "hidden")),
    "xlnet": ("XLNet", xlnet.SIZES, FIELDS),
}
# Those of learned positions, which have a context.
LEARNED = ("albert", "bart", "bert", "distilbert", "electra", "gpt2", "opt", "roberta")

# Those that read a source and write a text from it, and those whose tokens see each other.
ENCODER_DECODERS = ("bart", "original", "t5")
ENCODERS = ("albert", "bert", "distilbert", "electra", "modernbert", "roberta", "xlnet")


def sized(
    family: str, size: str = "", *, width: int = 0, layers: int = 0, heads: int = 0, length: int = 1
) -> dict[str, Any]:
    """A model section without its vocabulary.

    Args:
      family: one of `SIZED`.
      size: one of its; empty is the first.
      width, layers, heads: D, L and N where they are not 0, and not those of the size.
      length: tokens that it reads at once, for which its learned positions have to suffice.

    Raises:
      UserError: there is no such family or size.
    """
    known(family, SIZED, "family")
    kind, sizes, names = SIZED[family]
    size = size or next(iter(sizes))
    known(size, sizes, f"size of {kind}")
    fields = dict(zip(names, sizes[size])) if names else dict(sizes[size])
    chosen = {n: value for n, value in zip(FIELDS, (width, layers, heads)) if value}
    if heads and "kv_heads" in fields:
        chosen["kv_heads"] = heads
    if width:  # what a size derives from its own width would not fit
        fields = {name: fields[name] for name in FIELDS if name in fields}
    if family in LEARNED:
        fields["context"] = max(fields.get("context", 512), length)
    return {"kind": kind, **fields, **chosen}
