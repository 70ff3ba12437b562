"""Multi30k from scratch on a CPU: trains for a given time, translates the tests, and reports.

    LM_RESEARCH_DATA=DIR python experiments/translation/sweep.py --minutes=90 --workdir=runs
    LM_RESEARCH_DATA=DIR python experiments/translation/sweep.py --only=en-de --minutes=30

Runs are kept in --workdir and go on where they stopped: three times 30 minutes are 90. Writes
results.json and report.md beside this file, the learning curve among them.
"""

import json
from pathlib import Path
from typing import Any

from lm_research import log
from lm_research.study.runs import data_folder, evaluated, parser, program, trained

HERE = Path(__file__).parent
CONFIG = HERE.parent.parent / "configs" / "translation.py"
RUNS = {"en-de": "en-de", "en-de-fr": "en-de+en-fr"}  # and the knob `pairs` of each
TESTS = ("test_2016_flickr", "test_2017_flickr", "test_2017_mscoco", "test_2018_flickr")
NAMES = {"bleu": "BLEU", "chrf": "chrF"}


def judged(workdir: Path, corpus: Path, test: str, language: str, beams: int, tag: str | None):
    """What `evaluate` prints of a test: numbers by name, and signatures."""
    files = ",".join(str(corpus / f"{test}.{one}.gz") for one in ("en", language))
    output = workdir / "outputs" / f"{test}.beam{beams}.{language}"
    output.parent.mkdir(exist_ok=True)
    flags = ["--metrics=bleu,chrf", "--new=60", f"--beams={beams}", f"--paths={files}"]
    flags += [f"--output={output}", *([] if tag is None else [f"--tag={tag}"])]
    numbers, signatures = evaluated(workdir, *flags)
    return {name: numbers[name] for name in NAMES if name in numbers}, signatures


def curve(workdir: Path) -> list[dict[str, Any]]:
    """The evaluations of a run, in order."""
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if row["kind"] == "eval"]


def report(results: dict[str, Any]) -> str:
    """The tables."""
    lines = ["# Multi30k from scratch on a CPU", ""]
    signatures: list[str] = []
    for name, result in results.items():
        lines += [f"## {name}: {result['minutes']:.0f} minutes", ""]
        lines += ["| test | into | beams | BLEU | chrF |", "|---|---|---|---|---|"]
        for row in result["tests"]:
            numbers = " | ".join(f"{row[metric]:.2f}" for metric in NAMES)
            lines.append(f"| {row['test']} | {row['language']} | {row['beams']} | {numbers} |")
            signatures = row["signatures"]
        lines += ["", "| step | evaluation | numbers |", "|---|---|---|"]
        for row in result["curve"]:
            told = {k: v for k, v in row.items() if k.partition("/")[2] in ("bleu", "loss")}
            lines += [f"| {row['step']} | {k} | {v:.3f} |" for k, v in told.items()]
        lines.append("")
    return "\n".join([*lines, *(f"`{signature}`" for signature in signatures), ""])


def main() -> None:
    """Trains, evaluates, and writes what came out."""
    flags = parser(__doc__)
    flags.add_argument("--only", choices=list(RUNS), nargs="*", default=list(RUNS))
    flags.add_argument("--minutes", type=float, default=90.0, help="of training, each")
    flags.add_argument("--workdir", type=Path, default=Path("runs"))
    flags.add_argument("--tests", nargs="*", default=list(TESTS))
    flags.add_argument("--knobs", default="", help="others of configs/translation.py")
    options = flags.parse_args()
    corpus = data_folder() / "multi30k"
    stored = HERE / "results.json"
    results = json.loads(stored.read_text()) if stored.is_file() else {}
    for name in options.only:
        workdir = options.workdir / name
        workdir.mkdir(parents=True, exist_ok=True)
        given = ["size=small", f"corpus={corpus}", f"pairs={RUNS[name]}", options.knobs]
        config = f"{CONFIG}:{','.join(filter(None, given))}"
        minutes = trained(workdir, options.minutes, config).wall
        languages = [pair.partition("-")[2] for pair in RUNS[name].split("+")]
        tests = []
        for language in languages:
            tag = f"<2{language}>" if len(languages) > 1 else None
            for test in options.tests:
                for beams in (1, 5) if test == TESTS[0] else (5,):
                    row = dict(test=test, language=language, beams=beams)
                    numbers, signatures = judged(workdir, corpus, test, language, beams, tag)
                    tests.append({**row, **numbers, "signatures": signatures})
                    print(tests[-1], flush=True)
        results[name] = dict(minutes=minutes, tests=tests, curve=curve(workdir))
        log.write_text(stored, json.dumps(results, indent=1) + "\n")
        log.write_text(HERE / "report.md", report(results))


if __name__ == "__main__":
    program(main)
