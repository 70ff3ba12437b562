"""From the files of a task of GLUE to those that the benchmark's server takes."""

import json
from pathlib import Path

import pytest

from lm_research.commands import config_flag
from lm_research.train import loop

CONFIG = Path(__file__).parents[2] / "configs" / "finetune" / "glue.py"
NLI = {"red": "entailment", "blue": "contradiction", "green": "neutral"}


def trained(task, directory):
    """Numbers of the last evaluation of fastText on a task, by the config of the task."""
    knobs = f"task={task},path={directory},length=16,batch=16,epochs=20,evaluations=0.1,peak=0.1"
    found = config_flag.loaded(f"{CONFIG}:{knobs}").to_dict()
    found["model"] = dict(kind="FastText", width=4)
    found["data"]["tokenizer"] = dict(kind="Words")
    found["log"]["tensorboard"] = False
    assert loop.train(found, directory / "run") == 0
    rows = list(map(json.loads, (directory / "run" / "metrics.jsonl").open()))
    return {name: value for row in rows for name, value in row.items()}


def submitted(command, task, directory):
    status, out, err = command(
        *("predict", f"--checkpoint={directory / 'run'}", f"--glue={task}"),
        *(f"--input={directory}", f"--output={directory / 'out'}"),
    )
    assert status == 0, err
    paths = map(Path, out.strip().split("\n"))
    return {path.name: path.read_text().split("\n") for path in paths}, err


def test_mnli(command, tmp_path):
    """Matched and mismatched are told apart, and so is the diagnostic set."""
    rows = [(f"a {color} thing", color, label) for color, label in NLI.items()] * 16
    others = [*rows[:4], ("a red thing", "red", "neutral")]
    for name, given in (("train", rows), ("dev_matched", rows), ("dev_mismatched", others)):
        text = "".join(f"{a}\t{b}\t{label}\n" for a, b, label in given)
        (tmp_path / f"{name}.tsv").write_text(f"sentence1\tsentence2\tgold_label\n{text}")
    for name, ids in (("test_matched", (9, 4)), ("test_mismatched", (0,)), ("diagnostic", (1,))):
        text = "".join(f"{i}\ta red thing\tred\n" for i in ids)
        (tmp_path / f"{name}.tsv").write_text(f"index\tsentence1\tsentence2\n{text}")
    numbers = trained("mnli", tmp_path)
    assert numbers["heldout/score"] == numbers["heldout/accuracy"] == 1
    assert numbers["mismatched/accuracy"] == pytest.approx(0.8)
    files, _ = submitted(command, "mnli", tmp_path)
    assert set(files) == {"MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"}
    head, first, second, end = files["MNLI-m.tsv"]
    assert head == "index\tprediction" and end == ""
    assert first.split("\t") == ["9", second.split("\t")[1]] and second.startswith("4\t")
    assert first == "9\tentailment" and len(files["AX.tsv"]) == 3
    out = command("evaluate", f"--checkpoint={tmp_path / 'run'}")[1].split("\n")
    assert {"accuracy: 1.0000", "score: 1.0000", "mismatched accuracy: 0.8000"} < set(out)
    (tmp_path / "diagnostic.tsv").unlink()
    files, err = submitted(command, "mnli", tmp_path)
    assert set(files) == {"MNLI-m.tsv", "MNLI-mm.tsv"} and "asked for AX.tsv, got none" in err
    arguments = f"--checkpoint={tmp_path / 'run'}", "--glue=rte", f"--output={tmp_path / 'x'}"
    status, _, err = command("predict", *arguments, f"--input={tmp_path}")
    assert status == 2 and "rte takes entailment, not_entailment" in err
    arguments = (*arguments[:1], "--glue=sst2", arguments[2])
    status, _, err = command("predict", *arguments, f"--input={tmp_path}")
    assert status == 2 and "trained on pairs of texts, and --glue=sst2 is of single texts" in err
    status, _, err = command("predict", *arguments[:2])
    assert status == 2 and "predict --glue=TASK takes test files" in err


def test_scores_of_pairs(command, tmp_path):
    rows = [(f"{'so ' * n}", f"{'no ' * m}", n) for n in range(6) for m in range(4)] * 2
    for name in ("train", "dev"):
        text = "".join(f"{a}\t{b}\t{score}\n" for a, b, score in rows)
        (tmp_path / f"{name}.tsv").write_text(f"sentence1\tsentence2\tscore\n{text}")
    (tmp_path / "test.tsv").write_text("index\tsentence1\tsentence2\n5\tso so\tno\n6\tso\tno\n")
    numbers = trained("stsb", tmp_path)
    assert {"heldout/pearson", "heldout/spearman", "heldout/score", "heldout/loss"} <= set(numbers)
    assert "heldout/accuracy" not in numbers and numbers["heldout/pearson"] > 0.5
    files, _ = submitted(command, "stsb", tmp_path)
    scores = [float(line.split("\t")[1]) for line in files["STS-B.tsv"][1:-1]]
    assert list(files) == ["STS-B.tsv"] and all(0 <= score <= 5 for score in scores)
    checkpoint = f"--checkpoint={tmp_path / 'run'}"
    status, out, _ = command("predict", checkpoint, "--text=so so", "--pair=no")
    told, said = out.strip().split("\t")
    assert status == 0 and said == "so so | no" and abs(float(told) - scores[0]) < 2e-3
    (tmp_path / "new.jsonl").write_text('{"text": "so so", "pair": "no"}\n')
    given = f"--input={tmp_path / 'new.jsonl'}", f"--output={tmp_path / 'new'}"
    assert command("predict", checkpoint, *given)[0] == 0
    assert abs(json.loads((tmp_path / "new").read_text())["score"] - float(told)) < 1e-4
    for index, words in ((5, "tsv:3 has the index '5' of "), (" ", "tsv:3 has no index")):
        (tmp_path / "test.tsv").write_text(
            f"index\tsentence1\tsentence2\n5\tso so\tno\n{index}\tso\tno\n"
        )
        given = "--glue=stsb", f"--input={tmp_path}", f"--output={tmp_path / 'again'}"
        status, _, err = command("predict", checkpoint, *given)
        assert status == 2 and words in err and not (tmp_path / "again").exists()
    status, _, err = command("predict", checkpoint, "--text=a", "--pair=b", "--pair=c")
    assert status == 2 and "1 of --text and 2 of --pair" in err
    status, _, err = command("predict", checkpoint, "--text=so so")
    assert status == 2 and "--text='so so' has no second text, and the run was trained on" in err
    status, out, _ = command("predict", checkpoint, f"--input={tmp_path / 'dev.tsv'}")
    assert status == 0 and len(out.splitlines()) == len(rows) and "so so  | no no " in out


@pytest.mark.parametrize("line", ['{"text": "a", "pair": 1}', '{"tokens": [1], "pair": "b"}'])
def test_a_pair_that_is_none(tmp_path, line):
    from lm_research.errors import UserError
    from lm_research.infer import text

    (tmp_path / "in.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=r"in.jsonl:1 has a pair that is no second text"):
        text.lines(tmp_path / "in.jsonl")
