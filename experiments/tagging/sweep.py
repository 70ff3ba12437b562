"""Parts of speech of English EWT: from scratch, and after pretraining an encoder of our own.

    LM_RESEARCH_DATA=DIR python experiments/encoder.py --workdir=runs/encoder
    LM_RESEARCH_DATA=DIR python experiments/tagging/sweep.py --seeds 0 1 2 --encoder=runs/encoder
    LM_RESEARCH_DATA=DIR python experiments/tagging/sweep.py --only=scratch --minutes=20

Runs are kept in --workdir and go on where they stopped; --minutes are those of each training, in
all. Writes results.json and report.md beside this file.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from lm_research import log
from lm_research.study.runs import data_folder, evaluated, parser, program, trained

HERE = Path(__file__).parent
CONFIGS = HERE.parent.parent / "configs"
SIZE = "family=modernbert,width=128,layers=3,heads=4,dtype=float32"
TAGGED = "length=128,batch=32,peak=2e-3,dropout=0.3,trunk_dropout=0.1,patience=100,evaluations=1"


def report(results: dict[str, Any]) -> str:
    """The table."""
    lines = ["# Parts of speech of English EWT", ""]
    lines += ["| tagger | seeds | development | test | minutes of each |", "|---|---|---|---|---|"]
    percent = lambda values: f"{100 * np.mean(values):.2f} ± {100 * np.std(values):.2f}"
    for name, runs in results.items():
        found = {p: [run[p]["accuracy"] for run in runs.values()] for p in ("heldout", "test")}
        minutes = np.mean([run["minutes"] for run in runs.values()])
        row = [name, str(len(runs)), *map(percent, found.values())]
        lines.append(f"| {' | '.join(row)} | {minutes:.0f} |")
    usual = next(iter(next(iter(results.values())).values()))
    both = (f"{100 * usual[part]['most_frequent']:.2f}" for part in ("heldout", "test"))
    lines.append(f"| most frequent tag | | {' | '.join(both)} | |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Trains, evaluates, and writes what came out."""
    flags = parser(__doc__)
    kinds = ("scratch", "pretrained")
    flags.add_argument("--only", choices=kinds, nargs="*", default=kinds)
    flags.add_argument("--seeds", type=int, nargs="*", default=[0])
    flags.add_argument("--minutes", type=float, default=30.0, help="of each training")
    flags.add_argument("--epochs", type=float, default=10.0, help="of tagging")
    flags.add_argument("--encoder", type=Path, default=Path("runs/encoder"))
    flags.add_argument("--workdir", type=Path, default=Path("runs/tagging"))
    options = flags.parse_args()
    data = data_folder()
    part = lambda name: data / "ud" / f"en_ewt-ud-{name}.conllu.gz"
    stored = HERE / "results.json"
    results = json.loads(stored.read_text()) if stored.is_file() else {}
    for name in options.only:
        begins = []
        if name == "pretrained":
            begins = [f"--config.init={options.encoder}"]
        for seed in options.seeds:
            workdir = options.workdir / f"{name}-{seed}"
            files = f"heldout={part('dev')},test={part('test')},epochs={options.epochs}"
            config = f"{CONFIGS}/finetune/tag.py:{SIZE},{TAGGED},{files}"
            fields = f"--config.data.source.paths={part('train')}", f"--config.seed={seed}"
            fields += ("--config.data.grouped=20",)  # sentences of like length together
            minutes = trained(workdir, options.minutes, config, *fields, *begins).wall
            found = {
                p: evaluated(workdir, f"--part={p}", "--batch=64")[0] for p in ("heldout", "test")
            }
            results.setdefault(name, {})[str(seed)] = {"minutes": minutes, **found}
            print(name, seed, found, flush=True)
            log.write_text(stored, json.dumps(results, indent=1) + "\n")
            log.write_text(HERE / "report.md", report(results))


if __name__ == "__main__":
    program(main)
