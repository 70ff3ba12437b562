"""How far each objective comes on the Python documentation, beside the entropy of its targets.

    python benchmarks/objectives.py
    python benchmarks/objectives.py --only=masked     (leaves what it has measured of the others)

A run is the user's command on a config of this project, made small. The bar is a part of the
unigram entropy: what a model would lose that knew how frequent each target is, and nothing else.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import record

ROOT = Path(__file__).parents[1]
TINY = "width=128,layers=4,heads=2,vocab=2048,length=128,batch=32,peak=2e-3"
BERT = "bert.py:source=text,size=tiny,heads=4,vocab=2048,length=64,dropout=0.0"
SECONDS = 300  # on two cores
LOSSES = ("cross_entropy", "masked_loss", "loss")  # of the targets alone, the first that there is
RUNS = {  # the config of each, and the part of the unigram entropy that is the bar
    "causal": (f"pretrain.py:family=llama,objective=causal,steps=600,{TINY}", 0.8),
    # Rotary positions learn in a third of the steps that a table of them takes.
    "masked": (
        "bert.py:family=modernbert,source=text,width=128,layers=4,heads=2,vocab=2048,batch=32,"
        "peak=2e-3,dropout=0.0,steps=600",
        0.9,
    ),
    "permutation": (f"pretrain.py:family=xlnet,objective=permutation,steps=1500,{TINY}", 0.9),
    "span corruption": (f"pretrain.py:family=t5,objective=spans,steps=900,{TINY}", 0.8),
    "prefix": (f"pretrain.py:family=llama,objective=prefix,steps=600,{TINY}", 0.8),
    "fill in the middle": (f"pretrain.py:family=llama,objective=middle,steps=600,{TINY}", 0.8),
    "denoisers": (f"pretrain.py:family=t5,objective=denoisers,steps=600,{TINY}", 0.8),
    "replaced tokens": (
        "electra.py:source=text,width=128,layers=4,heads=2,vocab=2048,batch=32,peak=2e-3,dropout=0.0,"
        "steps=1500",
        0.9,
    ),
    # Positions of a table want many steps, rather than large ones.
    "next sentence": (f"{BERT},batch=32,peak=2e-3,dtype=float32,steps=6600,pairs=next", 0.9),
    "sentence order": (f"{BERT},batch=64,peak=1.5e-3,steps=2400,pairs=order", 0.9),
}


def train(config: str, workdir: Path) -> list[dict[str, Any]]:
    """Runs a config to its end; its rows."""
    command = [
        *(sys.executable, "-m", "lm_research", "train"),
        f"--config={ROOT / 'configs'}/{config}",
        "--config.log.samples.every=0",
        f"--workdir={workdir}",
    ]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return [json.loads(line) for line in (workdir / "metrics.jsonl").open()]


def unigram_entropy(workdir: Path) -> float:
    """Of the targets that the run is judged by, in nats."""
    from lm_research.data import pipeline
    from lm_research.train.experiment import experiment

    x = experiment(json.loads((workdir / "config.json").read_text()))
    data = x.data.prepared(workdir / "data", x.objective.length)
    counts: Counter = Counter()
    for batch in pipeline.heldout_batches(data.heldout, x.bound(data.tokenizer).objective, 64):
        for target, weight in zip(batch["targets"].ravel().tolist(), batch["weights"].ravel()):
            counts[target] += float(weight)
    total = sum(counts.values())
    return -sum(n / total * math.log(n / total) for n in counts.values() if n)


def measured(config: str) -> dict[str, Any]:
    """A run's curve, its seconds, and the entropy that it is judged by."""
    with tempfile.TemporaryDirectory() as made:
        workdir, start = Path(made) / "run", time.monotonic()
        found = train(config, workdir)
        seconds, entropy = time.monotonic() - start, unigram_entropy(workdir)
    told = [row for row in found if "heldout/loss" in row]
    loss = next(f"heldout/{x}" for x in LOSSES if f"heldout/{x}" in told[-1])
    return {
        "config": config,
        "seconds": seconds,
        "unigram_entropy": entropy,
        "heldout": {str(row["step"]): row[loss] for row in told},
    }


def rows(curves: dict[str, dict[str, Any]]) -> list[record.Row]:
    """Each run's last loss beside its bar, and its time."""
    found = []
    for name, curve in curves.items():
        part = list(curve["heldout"].values())[-1] / curve["unigram_entropy"]
        what = f"objective {name}: held-out loss as a part of its targets' unigram entropy"
        found.append(record.Row(what, part, "", RUNS[name][1]))
        found.append(record.Row(f"objective {name}: the whole run", curve["seconds"], "s", SECONDS))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(RUNS), help="which, with commas between them")
    parser.add_argument("--output", type=Path, default=record.RESULTS / "objectives.json")
    options = parser.parse_args()
    before = json.loads(options.output.read_text())["curves"] if options.output.is_file() else {}
    for name in options.only.split(","):
        before[name] = measured(RUNS[name][0])
        curves = {name: before[name] for name in RUNS if name in before}
        record.write(options.output, "python benchmarks/objectives.py", rows(curves), curves=curves)


if __name__ == "__main__":
    main()
