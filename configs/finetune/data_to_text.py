"""Texts that say given facts: WebNLG's triples, or product descriptions from attributes.

    python -m lm_research train --workdir=runs/facts --config.init=T5_DIRECTORY \
        --config=configs/finetune/data_to_text.py:corpus=webnlg_v1.6.tar.gz,language=en
    python -m lm_research train --config=configs/finetune/data_to_text.py --workdir=runs/products \
        --config.data.source.source.paths=products.jsonl
    python -m lm_research generate --checkpoint=runs/facts --beams=5 \
        --prompt='Aarhus Airport | city served | Aarhus && Aarhus | leader name | Jacob Bundsgaard'

`corpus` is WebNLG as it is published, whose train and dev parts are used, each text of an entry
learned from and all of them counting as references; `language` is the folder in it, and that of
those texts which say theirs. Other facts come as `Pairs` reads them, each
line's `source` written as above or in any other way that is always the same; a tenth is held out.
`init` is a Hugging Face directory or a run of ours; without it, a small T5 begins from nothing. The
run keeps the parameters whose texts have the best BLEU. The other knobs are those of
`summarize.py`.
"""

from pathlib import Path

from ml_collections import ConfigDict

from lm_research.commands.config_flag import loaded
from lm_research.config import parted

OWN = dict(corpus="", language="en")
SMALL = "length=128,new=0,epochs=20,batch=16,peak=1e-3,layers=3,vocab=6000,evaluations=0.5"


def get_config(arg: str = "") -> ConfigDict:
    """Knobs: corpus, language; those of summarize."""
    knob, rest = parted(arg, **OWN)
    config = loaded(f"{Path(__file__).with_name('summarize.py')}:{SMALL},{rest}").to_dict(
        preserve_field_references=True
    )
    part = lambda name: dict(
        kind="WebNLG",
        paths=knob.corpus,
        names=f"*/{knob.language}/{name}/*.xml",
        lang=knob.language,
    )
    config["model"]["hidden"] = 2 * config["model"]["width"]
    if knob.corpus:
        config["data"]["source"]["source"] = part("train")
        config["data"]["heldout"] = part("dev")
    config["optimizer"]["b2"] = 0.98
    config["evals"]["written"]["metrics"] = ["bleu", "chrf"]
    config["checkpoint"]["best"] = "written/bleu"
    return ConfigDict(config)
