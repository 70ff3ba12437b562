"""Sentiment of SST-2 and IMDB: bags of words, and an encoder of our own, trained more or less.

    LM_RESEARCH_DATA=DIR python experiments/sentiment/sweep.py --only svm fasttext
    LM_RESEARCH_DATA=DIR python experiments/encoder.py --workdir=runs/encoder
    LM_RESEARCH_DATA=DIR python experiments/sentiment/sweep.py --encoder=runs/encoder --minutes=20

Runs are kept in --workdir and go on where they stopped, until they have been trained for so many
minutes in all; rows that are finished are not made again. Writes results.json and report.md beside
this file.
"""

import argparse
import json
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lm_research import log
from lm_research.data import Memory, Table
from lm_research.data.prepare import held_out
from lm_research.study.runs import data_folder, evaluated, parser, program, spent, trained

HERE = Path(__file__).parent
CONFIGS = HERE.parent.parent / "configs"
BAGS = {  # knobs of fastText, chosen on the development parts
    "sst2": "order=2,width=32,steps=400,epsilon=1e-4",
    "imdb": "order=2,width=32,length=1024,batch=128,steps=1500,peak=0.005",
}
TUNED = {"sst2": "length=64,batch=32,epochs=3", "imdb": "length=256,batch=32,epochs=4"}
HOW = {  # knobs of configs/finetune/classify.py, and what the table says
    "frozen": ("weights=last,count=0,peak=1e-2", "a head on frozen features"),
    "last": ("weights=last,count=2,peak=1e-3", "the last 2 layers"),
    "lora": ("weights=lora,rank=8,peak=2e-3", "LoRA of rank 8"),
    "full": ("weights=full,peak=3e-4", "everything"),
}
ROWS = {
    "svm": "TF-IDF of words and bigrams, a linear SVM",
    "fasttext": "fastText, bigrams of words",
    **{name: f"our encoder, {told}" for name, (_, told) in HOW.items()},
}
SETS = {"sst2": "SST-2", "imdb": "IMDB"}
PENALTIES = (0.1, 0.25, 0.5, 1.0)  # of the SVM, one of which the development part chooses


def reviews(archive: Path, part: str) -> Iterator[tuple[str, str]]:
    """Folder and text of the reviews of a part."""
    with tarfile.open(archive) as file:
        for member in file:
            names = Path(member.name).parts
            if member.isfile() and part in names and names[-2] in ("pos", "neg"):
                text = file.extractfile(member).read().decode()
                yield names[-2], text.replace("<br />", " ")


def files(name: str, data: Path, workdir: Path) -> tuple[dict[str, Path], str]:
    """The tables train, dev and test of a set, and the column of their texts.

    Of IMDB a tenth of the training part is the development part, always the same.
    """
    if name == "sst2":
        named = {"train": "train", "dev": "dev", "test": "test-labeled"}
        return {part: data / "sst2" / f"glue_{n}.tsv.gz" for part, n in named.items()}, "sentence"
    found = {part: workdir / f"imdb-{part}.jsonl" for part in ("train", "dev", "test")}
    if not all(path.is_file() for path in found.values()):
        archive = data / "imdb" / "aclImdb_labeled.tar.xz"
        labelled = lambda part: [dict(text=t, label=y) for y, t in reviews(archive, part)]
        source, test = Memory(labelled("train")), labelled("test")
        parts = held_out(source, 0.1)
        both = {"train": parts["train"], "dev": parts["heldout"]}
        rows = {part: [source[i] for i in places.tolist()] for part, (_, places) in both.items()}
        for part, records in {**rows, "test": test}.items():
            write(found[part], records)
    return found, "text"


