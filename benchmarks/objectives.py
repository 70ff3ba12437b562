"""How far each objective comes on the Python documentation, beside the entropy of its targets.

    python benchmarks/objectives.py --seconds=300

A run is the user's command, on `configs/pretrain.py`. The bar is a part of the unigram entropy:
what a model would lose that knew how frequent each target is, and nothing else.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import record

ROOT = Path(__file__).parents[1]
RUNS = {  # knobs of each, and the part of the unigram entropy that is the bar
    "causal": ("family=llama,objective=causal", 0.8),
    "prefix": ("family=llama,objective=prefix", 0.8),
    "fill in the middle": ("family=llama,objective=fill_in_the_middle", 0.8),
    "several tokens": ("family=llama,objective=multi_token", 0.8),
    "masked": ("family=bert,objective=masked", 0.9),
    "next sentence": ("family=bert,objective=next_sentence", 0.9),
    "sentence order": ("family=bert,objective=sentence_order", 0.9),
    "replaced tokens": ("family=electra,objective=replaced_tokens", 0.9),
    "permutation": ("family=xlnet,objective=permutation", 0.9),
    "span corruption": ("family=t5,objective=span_corruption", 0.8),
    "denoisers": ("family=t5,objective=denoisers", 0.8),
}


def train(knobs: str, workdir: Path) -> list[dict[str, Any]]:
    """Runs a config to its end; its rows."""
    command = [
        *(sys.executable, "-m", "lm_research", "train"),
        f"--config={ROOT / 'configs' / 'pretrain.py'}:{knobs}",
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(RUNS), help="which, with commas between them")
    parser.add_argument("--seconds", type=float, default=300, help="that a run may take, about")
    parser.add_argument("--output", type=Path, default=record.RESULTS / "objectives.json")
    options = parser.parse_args()
    rows, curves = [], {}
    for name in options.only.split(","):
        knobs, bar = RUNS[name]
        with tempfile.TemporaryDirectory() as made:
            workdir = Path(made) / "run"
            found = train(knobs, workdir)
            entropy = unigram_entropy(workdir)
        loss = "heldout/cross_entropy" if "heldout/cross_entropy" in found[-1] else "heldout/loss"
        curve = {row["step"]: row[loss] for row in found if loss in row}
        curves[name] = {"unigram_entropy": entropy, "heldout": curve}
        part = min(curve.values()) / entropy
        what = f"objective {name}: held-out loss as a part of its targets' unigram entropy"
        rows.append(record.Row(what, part, "", bar))
        print(f"{rows[-1].what}: {part:.3f}", flush=True)
    record.write(options.output, "python benchmarks/objectives.py", rows, curves=curves)


if __name__ == "__main__":
    main()
