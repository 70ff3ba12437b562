"""What small models learn to write in minutes on a CPU: facts, summaries, answers.

    LM_RESEARCH_DATA=DIR python experiments/content_generation/sweep.py --minutes=5
    LM_RESEARCH_DATA=DIR python experiments/content_generation/sweep.py --only=webnlg --minutes=30

Each run is from nothing unless --init names a model, is kept in --workdir, and goes on where it
stopped: three times 10 minutes are 30. Writes results.json, which keeps what other runs gave, and
report.md beside this file.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from lm_research import log
from lm_research.data import WebNLG
from lm_research.study.runs import data_folder, evaluated, parser, program, trained

HERE = Path(__file__).parent
CONFIGS = HERE.parent.parent / "configs" / "finetune"
NAMES = {"bleu": "BLEU", "chrf": "chrF", "rouge1": "ROUGE-1", "rougeL": "ROUGE-L", "loss": "loss"}
BEAMS = 5
INSTRUCT = ("dolly_3k", "random_9k")
# The knobs of a model from nothing that takes some minutes.
SMALL = {
    "webnlg": "width=128,layers=2,vocab=4000,batch=16,limit=50,patience=50",
    "scitldr": "width=128,layers=2,vocab=4000,batch=4,length=256,new=48,limit=50,patience=50",
    "instruct": "family=llama,width=128,layers=2,heads=2,vocab=4000,length=256,batch=8,new=64,"
    "limit=20,patience=50,peak=1e-3,epochs=10",
}


def trains(name: str, data: Path, knobs: str) -> list[str]:
    """The config of a run, and fields."""
    given = ",".join(filter(None, [SMALL[name], knobs]))
    if name == "webnlg":
        corpus = data / "webnlg" / "webnlg_enriched_v1.6.tar.gz"
        return [f"{CONFIGS / 'data_to_text.py'}:corpus={corpus},{given}"]
    if name == "scitldr":
        folder = data / "scitldr"
        heldout = folder / "SciTLDR-A_dev.jsonl.gz"
        train = f"--config.data.source.source.paths={folder / 'SciTLDR-A_train.jsonl.gz'}"
        return [f"{CONFIGS / 'summarize.py'}:heldout={heldout},{given}", train]
    files = ",".join(str(data / "instruct" / f"{part}.json.gz") for part in INSTRUCT)
    return [
        f"{CONFIGS / 'instruct.py'}:{given}",
        f"--config.data.source.paths={files}",
        "--config.data.source.empty=leave out",
    ]


def judges(name: str, data: Path, scratch: Path) -> list[str]:
    """The flags of `evaluate` for a run: on the test part, where there is one."""
    if name == "instruct":
        return ["--metrics=rouge", "--beams=1", "--new=64"]
    if name == "scitldr":
        test = data / "scitldr" / "SciTLDR-A_test.jsonl.gz"
        return ["--metrics=rouge", f"--paths={test}", f"--beams={BEAMS}", "--new=48"]
    test = scratch / "webnlg_test.jsonl"
    corpus = WebNLG(str(data / "webnlg" / "webnlg_enriched_v1.6.tar.gz"), "*/en/test/*.xml")
    lines = (corpus[i] for i in range(len(corpus)))
    kept = ({"source": r["source"], "target": list(r["targets"])} for r in lines)
    log.write_text(test, "".join(json.dumps(record) + "\n" for record in kept))
    return ["--metrics=bleu,chrf", f"--paths={test}", f"--beams={BEAMS}", "--new=80"]


def measured(name: str, options: argparse.Namespace, data: Path) -> dict[str, Any]:
    """What one run gives."""
    workdir = options.workdir / name
    workdir.mkdir(parents=True, exist_ok=True)
    flags = trains(name, data, options.knobs)
    flags += [f"--config.init={options.init}"] if options.init else []
    minutes = trained(workdir, options.minutes, *flags).wall
    if not (rows := log.rows(workdir)):
        raise SystemExit(f"{name} made no step in {minutes:.1f} minutes; more of them go on")
    flags = [f"--output={workdir / 'written.txt'}", *judges(name, data, options.workdir)]
    flags += [] if options.limit is None else [f"--limit={options.limit}"]
    numbers, signatures = evaluated(workdir, *flags)
    numbers = {name: numbers[name] for name in NAMES if name in numbers}
    facts = log.stored_facts(workdir)
    return {
        "minutes": round(minutes, 1),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "step": rows[-1]["step"],
        "steps": json.loads((workdir / "config.json").read_text())["steps"],
        "parameters": facts["parameters"],
        "init": Path(options.init).name,  # where it lies is nobody else's affair
        "limit": options.limit,
        "knobs": ",".join(filter(None, [SMALL[name], options.knobs])),
        "numbers": numbers,
        "signatures": signatures,
    }


def report(results: dict[str, Any]) -> str:
    """The tables."""
    metrics = [name for name in NAMES if any(name in r["numbers"] for r in results.values())]
    heads = " | ".join(NAMES[name] for name in metrics)
    lines = ["# Content generation: small budgets on a CPU", ""]
    lines += ["See `walkthrough.md`. The loss is in nats per token of what is written.", ""]
    lines += [f"| run | minutes | steps | parameters | started from | records | {heads} |"]
    lines += ["|---" * (6 + len(metrics)) + "|"]
    for name, own in results.items():
        told = " | ".join(
            f"{own['numbers'][m]:.2f}" if m in own["numbers"] else "" for m in metrics
        )
        records = "all" if own["limit"] is None else f"first {own['limit']}"
        lines.append(
            f"| {name} | {own['minutes']:.1f}, cores: {own['cores']} | {own['step']:,} of "
            f"{own['steps']:,} | {own['parameters']:,} | {own['init'] or 'nothing'} | {records} "
            f"| {told} |"
        )
    lines += ["", *(f"- {name}: `{own['knobs']}`" for name, own in results.items())]
    signatures = dict.fromkeys(s for own in results.values() for s in own["signatures"])
    return "\n".join([*lines, "", *(f"`{signature}`  " for signature in signatures), ""])


def main() -> None:
    """Trains, evaluates, and writes what came out."""
    flags = parser(__doc__)
    flags.add_argument("--only", choices=list(SMALL), nargs="*", default=list(SMALL))
    flags.add_argument("--minutes", type=float, default=5.0, help="of training, each")
    flags.add_argument("--workdir", type=Path, default=Path("runs/content_generation"))
    flags.add_argument("--init", default="", help="a run or a Hugging Face directory")
    flags.add_argument("--knobs", default="", help="others of the configs")
    flags.add_argument("--limit", type=int, help="records to write from; by default all")
    flags.add_argument("--output", type=Path, default=HERE)
    options = flags.parse_args()
    data = data_folder()
    stored = options.output / "results.json"
    results = json.loads(stored.read_text()) if stored.is_file() else {}
    for name in options.only:
        results[name] = measured(name, options, data)
        print(name, results[name]["numbers"], flush=True)
        log.write_text(stored, json.dumps(results, indent=1) + "\n")
        log.write_text(options.output / "report.md", report(results))


if __name__ == "__main__":
    program(main)