def write(path: Path, records: list[dict[str, str]]) -> None:
    """Records as lines of JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(path, "".join(json.dumps(record) + "\n" for record in records))


def since(wall: float, cores: float) -> tuple[float, float]:
    """Minutes by the clock and of this process on all cores, since both stood so."""
    return (time.monotonic() - wall) / 60, (time.process_time() - cores) / 60


def svm(parts: dict[str, Path], text: str) -> dict[str, Any]:
    """A linear SVM on TF-IDF of words and bigrams."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.svm import LinearSVC

    tables = {
        name: Table(str(path), {"text": text, "label": "label"}) for name, path in parts.items()
    }
    texts = {name: [record["text"] for record in table] for name, table in tables.items()}
    labels = {name: [record["label"] for record in table] for name, table in tables.items()}
    begun = time.monotonic(), time.process_time()
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]", sublinear_tf=True
    )
    rows = {"train": vectorizer.fit_transform(texts["train"])}
    vectorized = since(*begun)
    rows |= {name: vectorizer.transform(texts[name]) for name in ("dev", "test")}
    tried = []
    for penalty in PENALTIES:
        begun = time.monotonic(), time.process_time()
        machine = LinearSVC(C=penalty).fit(rows["train"], labels["train"])
        minutes = [x + y for x, y in zip(vectorized, since(*begun))]
        score = {name: float(machine.score(rows[name], labels[name])) for name in ("dev", "test")}
        tried.append({**score, "minutes": minutes, "finished": True, "knobs": f"C={penalty}"})
    return max(tried, key=lambda found: found["dev"])


def made(row: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """What a row of the table says of a set."""
    parts, text = files(name, data_folder(), options.workdir)
    if row == "svm":
        return svm(parts, text)
    columns = f"text={text},label=label,heldout={parts['dev']}"
    fields = f"--config.data.source.paths={parts['train']}", "--config.log.tensorboard=False"
    if row == "fasttext":
        config, knobs = "fasttext.py", BAGS[name]
    else:
        config, knobs = "finetune/classify.py", f"{TUNED[name]},{HOW[row][0]}"
        knobs += ",patience=3,evaluations=1" + (f",{options.knobs}" if options.knobs else "")
        fields += f"--config.init={options.encoder}", "--config.model.pool=mean"
        fields += ("--config.data.grouped=50",)
    run = options.workdir / f"{name}-{row}"
    taken = trained(run, options.minutes, f"{CONFIGS / config}:{columns},{knobs}", *fields)
    judged = lambda part: evaluated(run, f"--paths={parts[part]}", "--batch=64")[0]["accuracy"]
    score = {part: judged(part) for part in ("dev", "test")}
    minutes, finished = [taken.wall, taken.cores], taken.finished
    return {**score, "minutes": minutes, "finished": finished, "knobs": knobs}


def report(results: dict[str, Any]) -> str:
    """The table, in per cent."""
    lines = ["# Sentiment", "", "See `walkthrough.md`. Accuracy in per cent, minutes of training."]
    for name in (name for name in SETS if name in results["sets"]):
        lines += ["", f"| {SETS[name]} | development | test | minutes | of all cores | settings |"]
        lines += ["|---|---|---|---|---|---|"]
        own = results["sets"][name]
        for row in (row for row in ROWS if row in own):
            found = own[row]
            both = " | ".join(f"{100 * found[part]:.1f}" for part in ("dev", "test"))
            more = "" if found["finished"] else ", not to its end"
            wall, cores = found["minutes"]
            minutes = f"{wall:.1f}{more} | {cores:.1f}"
            lines.append(f"| {ROWS[row]} | {both} | {minutes} | `{found['knobs']}` |")
    if "encoder" in results:
        lines += ["", f"The encoder (`experiments/encoder.py`) had {results['encoder']}."]
    return "\n".join([*lines, ""])


def main() -> None:
    """Trains, evaluates, and writes what came out."""
    flags = parser(__doc__)
    flags.add_argument("--only", choices=ROWS, nargs="*", default=list(ROWS), help="rows")
    flags.add_argument("--sets", choices=SETS, nargs="*", default=list(SETS))
    flags.add_argument("--encoder", type=Path, default=Path("runs/encoder"))
    flags.add_argument("--minutes", type=float, default=30.0, help="of each training")
    flags.add_argument("--knobs", default="", help="of configs/finetune/classify.py, for all rows")
    flags.add_argument("--workdir", type=Path, default=Path("runs/sentiment"))
    flags.add_argument("--output", type=Path, default=HERE)
    options = flags.parse_args()
    stored = options.output / "results.json"
    results = json.loads(stored.read_text()) if stored.is_file() else {"sets": {}}
    for name in options.sets:
        own = results["sets"].setdefault(name, {})
        for row in options.only:
            if own.get(row, {}).get("finished"):
                continue
            own[row] = made(row, name, options)
            print(name, row, own[row], flush=True)
            if row in HOW:
                results["encoder"] = spent(options.encoder)
            log.write_text(stored, json.dumps(results, indent=1) + "\n")
            log.write_text(options.output / "report.md", report(results))


if __name__ == "__main__":
    program(main)
