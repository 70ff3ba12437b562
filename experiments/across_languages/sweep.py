"""Does an encoder that learned en-de pairs find translations of languages that it has no pairs of?

    LM_RESEARCH_DATA=DIR python experiments/across_languages/sweep.py
    LM_RESEARCH_DATA=DIR python experiments/across_languages/sweep.py --steps=300 --epochs=1

An encoder is trained to fill in hidden tokens of Multi30k's English, German and French training
lines, and then by contrast on its English-German pairs; beside it stands one that begins from
nothing and sees the same pairs. Both, and the encoder before any pair, find translations in
Multi30k's test set of 2016 and in Tatoeba. Runs are kept in --workdir and go on where they stopped;
--minutes are those of each training, in all. Writes results.json and report.md beside this file.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from lm_research import log, mesh
from lm_research.data import Pairs, Tatoeba
from lm_research.evals.similarity import ranks
from lm_research.infer.classify import told
from lm_research.infer.embed import embed, embedder
from lm_research.infer.text import Line
from lm_research.study.runs import data_folder, parser, program, trained
from lm_research.train.restore import open_checkpoint

HERE = Path(__file__).parent
CONFIGS = HERE.parent.parent / "configs"
SIZE = "family=modernbert,width=128,layers=3,heads=4,dtype=float32"
LANGUAGES = ("en", "de", "fr")
# Of Tatoeba: tuned with pairs; seen without pairs; not seen at all, near English and German or not.
TESTED = ("deu", "fra", "nld", "spa", "ita", "ces", "fin", "rus")


def lines(data: Path, part: str, language: str) -> list[str]:
    """Lines of a part of Multi30k."""
    name = str(data / "multi30k" / f"{part}.{language}.gz")
    both = Pairs((name, name))
    return [both[i]["source"] for i in range(len(both))]


def written(path: Path, records: list[dict[str, str]]) -> Path:
    """A line of JSON each, written once."""
    if not path.is_file():
        log.write_text(path, "".join(f"{json.dumps(record)}\n" for record in records))
    return path


def tests(data: Path) -> dict[str, list[tuple[str, str]]]:
    """Sentences and their English translations, by the name of the test."""
    english = lines(data, "test_2016_flickr", "en")
    found = {
        f"multi30k {language}": list(zip(lines(data, "test_2016_flickr", language), english))
        for language in LANGUAGES[1:]
    }
    archive = str(data / "tatoeba" / "tatoeba_v1_112langs.tar.gz")
    for language in TESTED:
        pairs = Tatoeba(archive, language)
        found[f"tatoeba {language}"] = [(pair["text"], pair["pair"]) for pair in pairs]
    return found


def retrieved(path: Path, given: dict[str, list[tuple[str, str]]]) -> dict[str, Any]:
    """How often the nearest English sentence is the translation, and back; and of how many."""
    with mesh.single():
        loaded = open_checkpoint(path)
        model, params = embedder(loaded.model, loaded.params)

        def vectors(texts: tuple[str, ...]) -> np.ndarray:
            asked = [Line(f"sentence {i}", text=text) for i, text in enumerate(texts)]
            found = embed(model, params, told(asked, loaded.tokenizer, loaded.context)[0])
            return found / np.linalg.norm(found, axis=1, keepdims=True)

        results = {}
        for name, pairs in given.items():
            sides = tuple(zip(*pairs))
            both = [vectors(side) for side in sides]
            prints = [np.unique(side, return_inverse=True)[1] for side in sides]
            into = ranks(both[0], both[1], prints[1])
            back = ranks(both[1], both[0], prints[0])
            numbers = {"into": float((into < 1).mean()), "back": float((back < 1).mean())}
            results[name] = {"pairs": len(pairs), **numbers}
    return results


def runs(options: argparse.Namespace, data: Path) -> dict[str, tuple[Path, float]]:
    """Trained models by name, and the minutes of each."""
    work = options.workdir
    texts = [{"text": x} for language in LANGUAGES for x in lines(data, "train", language)]
    text = written(work / "text.jsonl", texts)
    pairs = {}
    for part in ("train", "val"):
        both = zip(lines(data, part, "en"), lines(data, part, "de"))
        records = [{"english": one, "german": other} for one, other in both]
        pairs[part] = written(work / f"{part}.jsonl", records)
    config = f"{CONFIGS}/pretrain.py:{SIZE},length=64,batch=32,peak=2e-3,steps={options.steps}"
    source = f"--config.data.source.paths={text}"
    minutes = trained(work / "encoder", options.minutes, config, source).wall
    found = {"masked language model, no pairs": (work / "encoder", minutes)}
    knobs = f"{SIZE},text=english,pair=german,heldout={pairs['val']},symmetric=True,length=48"
    knobs += f",batch=64,peak=1e-3,evaluations=1,epochs={options.epochs}"
    config, source = f"{CONFIGS}/finetune/embed.py:{knobs}", pairs["train"]
    fields = (f"--config.data.source.paths={source}", "--config.log.tensorboard=False")
    for name, begins in (
        ("en-de pairs, from nothing", ()),
        ("masked language model, then en-de pairs", (f"--config.init={work / 'encoder'}",)),
    ):
        workdir = work / ("tuned" if begins else "scratch")
        found[name] = workdir, trained(workdir, options.minutes, config, *fields, *begins).wall
    return found


def report(results: dict[str, Any]) -> str:
    """The table, in Markdown."""
    rows, names = results["rows"], list(results["rows"])
    lines = [
        "# Translations found across languages",
        "",
        "See `question.md`. Per cent of sentences whose nearest English sentence is their",
        "translation / of English sentences whose nearest sentence is.",
        "",
        f"| test | pairs | chance | {' | '.join(names)} |",
        f"|{'---|' * (3 + len(names))}",
    ]
    for test, first in rows[names[0]]["tests"].items():
        cells = (rows[name]["tests"][test] for name in names)
        told = " | ".join(f"{100 * x['into']:.1f} / {100 * x['back']:.1f}" for x in cells)
        lines.append(f"| {test} | {first['pairs']} | {100 / first['pairs']:.1f} | {told} |")
    spent = " | ".join(f"{rows[name]['minutes']:.1f}" for name in names)
    lines += [f"| minutes of training | | | {spent} |", "", f"Budget: {results['budget']}.", ""]
    return "\n".join(lines)


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--minutes", type=float, default=10.0, help="of each training, in all")
    flags.add_argument("--steps", type=int, default=1500, help="of pretraining")
    flags.add_argument("--epochs", type=float, default=3.0, help="of pairs")
    flags.add_argument("--workdir", type=Path, default=Path("runs/across_languages"))
    flags.add_argument("--output", type=Path, default=HERE)
    options = flags.parse_args()
    data = data_folder()
    given = tests(data)
    rows = {
        name: {"minutes": minutes, "tests": retrieved(path, given)}
        for name, (path, minutes) in runs(options, data).items()
    }
    budget = f"{options.steps} steps of {SIZE}, {options.epochs:g} epochs of pairs"
    budget += f", {options.minutes:g} minutes of each at most"
    results = {"budget": budget, "rows": rows}
    log.write_text(options.output / "results.json", json.dumps(results, indent=1) + "\n")
    log.write_text(options.output / "report.md", report(results))
    print(report(results))


if __name__ == "__main__":
    program(main)
