"""Does a model that learned to answer English questions answer those of other languages?

    LM_RESEARCH_DATA=DIR python experiments/across_languages/answers.py
    LM_RESEARCH_DATA=DIR python experiments/across_languages/answers.py --languages de ru --epochs=5

The encoder is the one that sweep.py pretrained in the same --workdir. It learns from the first 192
paragraphs of XQuAD's English, and is judged by the other 48 in every language, which are
translations of one another. The run is kept in --workdir and goes on where it stopped. Writes
answers.json and answers.md beside this file.
"""

import gzip
import json
from pathlib import Path
from typing import Any

from lm_research import log
from lm_research.errors import UserError
from lm_research.study.runs import data_folder, evaluated, parser, program, trained

HERE = Path(__file__).parent
CONFIG = HERE.parent.parent / "configs" / "finetune" / "answer.py"
LANGUAGES = ("en", "de", "es", "ru", "el", "ro", "tr", "ar", "vi", "th", "zh", "hi")
TRAIN = 192  # of 240 paragraphs
KNOBS = "length=256,stride=96,question=48,batch=16,peak=1e-3,evaluations=1,patience=5"


def parts(data: Path, language: str, workdir: Path) -> dict[str, Path]:
    """Files of the paragraphs to learn from, and of those to be judged by.

    Raises:
      UserError: the language's file has not as many paragraphs as XQuAD.
    """
    source = data / "xquad" / f"xquad.{language}.json.gz"
    articles = json.loads(gzip.decompress(source.read_bytes()))["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    if len(paragraphs) != 240:
        raise UserError(f"{source} has {len(paragraphs)} paragraphs, and XQuAD 240")
    found = {}
    for part, own in (("train", paragraphs[:TRAIN]), ("test", paragraphs[TRAIN:])):
        found[part] = workdir / f"xquad.{language}.{part}.json"
        log.write_text(found[part], json.dumps({"data": [{"title": "", "paragraphs": own}]}))
    return found


def report(results: dict[str, Any]) -> str:
    """The table, in Markdown."""
    lines = [
        "# Answers across languages: XQuAD",
        "",
        f"See `answers.py`. Trained on {TRAIN} English paragraphs for {results['minutes']:.1f} "
        "minutes, after the masked",
        "language model of English, German and French captions that `report.md` tells of; judged "
        f"by {240 - TRAIN} other",
        "paragraphs, the same ones in each language.",
        "",
        "| language | exact match | F1 |",
        "|---|---|---|",
    ]
    for language, numbers in results["languages"].items():
        lines.append(f"| {language} | {numbers['exact']:.1f} | {numbers['f1']:.1f} |")
    return "\n".join([*lines, ""])


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--languages", nargs="*", choices=LANGUAGES, default=LANGUAGES)
    flags.add_argument("--minutes", type=float, default=10.0, help="of training, in all")
    flags.add_argument("--epochs", type=float, default=10.0)
    flags.add_argument("--workdir", type=Path, default=Path("runs/across_languages"))
    flags.add_argument("--output", type=Path, default=HERE)
    options = flags.parse_args()
    data, work = data_folder(), options.workdir
    english, run = parts(data, "en", work), work / "answers"
    minutes = trained(
        run,
        options.minutes,
        f"{CONFIG}:{KNOBS},heldout={english['test']},epochs={options.epochs}",
        f"--config.data.source.paths={english['train']}",
        f"--config.init={work / 'encoder'}",
    ).wall
    languages = {}
    for language in options.languages:
        numbers, _ = evaluated(run, f"--paths={parts(data, language, work)['test']}", "--batch=32")
        languages[language] = {name: numbers[name] for name in ("exact", "f1")}
        print(language, languages[language], flush=True)
    results = {"minutes": minutes, "epochs": options.epochs, "languages": languages}
    log.write_text(options.output / "answers.json", json.dumps(results, indent=1) + "\n")
    log.write_text(options.output / "answers.md", report(results))


if __name__ == "__main__":
    program(main)
