"""A first line of customer service: tells what a message is about, answers it, or hands it over.

    python experiments/customer_service/assistant.py --intents=runs/intents --faq=faq.tsv \
        --answers=runs/answers --threshold=0.6
    python experiments/customer_service/assistant.py --intents=runs/intents --faq=faq.tsv \
        --calibrate=heldout.tsv

--intents is a run that tells classes of texts (configs/fasttext.py, configs/finetune/classify.py).
--faq is a file of questions and answers with a tab between, in which the question that is nearest
to the message is looked for: by vectors of --answers (a run of configs/finetune/embed.py or any
encoder), and without it by the words that both share, rare ones counting more.

A message is answered where the likelihood of its class and the cosine of the nearest question are
both at or above --threshold; else it is handed over to a person. Messages come a line each, from
the terminal or from a pipe; the end of input (Ctrl-D) ends it. --calibrate reads messages with
their classes, a tab between, that nothing was trained on, and tells for each threshold how many
are answered and how often the class of those is right.
"""

import argparse
import dataclasses
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from lm_research import mesh
from lm_research.data.text import whole_text
from lm_research.errors import UserError
from lm_research.infer.classify import classify, told
from lm_research.infer.embed import embed, embedder, nearest
from lm_research.infer.text import Line
from lm_research.study.runs import parser, program
from lm_research.train.restore import open_checkpoint

WORD = re.compile(r"\w+")
THRESHOLDS = np.arange(0, 1, 0.1)

