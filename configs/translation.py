"""The original Transformer, BART, mBART or Marian on pairs of texts: parallel files, .tsv, .jsonl.

    python -m lm_research train --config=configs/translation.py \
        --config.data.source.paths=train.en,train.de --workdir=runs/translation
    python -m lm_research train --config=configs/translation.py:family=marian \
        --config.data.source.paths=pairs.tsv --config.init=MARIAN_DIRECTORY --workdir=runs/marian

A small one for a corpus of short sentences, in a directory of files such as train.en, train.de,
val.en and val.de (Multi30k), which two CPU cores train in an hour; and one model for two languages,
told by a tag before each source:

    python -m lm_research train --workdir=runs/en-de \
        --config=configs/translation.py:size=small,corpus=DIRECTORY,pairs=en-de
    python -m lm_research train --workdir=runs/en-de-fr \
        --config=configs/translation.py:size=small,corpus=DIRECTORY,pairs=en-de+en-fr

Then a file is translated, and another judged against its references:

    python -m lm_research generate --checkpoint=runs/en-de --input=new.en --output=new.de --beams=5
    python -m lm_research evaluate --checkpoint=runs/en-de --paths=test.en,test.de \
        --metrics=bleu,chrf --beams=5
    python -m lm_research generate --checkpoint=runs/en-de-fr --prompt='<2fr> A dog runs.' --beams=5
"""

from pathlib import Path

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lm_research.config import knobs, known
from lm_research.errors import UserError
from lm_research.models import bart, original

MARIAN = dict(activation="silu", sinusoidal=True, embedding_norm=False, head_bias=True)
SMALL = {"small": (256, 3, 4, 512, 0.2)}
FAMILIES = {  # sizes by name, and what else makes the model
    "original": (original.SIZES | SMALL, dict(kind="OriginalTransformer")),
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
# As in the paper; and for a corpus of a million tokens, whose pairs share rows of 128 tokens.
LARGE = dict(vocab=37_000, batch=256, steps=100_000, warmup=4_000, dtype="bfloat16")
RECIPES = {"small": dict(vocab=8_000, batch=16, steps=4_000, warmup=400, dtype="float32")}


def get_config(arg: str = "") -> ConfigDict:
    """Knobs: family, size; corpus, pairs; width, layers, heads and others (0: the size's)."""
    knob = knobs(
        arg,
        family="original",
        size="base",
        corpus="",
        pairs="en-de",
        width=0,
        layers=0,
        heads=0,
        vocab=0,
        length=128,
        batch=0,
        microbatches=1,
        steps=0,
        warmup=0,
        dtype="",
    )
    known(knob.family, FAMILIES, "family of translators")
    sizes, options = FAMILIES[knob.family]
    known(knob.size, sizes, f"size of {knob.family}")
    recipe = RECIPES.get(knob.size, LARGE)
    vocab, batch, steps, warmup, dtype = (
        getattr(knob, name) or recipe[name]
        for name in ("vocab", "batch", "steps", "warmup", "dtype")
    )
    width, layers, heads, hidden, *dropout = sizes[knob.size]
    width = knob.width or width
    warmup = min(warmup, max(1, steps // 4))
    every = max(1, steps // 20)
    optimizer = dict(
        kind="AdamW",
        peak=(width * warmup) ** -0.5,
        warmup=warmup,
        shape="rsqrt",
        b1=0.9,
        b2=0.98,
        epsilon=1e-9,
        decay=0.0,
        clip=None,
    )
    if knob.size == "small":
        optimizer |= dict(peak=2e-3, shape="cosine", final=0.05, clip=1.0)
        optimizer = dict(kind="Averaged", optimizer=optimizer, rate=0.998)
    data, tags, translated = sections(knob.corpus, knob.pairs.split("+"))
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
                dtype=dtype,
                remat="none",
            ),
            objective=dict(kind="Seq2Seq", length=knob.length, smoothing=0.1),
            data=dict(
                kind="Parallel",
                tokenizer=dict(kind="BPE", vocab=vocab, tags=tags),
                packed=knob.size == "small",
                **data,
            ),
            weights=dict(kind="Full"),
            optimizer=optimizer,
            evals=dict(
                heldout=dict(kind="HeldOut", every=every),
                **{
                    name: dict(
                        kind="Generation", every=2 * every, limit=200, length=60, source=source
                    )
                    for name, source in translated.items()
                },
            ),
            mesh=dict(data=-1, fsdp=1, tensor=1),
            seed=0,
            steps=steps,
            batch=dict(size=batch, microbatches=knob.microbatches, steps_per_dispatch=1),
            init=placeholder(str),
            resume="same",
            checkpoint=dict(every=every, keep=3),
            log=dict(every=10, tensorboard=True, samples=dict(every=0, length=30)),
        )
    )


def sections(corpus: str, pairs: list[str]) -> tuple[dict, list, dict]:
    """Where the pairs come from, the tags before their sources, and what to translate, by name.

    Args:
      corpus: a directory, or empty where the user gives files of his own.
      pairs: two languages with a dash between them, each.
    """
    if not corpus:
        source = dict(kind="Pairs", paths=placeholder(str))
        return dict(source=source, heldout=0.02), [], {}
    for pair in pairs:
        if pair.count("-") != 1:
            raise UserError(f"the pair {pair!r} of knob pairs is not of two languages; en-de is")
    tags = [f"<2{pair.split('-')[1]}>" for pair in pairs] if len(pairs) > 1 else []
    parts = {
        part: [dict(kind="Pairs", paths=files(Path(corpus), part, pair)) for pair in pairs]
        for part in ("train", "val")
    }
    if tags:
        parts = {
            part: [dict(kind="Tagged", tag=tag, source=s) for tag, s in zip(tags, sources)]
            for part, sources in parts.items()
        }
    train, heldout = (
        dict(kind="Mix", sources=sources, weights=[1.0] * len(sources)) if tags else sources[0]
        for sources in parts.values()
    )
    translated = {pair.replace("-", "_"): source for pair, source in zip(pairs, parts["val"])}
    return dict(source=train, heldout=heldout), tags, translated


def files(corpus: Path, part: str, pair: str) -> list[str]:
    """The files of a pair's two languages, compressed or not."""
    both = [corpus / f"{part}.{language}" for language in pair.split("-")]
    return [str(path if path.is_file() else f"{path}.gz") for path in both]
