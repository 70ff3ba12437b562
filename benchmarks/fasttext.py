"""fastText beside the authors' own program: the same numbers, then accuracy and seconds on SST-2.

    LM_RESEARCH_DATA=DIR python benchmarks/fasttext.py --peer=PYTHON

PYTHON is an interpreter that has the package `fasttext`, which wants numpy before 2 and so an
environment of its own:

    python -m venv peer && peer/bin/pip install fasttext-wheel 'numpy<2'

First the peer trains on SST-2 with n-grams of words and of characters; its matrices become our
parameters, and probabilities and word vectors are compared. Then each side trains with bigrams of
words, as its users run it, and is scored on the labelled test sentences; settings were chosen on
the development set. A linear SVM on TF-IDF of words and bigrams stands beside them (`pip install
scikit-learn`).
"""

import argparse
import csv
import gzip
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import record

ROOT = Path(__file__).parents[1]
PARITY = dict(dim=10, epoch=3, wordNgrams=3, minn=2, maxn=4, bucket=20_000, thread=1)
TRAINED = dict(dim=32, epoch=10, wordNgrams=2, bucket=2**18, thread=2, lr=0.25)
OURS = "text=sentence,order=2,width=32"
MORE = "text=sentence,order=2,width=32,least=3,most=5,length=384"
UNSEEN = ["unbekannte Wörter stehen hier", "café naïve über 日本語", ""]

# What runs in the peer's interpreter: JSON with settings, texts and paths in, JSON out.
PEER = """
import json, sys, time
import fasttext
asked = json.load(sys.stdin)
start = time.time()
model = fasttext.train_supervised(asked["train"], verbose=0, **asked["settings"])
seconds = time.time() - start
labels, chances = model.predict(asked["texts"], k=-1)
words = model.get_words()
found = {
    "seconds": seconds,
    "labels": model.get_labels(),
    "chances": [dict(zip(a, map(float, b))) for a, b in zip(labels, chances)],
    "words": words,
}
if asked["matrices"]:
    import numpy as np
    np.savez(asked["matrices"], embedding=model.get_input_matrix(), out=model.get_output_matrix())
    found["vectors"] = [model.get_word_vector(word).tolist() for word in words]
json.dump(found, open(asked["output"], "w"))
"""