Vectors = Callable[[Sequence[str]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Reply:
    """What is said to a message.

    Attributes:
      intent: the likeliest class.
      likelihood: of it.
      answer: of the nearest question.
      cosine: of that question and the message.
    """

    intent: str
    likelihood: float
    answer: str
    cosine: float

    @property
    def confidence(self) -> float:
        """The less certain of both."""
        return min(self.likelihood, self.cosine)


@dataclasses.dataclass(frozen=True)
class Assistant:
    """A model of intents, and the answers of a company.

    Attributes:
      chances: probabilities of the classes of messages, [messages, classes].
      classes: their names.
      vectors: of texts, [texts, D].
      questions: vectors of the questions, [questions, D].
      answers: to them.
    """

    chances: Callable[[Sequence[str]], np.ndarray]
    classes: tuple[str, ...]
    vectors: Vectors
    questions: np.ndarray
    answers: tuple[str, ...]

    def replies(self, messages: Sequence[str]) -> list[Reply]:
        """What is said to each message."""
        chances = self.chances(messages)
        places, cosines = nearest(self.vectors(messages), self.questions, 1)
        return [
            Reply(self.classes[own.argmax()], float(own.max()), self.answers[place], float(cosine))
            for own, place, cosine in zip(chances, places[:, 0].tolist(), cosines[:, 0])
        ]


def rows(path: Path, takes: str) -> list[tuple[str, str]]:
    """Two texts of each line of a file, with a tab between.

    Raises:
      UserError: there is no such file, nothing in it, or a row has not two; says which.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    found = []
    for number, line in enumerate(whole_text(path).split("\n"), 1):
        if not line.strip():
            continue
        columns = [column.strip() for column in line.split("\t")]
        if len(columns) != 2 or not all(columns):
            what = f"{len(columns)} columns" if len(columns) != 2 else "an empty column"
            raise UserError(f"row {number} of {path} has {what}; it takes {takes}, a tab between")
        found.append(tuple(columns))
    if not found:
        raise UserError(f"{path} is empty; it takes {takes}, a tab between, in each row")
    return found


def by_words(questions: Sequence[str]) -> Vectors:
    """Vectors of the words of some questions: counts, of rare words more (Sparck Jones, 1972)."""
    words = lambda text: Counter(word.lower() for word in WORD.findall(text))
    counted = [words(question) for question in questions]
    documents = Counter(word for own in counted for word in own)
    rare = {word: np.log((1 + len(counted)) / (1 + n)) + 1 for word, n in documents.items()}
    place = {word: i for i, word in enumerate(rare)}

    def vectors(texts: Sequence[str]) -> np.ndarray:
        found = np.zeros((len(texts), len(place)), np.float32)
        for row, text in enumerate(texts):
            for word, count in words(text).items():
                if word in place:
                    found[row, place[word]] = count * rare[word]
        return found

    return vectors


def lines(texts: Sequence[str]) -> list[Line]:
    """Texts as requests."""
    return [Line(f"message {i}", text=text) for i, text in enumerate(texts, 1)]


def by_meaning(path: Path) -> Vectors:
    """The vectors of a run."""
    loaded = open_checkpoint(path)
    model, params = embedder(loaded.model, loaded.params)

    def vectors(texts: Sequence[str]) -> np.ndarray:
        return embed(model, params, told(lines(texts), loaded.tokenizer, loaded.context)[0])

    return vectors


def assistant(options: argparse.Namespace) -> Assistant:
    """The assistant of the command line.

    Raises:
      UserError: a run or a file cannot be used.
    """
    faq = rows(options.faq, "a question and an answer")
    questions, answers = zip(*faq)
    loaded = open_checkpoint(options.intents)
    if not (classes := getattr(loaded.model, "classes", None)):
        raise UserError(f"--intents={options.intents} tells no classes of texts")
    vectors = by_words(questions) if options.answers is None else by_meaning(options.answers)

    def chances(texts: Sequence[str]) -> np.ndarray:
        tokens, types = told(lines(texts), loaded.tokenizer, loaded.context)
        return classify(loaded.model, loaded.params, tokens, types)

    return Assistant(chances, tuple(classes), vectors, vectors(questions), answers)


def chat(served: Assistant, threshold: float) -> None:
    """Answers messages of standard input, until it ends."""
    asks = sys.stdin.isatty()
    if asks:
        print("Ask, a line at a time; Ctrl-D ends.")
    while True:
        if asks:
            print("> ", end="", flush=True)
        if not (message := sys.stdin.readline()):
            break
        if not message.strip():
            continue
        [reply] = served.replies([message.strip()])
        about = f"[{reply.intent} {reply.likelihood:.2f}, answer {reply.cosine:.2f}]"
        said = reply.answer if reply.confidence >= threshold else "I hand you over to a colleague."
        print(f"{about} {said}", flush=True)


def calibration(served: Assistant, told: Sequence[tuple[str, str]]) -> list[str]:
    """A table: for each threshold, how many messages are answered and how often rightly."""
    found = served.replies([message for message, _ in told])
    right = np.array([reply.intent == intent for reply, (_, intent) in zip(found, told)])
    by = {
        "class and answer": np.array([reply.confidence for reply in found]),
        "class alone": np.array([reply.likelihood for reply in found]),
    }
    table = ["threshold\t" + "\t".join(f"{name}: answered\tclass right" for name in by)]
    for threshold in THRESHOLDS:
        cells = []
        for confidence in by.values():
            kept = confidence >= threshold
            share = f"{100 * right[kept].mean():.1f}%" if kept.any() else "-"
            cells += [f"{100 * kept.mean():.1f}%", share]
        table.append(f"{threshold:.1f}\t" + "\t".join(cells))
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Chats, or calibrates.

    Raises:
      UserError: a run or a file cannot be used.
    """
    flags = parser(__doc__)
    flags.add_argument("--intents", type=Path, required=True, help="a run that tells classes")
    flags.add_argument("--faq", type=Path, required=True, help="question TAB answer in each row")
    flags.add_argument("--answers", type=Path, help="a run that makes vectors")
    flags.add_argument("--threshold", type=float, default=0.6)
    flags.add_argument("--calibrate", type=Path, help="message TAB class in each row")
    options = flags.parse_args(arguments)
    with mesh.single():
        served = assistant(options)
        if options.calibrate is None:
            chat(served, options.threshold)
        else:
            table = calibration(served, rows(options.calibrate, "a message and its class"))
            print("\n".join(table))


if __name__ == "__main__":
    program(main)
