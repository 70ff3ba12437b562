"""The assistant answers, hands over, calibrates and ends, on models that no one has trained."""

import importlib.util
import io
import re
import sys
from pathlib import Path

import jax
import pytest

from lm_research import mesh, tree
from lm_research.data import Bytes, Words
from lm_research.errors import UserError
from lm_research.models import BERT, Embedder, FastText
from lm_research.models.initial import initial
from lm_research.train.restore import Loaded, save_run

HERE = Path(__file__).parents[2] / "experiments" / "customer_service"
TRUNK = dict(vocab=259, width=16, layers=1, heads=2, dropout=0.0)
HANDED = "I hand you over to a colleague."


@pytest.fixture(scope="module")
def main():
    specification = importlib.util.spec_from_file_location("assistant", HERE / "assistant.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules["assistant"] = module
    specification.loader.exec_module(module)
    yield module.main
    del sys.modules["assistant"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Of intents, each of two as likely; and of vectors."""
    where = tmp_path_factory.mktemp("runs")
    words = Words().train(["where is my card"])
    section = dict(kind="FastText", vocab=words.vocab, classes=["card", "pin"], width=4)
    bert = dict(kind="Embedder", trunk=dict(kind="BERT", **TRUNK))
    bytes_ = Bytes(roles=("cls", "sep")).train(())
    with mesh.single():
        for name, model, tokenizer, own in (
            ("intents", FastText(words.vocab, ("card", "pin"), 4), words, section),
            ("answers", Embedder(BERT(**TRUNK)), bytes_, bert),
        ):
            params = jax.jit(lambda key, m=model: tree.unboxed(initial(m, key)))(jax.random.key(0))
            save_run(where / name, Loaded(model, params, tokenizer, own, context=64, step=1))
    return where


def test_answers_hands_over_and_ends(main, runs, monkeypatch, capsys):
    question = "Where is my new card?"
    given = [f"--intents={runs / 'intents'}", f"--faq={HERE / 'faq.tsv'}"]

    def said(*more):
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{question}\n\nxyzzy\n"))
        main([*given, *more])
        return capsys.readouterr().out.splitlines()

    first, second = said("--threshold=0.5")  # by words, of which the second message shares none
    assert first.startswith("[card 0.50, answer 1.00] New cards take")
    assert second.startswith("[card 0.50, answer 0.00]") and second.endswith(HANDED)
    first, second = said("--threshold=0.5", f"--answers={runs / 'answers'}")
    assert first.startswith("[card 0.50, answer 1.00] New cards take")
    assert all(line.endswith(HANDED) for line in said("--threshold=0.6"))


def test_calibrates(main, runs, tmp_path, capsys):
    (tmp_path / "told.tsv").write_text("where is my new card?\tcard\nWhere is my new card?\tpin\n")
    given = [f"--intents={runs / 'intents'}", f"--faq={HERE / 'faq.tsv'}"]
    main([*given, f"--calibrate={tmp_path / 'told.tsv'}"])
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert rows[6] == ["0.5", "100.0%", "50.0%", "100.0%", "50.0%"]
    assert rows[7] == ["0.6", "0.0%", "-", "0.0%", "-"]


@pytest.mark.parametrize(
    "content, words",
    [
        ("a?\tb\nno answer\n", "row 2 of {}/faq.tsv has 1 columns; it takes a question and an"),
        ("a?\tb\n\n \t\nc?\t \n", "row 4 of {}/faq.tsv has an empty column"),
        ("", "{}/faq.tsv is empty"),
    ],
)
def test_rows_that_are_no_question_and_answer(main, runs, tmp_path, content, words):
    (tmp_path / "faq.tsv").write_text(content)
    with pytest.raises(UserError, match=re.escape(words.format(tmp_path))):
        main([f"--intents={runs / 'intents'}", f"--faq={tmp_path / 'faq.tsv'}"])
