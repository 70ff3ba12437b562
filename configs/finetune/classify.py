"""Which class a text belongs to: a pretrained model, a linear head, a few epochs.

    python -m lm_research train --config=configs/finetune/classify.py:heldout=dev.tsv \
        --config.init=BERT_DIRECTORY --config.data.source.paths=train.tsv --workdir=runs/sentiment
    python -m lm_research predict --checkpoint=runs/sentiment --text='a film to remember'
    python -m lm_research convert --source=runs/sentiment --target=BertForSequenceClassification

`init` is a Hugging Face directory or a run of ours, an encoder, a decoder or an encoder-decoder;
without it, a model of the knobs `family` and `size` begins from nothing. An encoder is asked for
its first token and a decoder for its last, or with the knob `pool=mean` either for the mean of all;
an encoder-decoder (`family=t5`) learns to write the name of the class, and tells the one that it
finds likeliest.

Tables are .tsv, .csv or .jsonl with a text and a label, and with the knob `pair` a second text, in
columns that the knobs name (or number, where files do not name them). Or a dataset of TFDS brings
them, by name, and the columns are its fields:

    --config=configs/finetune/classify.py:tfds=imdb_reviews,split=train,heldout=test

Without a knob `heldout` (a table, or a split of the dataset), a tenth of the texts is held out. The
run keeps the parameters that are best on them and stops when
they have not become better for `patience` evaluations. With `--config.data.grouped=50` texts of
like length share a batch: less of it is padding.

How much is trained is the knob `weights`: full; embedding, all but a frozen one; last, as many
layers as the knob `count` says, 0 being a head on frozen features; or lora, of the knob `rank`.
With `layerwise=0.9`, each layer learns at 0.9 of the rate of the layer after it. The knob `dropout`
is the head's; inside the model it is the model's own, or --config.model.trunk.dropout=0.2.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lm_research.commands.config_flag import dataset
from lm_research.config import knobs, known
from lm_research.errors import UserError
from lm_research.models.sizes import ENCODER_DECODERS, ENCODERS, sized


def get_config(arg: str = "") -> ConfigDict:
    """Knobs: heldout (a table, or a split); tfds, split; text, pair, label (columns); others."""
    knob = knobs(
        arg,
        heldout="",
        tfds="",
        split="train",
        text="text",
        pair="",
        label="label",
        family="bert",
        size="",
        width=0,
        layers=0,
        heads=0,
        vocab=8192,
        length=128,
        batch=16,
        epochs=3.0,
        peak=5e-5,
        warmup=0.1,
        decay=0.01,
        dropout=0.1,
        pool="",  # first, last or mean
        weights="full",
        count=2,
        rank=8,
        layerwise=1.0,
        evaluations=2.0,  # in an epoch
        patience=3,
        dtype="float32",
    )
    for name in ("epochs", "evaluations"):
        if (given := getattr(knob, name)) <= 0:
            raise UserError(f"the knob {name!r} is {given:g}; it takes a number above 0")
    column = lambda name: int(name) if name.isdigit() and not knob.tfds else name
    columns = dict(text=column(knob.text), label=column(knob.label))
    if knob.pair:
        columns["pair"] = column(knob.pair)

    def source(paths: object, split: str) -> dict:
        if knob.tfds:
            return dataset(knob.tfds, split, columns)
        return dict(kind="Table", paths=paths, columns=columns)

    heldout = source(knob.heldout, knob.heldout) if knob.heldout else 0.1
    often = min(0.999, 1 / (knob.evaluations * knob.epochs))  # a share of the run
    trunk = sized(
        knob.family,
        knob.size,
        width=knob.width,
        layers=knob.layers,
        heads=knob.heads,
        length=knob.length,
    )
    if knob.family in ENCODER_DECODERS:  # which have no head to drop out of
        trunk["dropout"] = knob.dropout
    decoder = knob.family not in (*ENCODERS, *ENCODER_DECODERS)
    # A decoder judges by its last token, without a bias, as `transformers` has it.
    head = dict(pool="last", bias=False) if decoder else dict(pool=placeholder(str))
    if knob.pool:
        head["pool"] = knob.pool
    weights = dict(
        full=dict(kind="Full"),
        embedding=dict(kind="Part", held=r"\bembedding/table"),
        last=dict(kind="LastLayers", count=knob.count),
        lora=dict(kind="LoRA", rank=knob.rank, scale=2.0 * knob.rank, adapter=placeholder(str)),
    )
    known(knob.weights, weights, "value of the knob 'weights'")
    return ConfigDict(
        dict(
            model=dict(
                kind="Classifier",
                trunk=dict(trunk, vocab=placeholder(int), dtype=knob.dtype, remat="none"),
                classes=placeholder(tuple),
                activation="auto",
                dropout=knob.dropout,
                **head,
            ),
            objective=dict(kind="Classify", length=knob.length, smoothing=0.0),
            data=dict(
                kind="Labelled",
                source=source(placeholder(str), knob.split),
                heldout=heldout,
                classes=placeholder(tuple),
                grouped=1,
                tokenizer=dict(kind="BPE", vocab=knob.vocab, roles=("pad", "mask", "cls", "sep")),
            ),
            weights=weights[knob.weights],
            optimizer=dict(
                kind="AdamW",
                peak=knob.peak,
                warmup=knob.warmup,
                shape="linear",
                final=0.0,
                b2=0.999,
                decay=knob.decay,
                clip=1.0,
                layerwise=knob.layerwise,
                skip="norm|bias",  # what decays and how warm-up begins is as in `transformers`
                first="zero",
            ),
            evals=dict(heldout=dict(kind="Scores", every=often, batch=64)),
            mesh=dict(data=-1, fsdp=1, tensor=1),
            seed=0,
            steps=placeholder(int),
            batch=dict(size=knob.batch, microbatches=1, steps_per_dispatch=1, epochs=knob.epochs),
            init=placeholder(str),
            resume="same",
            checkpoint=dict(
                every=often,
                keep=1,
                best="heldout/accuracy",
                better="higher",
                patience=knob.patience,
            ),
            log=dict(every=10, tensorboard=True, samples=dict(every=0)),
        )
    )
