"""From a table of labelled texts to classes of new ones, and to vectors of words."""

import json
from pathlib import Path

import numpy as np
import pytest

CONFIG = Path(__file__).parents[2] / "configs" / "fasttext.py"
GOOD, BAD = "a good and lovely film", "a bad and boring film"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "reviews.csv"
    path.write_text("review,stars\n" + f"{GOOD},five\n{BAD},one\n" * 20)
    return path


@pytest.fixture
def trained(command, tmp_path, table):
    knobs = "text=review,label=stars,width=4,least=3,most=4,buckets=100,length=64,batch=8,steps=20"
    arguments = [
        *("train", f"--config={CONFIG}:{knobs},peak=0.1", f"--workdir={tmp_path / 'run'}"),
        *(f"--config.data.source.paths={table}", "--config.log.tensorboard=False"),
    ]
    status, out, err = command(*arguments)
    assert status == 0, err
    return tmp_path / "run", arguments, out + err


def test_trained_it_tells_classes(trained, command, tmp_path):
    run, arguments, out = trained
    assert "heldout accuracy 1.0000" in out
    checkpoint = f"--checkpoint={run}"
    assert "predict --checkpoint" in out
    status, out, _ = command("predict", checkpoint, f"--text={GOOD}", "--text=so boringly bad")
    lines = [line.split("\t") for line in out.strip().split("\n")]
    assert status == 0 and [line[0] for line in lines] == ["five", "one"]
    assert all(0.5 < float(line[1]) <= 1 for line in lines)

    (tmp_path / "new.jsonl").write_text(json.dumps({"text": BAD}) + "\n")
    status, out, _ = command(
        "predict", checkpoint, f"--input={tmp_path / 'new.jsonl'}", f"--output={tmp_path / 'out'}"
    )
    [row] = map(json.loads, (tmp_path / "out").open())
    assert status == 0 and row["class"] == "one"
    assert set(row["probabilities"]) == {"five", "one"}
    assert np.isclose(sum(row["probabilities"].values()), 1)

    for name, content in (
        ("dev.csv", f'stars,review\none,"{BAD}"\none,"{GOOD}"\n'),
        ("dev.jsonl", "".join(json.dumps({"review": t, "stars": "?"}) + "\n" for t in (BAD, GOOD))),
        ("dev.txt", f"__label__one {BAD}\n__label__one {GOOD}\n"),
    ):
        (tmp_path / name).write_text(content)
        status, out, _ = command("predict", checkpoint, f"--input={tmp_path / name}")
        rows = [line.split("\t") for line in out.strip().split("\n")]
        assert status == 0 and [(row[0], row[2]) for row in rows] == [("one", BAD), ("five", GOOD)]

    assert command("evaluate", checkpoint)[1].count("accuracy: 1.0000") == 1
    assert command(*arguments)[0] == 0  # nothing is left to do

    status, out, _ = command("convert", f"--source={run}", f"--target={tmp_path / 'vectors'}")
    lines = (tmp_path / "vectors" / "vectors.vec").read_text().strip().split("\n")
    count, width = map(int, lines[0].split())
    assert status == 0 and f"vectors of {count} words" in out
    assert width == 4 and len(lines) == count + 1
    words = {line.split(" ")[0]: np.float32(line.split(" ")[1:]) for line in lines[1:]}
    # "five" pulls the vector of what is good one way, and "one" that of what is bad the other.
    assert words["good"] @ words["lovely"] > 0 > words["good"] @ words["bad"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "predict takes texts from --text=... or from --input=FILE, one of the two"),
        (["--text=x", "--input=y"], "predict takes texts from"),
        (["--input=none.jsonl"], "cannot read none.jsonl"),
    ],
)
def test_what_it_cannot_do_is_one_line(trained, command, arguments, words):
    status, _, err = command("predict", f"--checkpoint={trained[0]}", *arguments)
    assert status == 2 and words in err and "Traceback" not in err


def test_other_commands_refuse_it_in_one_line(trained, command, tmp_path):
    run = trained[0]
    status, _, err = command("generate", f"--checkpoint={run}", "--prompt=a")
    assert status == 2 and "does not continue texts" in err
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n')
    status, _, err = command(
        "score", f"--checkpoint={run}", f"--input={tmp_path / 'in.jsonl'}", "--output=o"
    )
    assert status == 2 and "vocabulary head" in err
    status, _, err = command(
        *("convert", f"--source={run}", f"--target={tmp_path / 'x'}"), "--target_format=huggingface"
    )
    assert status == 2 and "FastText" in err


def test_labels_and_classes_that_do_not_fit(command, tmp_path, table):
    bad = tmp_path / "dev.csv"
    bad.write_text(f"review,stars\n{GOOD},three\n")
    knobs = f"text=review,label=stars,heldout={bad},steps=1"
    source = f"--config.data.source.paths={table}"
    status, _, err = command(
        "train", f"--config={CONFIG}:{knobs}", source, f"--workdir={tmp_path / 'a'}"
    )
    assert status == 2 and "dev.csv:2 has the label 'three', of no class; they are 'five'" in err
    status, _, err = command(
        "train", f"--config={CONFIG}:text=body,label=stars", source, f"--workdir={tmp_path / 'b'}"
    )
    assert status == 2 and "has no column 'body'; it has 'review', 'stars'" in err
