"""Labelled texts: from tables to token arrays and numbers of classes."""

import gzip
import json
import pickle

import numpy as np
import pytest

from lm_research.data import Bytes, Labelled, Memory, Table, Words
from lm_research.errors import UserError

ROWS = [("a good film", "good"), ('it is "bad"', "bad"), ("so so", "good"), ("no", "bad")]
RECORDS = [{"text": text, "label": label} for text, label in ROWS]


def written(directory, name, columns):
    quoted = [f'"{text.replace(chr(34), 2 * chr(34))}"' for text, _ in ROWS]
    content = {
        "a.tsv": "id\tlabel\tsentence\n" + "".join(f"7\t{b}\t{a}\n" for a, b in ROWS),
        "a.csv": "sentence,label\n" + "".join(f"{a},{b}\n" for a, (_, b) in zip(quoted, ROWS)),
        "plain.tsv": "".join(f"{b}\t{a}\n" for a, b in ROWS),
        "a.jsonl.gz": "".join(json.dumps({"sentence": a, "label": b}) + "\n" for a, b in ROWS),
        "a.txt": "".join(f"__label__{b} {a}\n" for a, b in ROWS),
    }[name]
    raw = content.encode()
    (directory / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return Table(str(directory / name), columns)


@pytest.mark.parametrize(
    "name, columns",
    [
        ("a.tsv", {"text": "sentence", "label": "label"}),
        ("a.csv", {"text": "sentence", "label": "label"}),
        ("plain.tsv", {"text": 1, "label": 0}),
        ("a.jsonl.gz", {"text": "sentence", "label": "label"}),
        ("a.txt", {"text": "text", "label": "label"}),
    ],
)
def test_tables(tmp_path, name, columns):
    table = written(tmp_path, name, columns)
    assert list(table) == RECORDS
    assert table.where(1).startswith(f"{tmp_path / name}:")
    assert pickle.loads(pickle.dumps(table))[3] == RECORDS[3]


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.tsv", "text\tclass\nx\ty\n", "no column 'label'; it has 'text', 'class'"),
        ("a.tsv", "text\tlabel\nx\n", r"a.tsv:2 has 1 columns; it takes 2"),
        ("a.tsv", "text\tlabel\n", "holds no records"),
        ("a.jsonl", '{"text": "x"}\n', r"a.jsonl:1: the field 'label' is missing; it has 'text'"),
        ("a.jsonl", "[1]\n", "a.jsonl:1 is no JSON object"),
        ("a.txt", "no label here\n", r"a.txt:1 is 'no label here'; it takes one __label__CLASS"),
        ("a.pdf", "x", "a.pdf is no table that is read; it takes .tsv"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=words):
        len(Table(str(tmp_path / name)))


def test_texts_and_numbers_of_classes(tmp_path, capsys):
    prepared = Labelled(Memory(RECORDS), Bytes(), 0.25).prepare(tmp_path, 8)
    assert prepared.classes == ("bad", "good")
    found = {}
    for part in (prepared.train, prepared.heldout):
        for record in part:
            found[bytes(record["text"][:-1].tolist()).decode()] = int(record["label"])
            assert record["text"][-1] == prepared.tokenizer.eos
    assert found == {"a good ": 1, 'it is "': 0, "so so": 1, "no": 0}
    assert len(prepared.heldout) == 1
    assert "asked for 1 of 3 train texts, longer than 8 tokens" in capsys.readouterr().err
    again = Labelled(Memory(RECORDS), Bytes(), 0.25).prepared(tmp_path, 8)
    assert [int(r["label"]) for r in again.train] == [int(r["label"]) for r in prepared.train]
    assert again.facts == prepared.facts


def test_classes_in_an_order_of_ones_own(tmp_path):
    data = Labelled(Memory(RECORDS), Words(), 0.25, classes=("good", "bad"))
    prepared = data.prepare(tmp_path, 8)
    assert prepared.classes == ("good", "bad")
    kinds = [int(r["label"]) for part in (prepared.train, prepared.heldout) for r in part]
    assert sorted(kinds) == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "heldout, classes, words",
    [
        (
            [{"text": "x", "label": "ugly"}],
            None,
            "record 0 has the label .ugly., of no class",
        ),
        ([{"text": "x", "label": ""}], None, "record 0 has no label"),
        ([{"text": "x"}], None, "record 0 has no label"),
        ([{"label": "good"}], None, "record 0 of the data source has no text 'text'"),
        (0.25, ("good",), "has the label 'bad', of no class; they are 'good'"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path, heldout, classes, words):
    heldout = Memory(heldout) if isinstance(heldout, list) else heldout
    with pytest.raises(UserError, match=words):
        Labelled(Memory(RECORDS), Bytes(), heldout, classes).prepare(tmp_path, 8)


def test_a_run_keeps_its_data(tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"__label__{b} {a}\n" for a, b in ROWS))
    data = Labelled(Table(str(tmp_path / "a.txt")), Words(), 0.25)
    first = data.prepare(tmp_path / "data", 8)
    (tmp_path / "a.txt").write_text("__label__new x\n__label__good y\n")
    with pytest.raises(UserError, match="prepared from other texts or in another way"):
        data.prepare(tmp_path / "data", 8, kept=True)
    (tmp_path / "a.txt").unlink()
    kept = data.prepare(tmp_path / "data", 8, kept=True)
    assert kept.classes == first.classes and len(kept.train) == 3
    labels = np.load(tmp_path / "data" / "train_labels" / "labels.npy")
    assert labels.tolist() == kept.train.labels.tolist()
