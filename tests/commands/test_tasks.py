"""Words get labels and questions answers from the command line, and both are judged."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from lm_research import tree
from lm_research.data import Bytes
from lm_research.evals import answers
from lm_research.models import BERT, Classifier
from lm_research.models.initial import initial
from lm_research.train.restore import Loaded, save_run

FINETUNE = Path(__file__).parents[2] / "configs" / "finetune"
TRUNK = dict(kind="BERT", vocab=259, width=8, layers=1, heads=2, context=32, dropout=0.0)
WORDS = [(a, b) for a in ("ab", "bc", "cd") for b in ("xy", "yz", "z")]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What a run leaves: by its classes, data and judge; its weights are drawn at random."""
    make = jax.jit(
        lambda key: tree.unboxed(initial(Classifier(BERT(**trunk), ("a", "b"), "each"), key))
    )
    trunk = {name: value for name, value in TRUNK.items() if name != "kind"}
    params = jax.tree.map(lambda leaf: 10 * leaf, make(jax.random.key(0)))
    tokenizer = Bytes(roles=("cls", "sep")).train(())

    def saved(classes, objective, data, judge):
        path = tmp_path_factory.mktemp("run")
        section = dict(kind="Classifier", trunk=TRUNK, classes=classes, pool="each", dropout=0.0)
        save_run(path, Loaded(None, params, tokenizer, section, context=32, step=1))
        data = dict(data, tokenizer=dict(kind="Bytes"), heldout=0.2)
        stored = dict(
            json.loads((path / "config.json").read_text()),
            objective=dict(kind=objective, length=32),
            data=data,
            evals=dict(heldout=dict(kind=judge, every=9)),
        )
        (path / "config.json").write_text(json.dumps(stored))
        return f"--checkpoint={path}"

    return saved


def numbers(out):
    """What `evaluate` printed."""
    return {n: float(x) for n, _, x in (line.partition(": ") for line in out.splitlines())}


def test_words_get_labels(run, command, tmp_path):
    data = dict(kind="LabelledWords", source=dict(kind="CoNLL", paths="gone.conll", column=1))
    checkpoint = run(["B-X", "O"], "Tag", data, "WordScores")
    (tmp_path / "new.jsonl").write_text("".join(json.dumps({"words": w}) + "\n" for w in WORDS))
    status, out, err = command("predict", checkpoint, f"--input={tmp_path / 'new.jsonl'}")
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and [tuple(row["words"]) for row in rows] == WORDS, err
    assert all(0.5 <= chance <= 1 for row in rows for chance in row["probabilities"])
    status, out, _ = command("predict", checkpoint, "--text=ab  xy")
    [row] = map(json.loads, out.splitlines())
    assert row["labels"] == rows[0]["labels"] and set(row["labels"]) <= {"B-X", "O"}

    file = tmp_path / "other.conll"
    file.write_text("".join(f"{a} B-X\n{b} O\n\n" for a, b in WORDS))
    status, out, err = command("evaluate", checkpoint, f"--paths={file}")
    right = np.mean([np.array(row["labels"]) == ["B-X", "O"] for row in rows])
    found = numbers(out)
    assert status == 0 and np.isclose(found["accuracy"], right, atol=1e-4), err
    assert found["score"] == found["f1"] and "most frequent" not in found
    told = command("predict", checkpoint, f"--input={file}")[1].splitlines()
    assert [json.loads(line) for line in told] == rows
    for arguments, words in (
        (["predict", checkpoint, "--text= "], "--text=' ' has no words to label"),
        (["predict", checkpoint, "--text=a", "--threshold=0"], "answers no questions"),
        (["evaluate", checkpoint, f"--paths={tmp_path / 'no.conll'}"], "there is no file"),
    ):
        status, _, err = command(*arguments)
        assert status == 2 and words in err and "Traceback" not in err


def test_questions_get_answers(run, command, tmp_path):
    data = dict(
        kind="Questions", source=dict(kind="SQuAD", paths="gone.json"), question=8, stride=8
    )
    checkpoint = run(["start", "end"], "Span", data, "AnswerScores")
    paragraphs = []
    for i, (a, b) in enumerate(WORDS):
        asked = {"id": str(i), "question": "who", "answers": [{"text": a, "answer_start": 3}]}
        paragraphs.append({"context": f"no {a} {b} and so on and on {i}", "qas": [asked]})
    file, to = tmp_path / "dev.json", tmp_path / "told.json"
    file.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    status, _, err = command("predict", checkpoint, f"--input={file}", f"--output={to}")
    assert status == 0, err
    told = json.loads(to.read_text())
    assert list(told) == [str(i) for i in range(len(WORDS))]

    given = ("--text=who", f"--pair={paragraphs[0]['context']}")
    row = json.loads(command("predict", checkpoint, *given)[1])
    assert row["answer"] == told["0"] and 0 <= row["no_answer"] < row["probability"] < 1
    assert paragraphs[0]["context"][row["start"] :].startswith(row["answer"])
    row = json.loads(command("predict", checkpoint, *given, "--threshold=-1e9")[1])
    assert row["answer"] == "" and row["start"] is None and row["probability"] == row["no_answer"]

    status, out, err = command("evaluate", checkpoint, f"--paths={file}")
    by_hand = answers.judged(list(told.values()), [[a] for a, _ in WORDS], [0.0] * len(WORDS))
    found = numbers(out)
    assert status == 0 and all(np.isclose(found[n], by_hand[n], atol=1e-4) for n in by_hand), err
    status, _, err = command("predict", checkpoint, "--text=who")
    assert status == 2 and "has no question with its context" in err


def test_answers_are_empty_where_questions_may_be_impossible(run, command, tmp_path, monkeypatch):
    from lm_research.infer import answer

    told = answer.Answer((answer.Candidate("ab", 3, 0.0, 0.4),), difference=0.5, none=0.6)
    monkeypatch.setattr(answer, "answer", lambda *given, **more: [told] * len(given[3]))
    data = dict(kind="Questions", source=dict(kind="SQuAD", paths="gone.json"))
    checkpoint = run(["start", "end"], "Span", data, "AnswerScores")
    asked = {"id": "0", "question": "who", "answers": [{"text": "ab", "answer_start": 3}]}
    file = tmp_path / "dev.json"
    answers = lambda *more: [
        json.loads(line)["answer"] for line in command("predict", checkpoint, *more)[1].splitlines()
    ]
    for others, found in (([], "ab"), ([{"id": "1", "question": "x", "is_impossible": True}], "")):
        paragraph = {"context": "no ab", "qas": [asked, *others]}
        file.write_text(json.dumps({"data": [{"paragraphs": [paragraph]}]}))
        assert answers(f"--input={file}") == [found] * (1 + len(others))
    assert answers(f"--input={file}", "--threshold=1") == ["ab"] * 2
    given = "--text=who", "--pair=no ab"
    assert answers(*given) == ["ab"]
    kept = Path(checkpoint.partition("=")[2]) / "data" / "train_answers"
    kept.mkdir(parents=True)
    np.save(kept / "answers.npy", np.int32([[1, 2], [-1, -1]]))
    assert answers(*given) == [""]


@pytest.mark.parametrize("name", ["tag", "answer"])
def test_no_paths_is_one_line(command, tmp_path, name):
    workdir = f"--workdir={tmp_path / 'run'}"
    status, _, err = command("train", f"--config={FINETUNE / name}.py", workdir)
    assert status == 2 and "source" in err and "Traceback" not in err
