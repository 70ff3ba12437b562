"""Questions with choices from the command line: a run that chooses, and a language model."""

import json

import jax
import numpy as np
import pytest

from lm_research import config, mesh, tree
from lm_research.data import Bytes
from lm_research.infer import score
from lm_research.infer.choose import likelihoods
from lm_research.models.initial import initial
from lm_research.train.experiment import CONTENTS
from lm_research.train.restore import Loaded, open_checkpoint, save_run

ROWS = [("who sat", ["a cat", "on the mat", "b"], 0), ("what", ["mat", "é"], 1)] * 3
SIZES = dict(vocab=259, width=8, layers=1, heads=2, context=48, dropout=0.0)
MODELS = {
    "chooses": dict(
        kind="Classifier", trunk=dict(kind="BERT", **SIZES), classes=["choice"], dropout=0.0
    ),
    "decodes": dict(kind="GPT2", **SIZES),
    "writes": dict(kind="T5", vocab=259, width=8, layers=1, heads=2, head=4),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A directory with a model whose weights are drawn at random."""

    def saved(name):
        path = tmp_path_factory.mktemp(name)
        model = config.build(MODELS[name], CONTENTS, "model")
        params = tree.unboxed(jax.jit(initial, static_argnums=0)(model, jax.random.key(0)))
        params = jax.tree.map(lambda leaf: 10 * leaf, params)
        tokenizer = Bytes(roles=("cls", "sep") if name == "chooses" else ()).train(())
        save_run(path, Loaded(None, params, tokenizer, MODELS[name], context=48, step=1))
        return path

    return saved


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "own.jsonl"
    named = ("question", "choices", "answer")
    path.write_text("".join(json.dumps(dict(zip(named, row))) + "\n" for row in ROWS))
    return path


def numbers(out):
    return {n: float(x) for n, _, x in (line.partition(": ") for line in out.splitlines())}


def test_a_run_chooses(checkpoint, command, questions, tmp_path):
    given, to = f"--checkpoint={checkpoint('chooses')}", tmp_path / "told.jsonl"
    status, _, err = command("predict", given, f"--input={questions}", f"--output={to}")
    rows = [json.loads(line) for line in to.read_text().splitlines()]
    assert status == 0 and [len(row["probabilities"]) for row in rows] == [3, 2] * 3, err
    assert all(np.isclose(sum(row["probabilities"]), 1, atol=1e-5) for row in rows)
    for row, (_, choices, _) in zip(rows, ROWS):
        assert row["number"] == np.argmax(row["probabilities"])
        assert row["choice"] == choices[row["number"]]
    question, choices, _ = ROWS[0]
    asked = [f"--text={question}", *(f"--choice={choice}" for choice in choices)]
    status, out, _ = command("predict", given, *asked)
    best = max(rows[0]["probabilities"])
    assert status == 0 and out == f"{rows[0]['choice']}\t{best:.4f}\t{question}\n"
    status, out, err = command("evaluate", given, f"--choices={questions}")
    right = np.mean([row["number"] == answer for row, (*_, answer) in zip(rows, ROWS)])
    assert status == 0 and np.isclose(numbers(out)["accuracy"], right, atol=1e-4), err
    for arguments, words in (
        (["evaluate", given, f"--paths={questions}"], "is no run with files of its own"),
        (["predict", given, "--text=a", "--choice=b"], "has 1 choices; it takes two or more"),
        (["predict", given, "--text=a"], "predict takes one question from --text"),
        (["evaluate", given, "--choices=no.csv"], "there is no file no.csv"),
        (["evaluate", given, f"--choices={questions}", "--paths=a"], "leave out --paths"),
    ):
        status, _, err = command(*arguments)
        assert status == 2 and words in err and "Traceback" not in err


@pytest.mark.parametrize("name", ["decodes", "writes"])
def test_a_language_model_takes_the_likeliest(name, checkpoint, command, questions):
    path = checkpoint(name)
    with mesh.single():
        loaded = open_checkpoint(path)
        model, params, tokenizer = loaded.model, loaded.params, loaded.tokenizer
        asked = [dict(zip(("question", "choices", "answer"), row)) for row in ROWS[:2]]
        found = likelihoods(model, params, tokenizer, asked)
        for question, own in zip(asked, found):
            before = f"Question: {question['question']}\nAnswer:"
            for choice, told in zip(question["choices"], own):
                if name == "decodes":
                    tokens = tokenizer.encode(f"{before} {choice}")
                    [each] = score(model, params, [tokens])
                    want = sum(each["logprobs"][len(tokenizer.encode(before)) :])
                else:
                    texts = [tokenizer.complete(text) for text in (choice, before)]
                    want = score(model, params, texts[:1], texts[1:])[0]["sum"]
                assert np.isclose(told, want, rtol=1e-4)
    status, out, err = command("evaluate", f"--checkpoint={path}", f"--choices={questions}")
    told = numbers(out)
    sizes = [np.array([len(c.encode()) for c in question["choices"]]) for question in asked]
    for key, per in (("accuracy", [1, 1]), ("accuracy norm", sizes)):
        best = [(own / size).argmax() for own, size in zip(found, per)]
        right = np.mean([b == question["answer"] for b, question in zip(best, asked)])
        assert status == 0 and np.isclose(told[key], right, atol=1e-4), err
    assert np.isclose(told["chance"], 5 / 12, atol=1e-4)
    status, out, err = command("predict", f"--checkpoint={path}", f"--input={questions}")
    assert status == 0 and out.splitlines()[0].startswith(asked[0]["choices"][found[0].argmax()])
    if name == "decodes":
        arguments = "--text=q", f"--choice={'a' * 60}", "--choice=b"
        status, _, err = command("predict", f"--checkpoint={path}", *arguments)
        assert status == 2 and "has 61 tokens, and the model's context is 48" in err
