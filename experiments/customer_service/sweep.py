"""Banking77, 77 intents of a bank's customers: a linear SVM, fastText, and an encoder of our own.

    LM_RESEARCH_DATA=DIR python experiments/customer_service/sweep.py --only svm fasttext
    LM_RESEARCH_DATA=DIR python experiments/encoder.py --workdir=runs/encoder
    LM_RESEARCH_DATA=DIR python experiments/customer_service/sweep.py --encoder=runs/encoder \
        --only encoder

The SVM (scikit-learn, on TF-IDF of words, their pairs and characters) and fastText choose their
settings on a tenth of the training set, and are then trained on all of it. The encoder, which is
experiments/encoder.py's, learns to tell intents, of which a tenth says when to stop. The test set
is looked at once by each.

Runs are kept in --workdir and go on where they stopped; --minutes are those of each training, in
all. Writes results.json, which keeps the other rows that it has, and report.md beside this file.
"""

import argparse
import csv
import gzip
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from lm_research import log
from lm_research.data.permutation import permuted
from lm_research.study.runs import data_folder, evaluated, parser, program, spent, trained

HERE = Path(__file__).parent
CONFIGS = HERE.parent.parent / "configs"
COLUMNS = "text=text,label=category"
COSTS = (0.5, 1.0, 2.0, 4.0)
WORDS = "order=2,least=3,most=5,length=512,width=64,batch=128,buckets=65536,epsilon=1e-8"
FASTTEXT = (
    f"{WORDS},steps=600,peak=0.02",
    f"{WORDS},steps=1000,peak=0.02",
    f"{WORDS},steps=1000,peak=0.02,dropout=0.3",
)
NAMES = {
    "svm": "TF-IDF and a linear SVM (scikit-learn)",
    "fasttext": "fastText of this project",
    "encoder": "encoder of our own, fine-tuned (its minutes alone)",
}
BARS = {"svm": None, "fasttext": 88.0, "encoder": 91.5}


def messages(data: Path, part: str) -> list[tuple[str, str]]:
    """Messages of a part and their intents."""
    with gzip.open(data / "banking77" / f"{part}.csv.gz", "rt", encoding="utf-8") as file:
        return [(row["text"], row["category"]) for row in csv.DictReader(file)]


def svm(options: argparse.Namespace, data: Path) -> dict[str, Any]:
    """Its accuracy on the test set, at the cost that is best on a tenth of the training set."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline, make_union
    from sklearn.svm import LinearSVC

    def accuracy(cost: float, train: list, test: list) -> float:
        features = make_union(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
        )
        machine = make_pipeline(features, LinearSVC(C=cost)).fit(*zip(*train))
        texts, right = zip(*test)
        return float((machine.predict(texts) == np.array(right)).mean())

    start, train = time.monotonic(), messages(data, "train")
    order = permuted(np.arange(len(train)), len(train), seed=0).tolist()
    held = len(train) // 10
    parts = [[train[i] for i in places] for places in (order[held:], order[:held])]
    chosen = {cost: accuracy(cost, *parts) for cost in COSTS}
    cost = max(chosen, key=chosen.get)
    found = accuracy(cost, train, messages(data, "test"))
    told = {str(cost): value for cost, value in chosen.items()}
    minutes = (time.monotonic() - start) / 60
    return {"test": found, "chosen": f"C={cost}", "heldout": told, "minutes": minutes}


def fasttext(options: argparse.Namespace, data: Path) -> dict[str, Any]:
    """Its accuracy on the test set, at the knobs that are best on a tenth of the training set."""
    fields = (
        f"--config.data.source.paths={data / 'banking77' / 'train.csv.gz'}",
        *("--config.log.tensorboard=False", f"--config.seed={options.seed}"),
    )

    def run(name: str, knobs: str) -> tuple[float, float]:
        workdir = options.workdir / name
        config = f"{CONFIGS / 'fasttext.py'}:{COLUMNS},{knobs}"
        minutes = trained(workdir, options.minutes, config, *fields).wall
        # The last evaluation is that of the last step, with which the run is opened.
        found = [row for row in log.rows(workdir) if "heldout/accuracy" in row]
        return found[-1]["heldout/accuracy"], minutes

    chosen = {knobs: run(f"fasttext-{i}", knobs)[0] for i, knobs in enumerate(FASTTEXT)}
    knobs = max(chosen, key=chosen.get)
    test = data / "banking77" / "test.csv.gz"
    found, minutes = run(f"fasttext-seed{options.seed}", f"{knobs},heldout={test}")
    return {"test": found, "chosen": knobs, "heldout": chosen, "minutes": minutes}


def encoder(options: argparse.Namespace, data: Path) -> dict[str, Any]:
    """Its accuracy on the test set, at the step that is best on a tenth of the training set."""
    begun, workdir = options.encoder, options.workdir / f"intents-seed{options.seed}"
    knobs = "length=64,batch=32,peak=1e-3,dropout=0.3,evaluations=1,patience=100"
    config = f"{CONFIGS / 'finetune' / 'classify.py'}:{COLUMNS},{knobs},epochs={options.epochs}"
    fields = (
        f"--config.data.source.paths={data / 'banking77' / 'train.csv.gz'}",
        *(f"--config.init={begun}", "--config.model.pool=mean", f"--config.seed={options.seed}"),
        "--config.data.grouped=20",  # messages of like length together
    )
    minutes = trained(workdir, options.minutes, config, *fields).wall
    held = max(row.get("heldout/accuracy", 0.0) for row in log.rows(workdir))
    test, _ = evaluated(workdir, f"--paths={data / 'banking77' / 'test.csv.gz'}", "--batch=64")
    told = {"encoder": spent(begun), "heldout": held, "minutes": minutes}
    return {"test": test["accuracy"], "chosen": f"{knobs},epochs={options.epochs:g}", **told}


ROWS = {"svm": svm, "fasttext": fasttext, "encoder": encoder}


def report(found: dict[str, Any]) -> str:
    """The table, in Markdown."""
    lines = ["# Banking77, accuracy on the test set", "", "See `question.md`.", ""]
    lines += ["| model | accuracy | bar | minutes | chosen on a tenth of train |"]
    lines += ["|---|---|---|---|---|"]
    for name in (name for name in ROWS if name in found):
        own, bar = found[name], BARS[name]
        told = "" if bar is None else f"{bar:.1f}"
        cells = (NAMES[name], f"{100 * own['test']:.2f}", told, f"{own['minutes']:.1f}")
        lines.append(f"| {' | '.join(cells)} | `{own['chosen']}` |")
    if "encoder" in found:
        lines += ["", f"The encoder (`experiments/encoder.py`) had {found['encoder']['encoder']}."]
    return "\n".join([*lines, ""])


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--only", nargs="*", choices=list(ROWS), default=list(ROWS))
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--minutes", type=float, default=240.0, help="of each training, in all")
    flags.add_argument("--epochs", type=float, default=12.0, help="of fine-tuning")
    flags.add_argument("--encoder", type=Path, default=Path("runs/encoder"))
    flags.add_argument("--workdir", type=Path, default=Path("runs/customer_service"))
    flags.add_argument("--output", type=Path, default=HERE)
    options = flags.parse_args()
    data, path = data_folder(), options.output / "results.json"
    for name in options.only:
        row = ROWS[name](options, data)
        results = json.loads(path.read_text()) if path.is_file() else {}
        results[name] = row
        log.write_text(path, json.dumps(results, indent=2) + "\n")
        log.write_text(options.output / "report.md", report(results))
        print(NAMES[name], row, flush=True)


if __name__ == "__main__":
    program(main)
