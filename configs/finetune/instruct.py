"""Instruction tuning: a pretrained decoder learns to answer, by a chat template.

    python -m lm_research train --config=configs/finetune/instruct.py --workdir=runs/chat \
        --config.init=GPT2_DIRECTORY --config.data.source.paths=alpaca_data.json
    python -m lm_research chat --checkpoint=runs/chat
    python -m lm_research convert --source=runs/chat --target=GPT2LMHeadModel

Files are as `Conversations` reads them, .json lists or .jsonl of Alpaca's or Dolly's rows or of
`messages`; a twentieth is held out, or the knob `heldout` names files. There is a loss on answers
alone, those of every turn; several conversations share a row of `length` tokens, and none of them
sees another. The knob `template` is auto (what the tokenizer of `init` carries, or else alpaca),
own, chatml, alpaca, or a .jinja file's name. Special tokens that the tokenizer lacks are added to
it; `--config.model.vocab=50259` says how many rows the embedding of `init` shall have then.

Among what is logged is ROUGE of the answers to `limit` held-out prompts, `new` tokens each at most,
which are written to outputs/written.txt; the run keeps the parameters of the least held-out loss.
`init` and the other knobs, such as weights=lora, are as in `classify.py`.
"""

from pathlib import Path

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lm_research.commands.config_flag import loaded
from lm_research.config import parted

OWN = dict(heldout="", template="auto", new=128, limit=50)
PUBLISHED = (
    "family=gpt2,length=512,epochs=3,peak=2e-5,decay=0.0,dropout=0.0,evaluations=1.0,patience=2"
)


def get_config(arg: str = "") -> ConfigDict:
    """Knobs: heldout (files), template; new (tokens), limit; those of classify."""
    knob, rest = parted(arg, "tfds", "split", **OWN)
    config = loaded(f"{Path(__file__).with_name('classify.py')}:{PUBLISHED},{rest}").to_dict(
        preserve_field_references=True
    )
    conversations = lambda paths: dict(
        kind="Conversations", paths=paths, empty="refuse", system=placeholder(str)
    )
    head, often = config["model"], config["evals"]["heldout"]["every"]
    config["model"] = {**head["trunk"], "dropout": head["dropout"]}
    config["objective"] = dict(kind="Causal", length=config["objective"]["length"])
    config["data"] = dict(
        kind="Instruct",
        source=conversations(placeholder(str)),
        heldout=conversations(knob.heldout) if knob.heldout else 0.05,
        template=knob.template,
        tokenizer=dict(kind="BPE", vocab=config["data"]["tokenizer"]["vocab"]),
    )
    config["evals"] = dict(
        heldout=dict(kind="HeldOut", every=often),
        written=dict(
            kind="Generation", every=often, limit=knob.limit, length=knob.new, metrics=["rouge"]
        ),
    )
    config["checkpoint"].update(best="heldout/loss", better="lower")
    return ConfigDict(config)
