"""A small encoder of our own, from which tagging, customer service and sentiment begin.

    LM_RESEARCH_DATA=DIR python experiments/encoder.py --workdir=runs/encoder --minutes=90

It fills in hidden tokens of English: the training sentences of the treebank EWT, the training
messages of Banking77, both a few times over, and IMDB's unlabelled reviews; no text that a test is
made of is among them. The run goes on where it stopped, until it has had its minutes or its steps.
"""

import csv
import gzip
import itertools
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

from lm_research import log
from lm_research.data import CoNLL
from lm_research.study.runs import data_folder, parser, program, trained

CONFIG = Path(__file__).parent.parent / "configs" / "pretrain.py"
SIZE = "family=modernbert,width=128,layers=3,heads=4"
REPEATS, REVIEWS = 3, 25_000


def texts(data: Path) -> Iterator[str]:
    """What the encoder reads."""
    for _ in range(REPEATS):
        for record in CoNLL(str(data / "ud" / "en_ewt-ud-train.conllu.gz")):
            yield " ".join(record["words"])
        with gzip.open(data / "banking77" / "train.csv.gz", "rt", encoding="utf-8") as file:
            yield from (row["text"] for row in csv.DictReader(file))
    with tarfile.open(data / "imdb" / "aclImdb_unsup.tar.xz") as archive:
        reviews = (member for member in archive if member.name.endswith(".txt"))
        for member in itertools.islice(reviews, REVIEWS):
            yield archive.extractfile(member).read().decode().replace("<br />", " ")


def main() -> None:
    """Writes the text once, and trains."""
    flags = parser(__doc__)
    flags.add_argument("--workdir", type=Path, default=Path("runs/encoder"))
    flags.add_argument("--minutes", type=float, default=90.0, help="in all")
    flags.add_argument("--steps", type=int, default=8000, help="of 32 rows of 128 tokens")
    flags.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    options = flags.parse_args()
    data, text = data_folder(), options.workdir / "text.jsonl"
    if not text.is_file():
        text.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(text, "".join(json.dumps({"text": one}) + "\n" for one in texts(data)))
    size = f"{SIZE},dtype={options.dtype},length=128,batch=32"
    config = f"{CONFIG}:{size},peak=2e-3,steps={options.steps}"
    every = f"--config.evals.heldout.every={max(1, options.steps // 4)}"
    fields = f"--config.data.source.paths={text}", "--config.data.heldout=0.02", every
    print(f"{trained(options.workdir, options.minutes, config, *fields).wall:.0f} minutes")


if __name__ == "__main__":
    program(main)