def sst2(part: str) -> tuple[list[str], list[str]]:
    """Sentences and labels."""
    with gzip.open(record.data(f"sst2/glue_{part}.tsv.gz"), "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [row["sentence"].strip() for row in rows], [row["label"] for row in rows]


def peer(python: str, scratch: Path, settings: dict, texts: list[str], matrices: str = "") -> dict:
    """What the authors' program says of texts when it has been trained."""
    sentences, labels = sst2("train")
    train, output = scratch / "train.txt", scratch / "peer.json"
    train.write_text("".join(f"__label__{b} {a}\n" for a, b in zip(sentences, labels)))
    asked = dict(train=str(train), settings=settings, texts=texts, output=str(output))
    given = json.dumps(asked | {"matrices": matrices})
    subprocess.run([python, "-c", PEER], input=given, text=True, check=True, cwd=scratch)
    return json.loads(output.read_text())


def parity(python: str, scratch: Path) -> list[record.Row]:
    """Our model with the peer's matrices, beside the peer."""
    from lm_research.data import Words
    from lm_research.hub.vectors import word_vectors
    from lm_research.infer.classify import classify
    from lm_research.models import FastText

    texts = sst2("test-labeled")[0] + UNSEEN
    found = peer(python, scratch, PARITY, texts, str(scratch / "matrices.npz"))
    matrices = np.load(scratch / "matrices.npz")
    characters = PARITY["minn"], PARITY["maxn"]
    words = Words(order=PARITY["wordNgrams"], characters=characters, buckets=PARITY["bucket"])
    bag = words.train(sst2("train")[0])
    if set(bag.known) != set(found["words"]):
        raise SystemExit("the two sides know other words")
    table = np.zeros((bag.vocab, PARITY["dim"]), np.float32)
    row = {word: i for i, word in enumerate(found["words"])}
    ids = [i for i in range(bag.words) if i != bag.unk]
    table[ids] = matrices["embedding"][[row[word] for word in bag.known]]
    table[bag.words :] = matrices["embedding"][len(row) :]
    model = FastText(bag.vocab, tuple(found["labels"]), PARITY["dim"])
    params = {"embedding": {"table": table}, "kernel": matrices["out"].T}
    ours = classify(model, params, [bag.whole(text) for text in texts])
    theirs = np.array([[each[label] for label in found["labels"]] for each in found["chances"]])
    theirs -= 1e-5  # which they add before they take the logarithm
    vectors = dict(zip(found["words"], found["vectors"]))
    apart = word_vectors(bag, table) - np.array([vectors[word] for word in bag.known])
    what = "fastText with the authors' matrices"
    return [
        record.Row(
            f"{what}: largest difference of probabilities",
            float(abs(ours - theirs).max()),
            "",
            1e-4,
        ),
        record.Row(
            f"{what}: largest difference of word vectors", float(abs(apart).max()), "", 1e-4
        ),
    ]


def ours(scratch: Path, knobs: str) -> tuple[float, float]:
    """Accuracy on the test sentences, and seconds of the whole command, text to checkpoint."""
    directory = record.data("sst2")
    command = [
        *(sys.executable, "-m", "lm_research", "train"),
        f"--config={ROOT / 'configs'}/fasttext.py:{knobs},heldout={directory}/glue_dev.tsv.gz",
        f"--config.data.source.paths={directory / 'glue_train.tsv.gz'}",
        *("--config.log.tensorboard=False", f"--workdir={scratch / 'run'}"),
    ]
    start = time.monotonic()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - start
    texts, labels = sst2("test-labeled")
    lines, output = scratch / "in.jsonl", scratch / "out.jsonl"
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    told = [f"--checkpoint={scratch / 'run'}", f"--input={lines}", f"--output={output}"]
    subprocess.run(
        [sys.executable, "-m", "lm_research", "predict", *told],
        **dict(cwd=ROOT, check=True, stdout=subprocess.DEVNULL),
    )
    classes = [json.loads(line)["class"] for line in output.open()]
    return float(np.mean([a == b for a, b in zip(classes, labels)])), seconds


def svm() -> float:
    """Accuracy of a linear SVM on TF-IDF of words and bigrams."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.svm import LinearSVC

    (train, labels), (test, right) = sst2("train"), sst2("test-labeled")
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+")
    machine = LinearSVC(C=0.5).fit(vectorizer.fit_transform(train), labels)
    return float((machine.predict(vectorizer.transform(test)) == np.array(right)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", default="", help="a Python that has the package fasttext")
    parser.add_argument("--output", type=Path, default=record.RESULTS / "fasttext.json")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as made:
        for name, knobs in (("bigrams of words", OURS), ("and n-grams of characters", MORE)):
            scratch = Path(made) / name.replace(" ", "_")
            scratch.mkdir()
            right, seconds = ours(scratch, knobs)
            bar = 83 if knobs == OURS else None
            what = f"SST-2 test, fastText of this project, {name}"
            rows.append(record.Row(f"{what}: accuracy", 100 * right, "%", bar, lower=False))
            rows.append(record.Row(f"{what}: the whole command", seconds, "s", bar and 60))
        rows.append(record.Row("SST-2 test, TF-IDF and a linear SVM: accuracy", 100 * svm(), "%"))
        if options.peer:
            texts, right = sst2("test-labeled")
            found = peer(options.peer, Path(made), TRAINED, texts)
            best = [max(each, key=each.get).removeprefix("__label__") for each in found["chances"]]
            score = 100 * float(np.mean([a == b for a, b in zip(best, right)]))
            what = "SST-2 test, the authors' program, bigrams of words"
            rows.append(record.Row(f"{what}: accuracy", score, "%"))
            rows.append(record.Row(f"{what}: training alone", found["seconds"], "s"))
            rows += parity(options.peer, Path(made))
    record.write(options.output, "python benchmarks/fasttext.py --peer=PYTHON", rows)


if __name__ == "__main__":
    main()
