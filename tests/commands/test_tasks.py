"""Words get labels and questions answers: trained, evaluated and asked from the command line."""

import json
from pathlib import Path

import pytest

FINETUNE = Path(__file__).parents[2] / "configs" / "finetune"
SIZE = "width=32,layers=1,heads=2,vocab=261,batch=16,peak=1e-2,dropout=0.0,evaluations=1"
QUIET = ("--config.log.tensorboard=False", "--config.data.heldout=0.2")
ROWS = "{} B-X\n{} O\n\n"


def trained(command, directory, config, file):
    source = f"--config.data.source.paths={file}"
    status, out, err = command(
        "train", f"--config={FINETUNE / config}", source, f"--workdir={directory}", *QUIET
    )
    assert status == 0, err
    return out + err


def test_words_get_labels(command, tmp_path):
    file, run = tmp_path / "train.conll", f"--checkpoint={tmp_path / 'run'}"
    pairs = [(a, b) for a in ("ab", "bc", "cd") for b in ("xy", "yz", "z")]
    file.write_text("".join(ROWS.format(*pair) for pair in pairs * 10))
    config = f"tag.py:{SIZE},length=16,epochs=8,column=1"
    told = trained(command, tmp_path / "run", config, file)
    assert "f1 1.0000, most frequent 1.0000, score 1.0000" in told and "predict --ch" in told

    (tmp_path / "new.jsonl").write_text('{"words": ["ab", "xy"]}\n{"text": "cd  z"}\n')
    status, out, _ = command("predict", run, f"--input={tmp_path / 'new.jsonl'}")
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and [row["words"] for row in rows] == [["ab", "xy"], ["cd", "z"]]
    assert all(row["labels"] == ["B-X", "O"] for row in rows)
    assert all(0.5 < chance <= 1 for row in rows for chance in row["probabilities"])

    other = tmp_path / "other.conll"
    other.write_text("".join(f"{a} O\n{b} B-X\n\n" for a, b in pairs))  # the wrong way round
    found = [command("evaluate", run, *more)[1] for more in ([], [f"--paths={other}"])]
    assert "f1: 1.0000" in found[0] and "most frequent: 1.0000" in found[0]
    assert "accuracy: 0.0000" in found[1] and "most frequent" not in found[1]
    for arguments, words in (
        (["predict", run, "--text= "], "--text=' ' has no words to label"),
        (["predict", run, "--text=a", "--threshold=0"], "answers no questions"),
        (["evaluate", run, "--part=test"], "no part of the data is called 'test'"),
    ):
        status, _, err = command(*arguments)
        assert status == 2 and words in err


def test_questions_get_answers(command, tmp_path):
    names = ("ab", "cd", "ef", "gh")
    paragraphs = []
    for i in range(60):
        first, second = names[i % 4], names[(i // 4) % 4]
        answer = {"text": f"({first})", "answer_start": 3}
        asked = {"id": str(i), "question": "who", "answers": [answer]}
        paragraphs.append({"context": f"no ({first}) {second} {i}", "qas": [asked]})
    file = tmp_path / "train.json"
    file.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    config = f"answer.py:{SIZE},length=32,question=8,stride=8,epochs=12"
    assert "--pair='...'" in trained(command, tmp_path / "run", config, file)

    run = f"--checkpoint={tmp_path / 'run'}"
    asked = ("--text=who", "--pair=no (cd) ab 7")
    status, out, _ = command("predict", run, *asked)
    [row] = map(json.loads, out.splitlines())
    assert status == 0 and row["answer"] == "(cd)" and row["start"] == 3
    assert row["probability"] > row["no_answer"] > 0
    row = json.loads(command("predict", run, *asked, "--threshold=-1e9")[1])
    assert row["answer"] == "" and row["start"] is None and row["probability"] == row["no_answer"]
    to = tmp_path / "told.json"
    assert command("predict", run, f"--input={file}", f"--output={to}")[0] == 0
    told = json.loads(to.read_text())
    assert list(told) == [str(i) for i in range(60)]
    right = sum(told[str(i)] == f"({names[i % 4]})" for i in range(60)) / 60
    status, out, err = command("evaluate", run, f"--paths={file}")
    assert status == 0 and f"exact: {100 * right:.4f}" in out and right > 0.5, err
    status, _, err = command("predict", run, "--text=who")
    assert status == 2 and "has no question with its context" in err


@pytest.mark.parametrize("name", ["tag", "answer"])
def test_no_paths_is_one_line(command, tmp_path, name):
    workdir = f"--workdir={tmp_path / 'run'}"
    status, _, err = command("train", f"--config={FINETUNE / name}.py", workdir)
    assert status == 2 and "source" in err and "Traceback" not in err
