"""Labelled texts: from tables to token arrays and numbers of classes."""

import gzip
import json
import math
import os
import pickle

import numpy as np
import pytest

from lm_research.data import Bytes, Labelled, LabelledWords, Memory, Questions, Table, Words
from lm_research.errors import UserError

ROWS = [("a good film", "good"), ('it is "bad"', "bad"), ("so so", "good"), ("no", "bad")]
RECORDS = [{"text": text, "label": label} for text, label in ROWS]


def written(directory, name, columns):
    quoted = [f'"{text.replace(chr(34), 2 * chr(34))}"' for text, _ in ROWS]
    content = {
        "a.tsv": "number\tlabel\tsentence\n" + "".join(f"7\t{b}\t{a}\n" for a, b in ROWS),
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
        (
            "a.csv",
            "text,label\nx,y\nbad, very bad,0\n",
            "a.csv:3 has 3 columns; the first row ",
        ),
        ("a.tsv", "text\tlabel\n", "holds no records"),
        ("a.jsonl", '{"text": "x"}\n', r"a.jsonl:1: the field 'label' is missing; it has 'text'"),
        ("a.jsonl", "[1]\n", "a.jsonl:1 is no JSON object"),
        (
            "a.jsonl",
            '{"text": "x", "label": "y"}\n{"text": "\\uD83D", "label": "y"}\n',
            "a.jsonl:2 is not Unicode text: it has .*, half of a character",
        ),
        ("a.csv", 'text,label\nx,y\n"no end,y\nx,y\n', "a.csv:3 to 4 is no row of a table"),
        ("a.csv", 'text,label\nx,y\n"said" so,y\nx,y\n', "a.csv:3 is no row of a table"),
        ("a.tsv", "", "a.tsv is empty"),
        ("a.txt", "no label here\n", r"a.txt:1 is 'no label here'; it takes one __label__CLASS"),
        ("a.pdf", "x", "a.pdf is no file of rows by its name; it takes .tsv"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=words):
        len(Table(str(tmp_path / name)))


def test_cells_are_as_long_as_they_are_and_labels_have_no_blanks_around(tmp_path):
    long = "a" * 140_000
    (tmp_path / "a.tsv").write_bytes(f"text\tlabel\r\nx\ry\t b \r\n{long}\tb\t \n  \n".encode())
    (tmp_path / "a.csv").write_text(f"text,label\nx, b\n{long},b,\n  \n")
    for name, first in (("a.tsv", "x\ry"), ("a.csv", "x")):
        table = Table(str(tmp_path / name))
        assert list(table) == [{"text": first, "label": "b"}, {"text": long, "label": "b"}]
        assert table.where(1).endswith(f"{name}:3")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_ids_are_noticed_without_being_named(tmp_path, name):
    rows = [(1, "x", "good"), (2, "y", "bad"), (1, "z", "bad")]
    objects = [json.dumps(dict(zip(("id", "text", "label"), row))) for row in rows]
    lines = ["id,text,label", *(",".join(map(str, row)) for row in rows)]
    (tmp_path / name).write_text("\n".join(objects if name == "a.jsonl" else lines))
    table = Table(str(tmp_path / name))
    assert table[1] == {"text": "y", "label": "bad", "id": "2"}
    with pytest.raises(UserError, match=rf"{name}:\d has the id '1' of .*{name}:\d"):
        Labelled(table, Bytes(), Memory(RECORDS)).prepare(tmp_path / "data", 8)


def test_a_number_is_one_class_however_it_is_written(tmp_path):
    lines = [json.dumps({"text": "x", "label": label}) for label in (1, 1.0, 1.5)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    table = Table(str(tmp_path / "a.jsonl"))
    (tmp_path / "b.csv").write_text("text,label\ny,1\n")
    prepared = Labelled(table, Bytes(), Table(str(tmp_path / "b.csv"))).prepare(tmp_path, 8)
    assert prepared.classes == ("1", "1.5") and prepared.train.labels.tolist() == [0, 0, 1]


def test_texts_and_numbers_of_classes(tmp_path, capsys):
    prepared = Labelled(Memory(RECORDS), Bytes(), 0.25).prepare(tmp_path, 8)
    assert prepared.classes == ("bad", "good")
    found = {}
    for part in (prepared.train, prepared.heldout):
        for record in part:
            found[bytes(record["text"].tolist()).decode()] = int(record["label"])
    assert found == {"a good f": 1, 'it is "b': 0, "so so": 1, "no": 0}
    assert len(prepared.heldout) == 1
    assert "asked for 1 of 3 train texts, longer than 8 tokens" in capsys.readouterr().err
    again = Labelled(Memory(RECORDS), Bytes(), 0.25).prepared(tmp_path, 8)
    assert [int(r["label"]) for r in again.train] == [int(r["label"]) for r in prepared.train]
    assert again.facts == prepared.facts


def test_classes_are_those_of_the_share_that_is_held_out_too(tmp_path):
    records = [{"text": "x", "label": f"c{i}"} for i in range(8)]
    prepared = Labelled(Memory(records), Bytes(), 0.25).prepare(tmp_path, 8)
    assert prepared.classes == tuple(f"c{i}" for i in range(8))
    words = [{"words": ["x"], "labels": [f"c{i}"]} for i in range(8)]
    prepared = LabelledWords(Memory(words), Bytes(), 0.25).prepare(tmp_path / "words", 8)
    assert prepared.classes == tuple(f"c{i}" for i in range(8))


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
        ([{"text": "x", "label": math.nan}], None, "record 0 has the label nan, which is no num"),
        ([{"text": "\ud83d", "label": "good"}], None, "record 0 is not Unicode text: it has '.ud8"),
        (0.25, ("good", "bad", "good"), "data.classes has 'good' twice"),
        ([], None, "the heldout part of the data has no records"),
        ([{"label": "good"}], None, "record 0 of the data source has no text 'text'"),
        (0.25, ("good",), "has the label 'bad', of no class; they are 'good'"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path, heldout, classes, words):
    heldout = Memory(heldout) if isinstance(heldout, list) else heldout
    with pytest.raises(UserError, match=words):
        Labelled(Memory(RECORDS), Bytes(), heldout, classes).prepare(tmp_path, 8)


PAIRS = [
    {"id": i, "text": "a" * first, "pair": "b" * second, "label": score}
    for i, (first, second, score) in enumerate([(2, 1, 0.5), (9, 2, "3"), (3, 9, 5), (1, 1, 1e-1)])
]


def test_pairs_with_scores(tmp_path, capsys):
    records = [{**r, "label": float(r["label"])} for r in PAIRS]
    tokenizer = Bytes(roles=("cls", "sep"))
    other = Memory(records[:1])
    given = Memory(records), tokenizer, Memory(records)
    data = Labelled(*given, others={"other": other}, numeric=True)
    prepared = data.prepare(tmp_path, 9)
    assert prepared.classes == ("score",) and prepared.train.labels.dtype == np.float32
    assert prepared.train.labels.tolist() == np.float32([0.5, 3, 5, 0.1]).tolist()
    assert prepared.train.lengths.tolist() == [6, 9, 9, 5]
    spell = lambda record: prepared.tokenizer.decode(record["text"])
    assert spell(prepared.train[0]) == "<|cls|>aa<|sep|>b<|sep|>"
    assert prepared.train[0]["types"].tolist() == [0, 0, 0, 0, 1, 1]
    assert spell(prepared.train[1]) == "<|cls|>aaaa<|sep|>bb<|sep|>"
    assert spell(prepared.train[2]) == "<|cls|>aaa<|sep|>bbb<|sep|>"
    assert "2 of 4 train pairs, longer than 9 tokens" in capsys.readouterr().err
    assert len(prepared.part("other")) == 1 and spell(prepared.part("other")[0]).endswith(
        "b<|sep|>"
    )
    again = pickle.loads(pickle.dumps(data.prepared(tmp_path, 9)))
    assert again.part("other")[0]["label"] == 0.5
    with pytest.raises(UserError, match="no part of the data is called 'othr'; did you mean"):
        prepared.part("othr")
    with pytest.raises(UserError, match=r"objective.length is 4; pairs take 5 or more"):
        data.prepare(tmp_path, 4)


@pytest.mark.parametrize(
    "change, numeric, words",
    [
        ({"label": "x"}, True, "record 1 has the label 'x', of text; those before it are of num"),
        ({"label": True}, False, "record 1 has the label True, of true and false; those before"),
        ({"label": float("nan")}, True, "record 1 has the label nan, which is no number"),
        ({"id": 0}, True, "record 1 has the id 0 of record 0"),
        ({"pair": None}, True, "record 1 of the data source has no text 'pair'"),
    ],
)
def test_pairs_that_are_none_are_refused(tmp_path, change, numeric, words):
    records = [PAIRS[0], {**PAIRS[1], "label": 1.0, **change}]
    data = Labelled(Memory(records), Bytes(), Memory(PAIRS[:1]), numeric=numeric)
    with pytest.raises(UserError, match=words):
        data.prepare(tmp_path, 16)


@pytest.mark.parametrize("kind", [Labelled, LabelledWords, Questions])
def test_groups_are_counted(kind):
    with pytest.raises(UserError, match=r"data.grouped is 0; it takes a number from 1 on"):
        kind(Memory(PAIRS), Bytes(), grouped=0)


def test_pairs_and_texts_do_not_mix(tmp_path):
    with pytest.raises(UserError, match="records of train are pairs, and those of heldout are not"):
        Labelled(Memory(PAIRS), Bytes(), Memory(RECORDS)).prepare(tmp_path, 16)


def test_forms_of_tables_and_short_rows(tmp_path, capsys):
    (tmp_path / "a.csv").write_text('1\t"a, b\n2\n3\tc\n')
    columns = {"label": 0, "text": 1}
    with pytest.raises(UserError, match=r"a.csv:2 has 1 columns; it takes 2"):
        len(Table(str(tmp_path / "a.csv"), columns, "tsv"))
    table = Table(str(tmp_path / "a.csv"), columns, "tsv", "leave out")
    assert list(table) == [{"label": "1", "text": '"a, b'}, {"label": "3", "text": "c"}]
    assert "1 rows of" in capsys.readouterr().err and len(pickle.loads(pickle.dumps(table))) == 2
    (tmp_path / "b.tsv").write_text("1\ta\n-\tb\n")
    table = Table(str(tmp_path / "b.tsv"), columns, unlabelled="-")
    assert list(table) == [{"label": "1", "text": "a"}] and table.where(0).endswith("b.tsv:1")
    assert "1 rows of" in capsys.readouterr().err
    (tmp_path / "a.jsonl").write_text('{"text": "x", "label": 1}\n{"text": "y", "label": "b"}\n')
    with pytest.raises(UserError, match=r"a.jsonl:2 has the label 'b', of text; those before it"):
        Labelled(Table(str(tmp_path / "a.jsonl")), Bytes(), Memory(RECORDS)).prepare(tmp_path, 8)


def test_a_run_keeps_its_data(tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"__label__{b} {a}\n" for a, b in ROWS))

    def prepared(**kept):
        return Labelled(Table(str(tmp_path / "a.txt")), Words(), 0.25).prepare(
            tmp_path / "data", 8, **kept
        )

    first = prepared()
    os.utime(tmp_path / "a.txt", (1, 1))  # as of a copy on another machine
    prepared(kept=True)
    written = (tmp_path / "a.txt").read_text()
    (tmp_path / "a.txt").write_text(written.replace("__label__good", "__label__well"))
    with pytest.raises(UserError, match="prepared from other texts or in another way"):
        prepared(kept=True)
    (tmp_path / "a.txt").write_text("__label__new x\n__label__good y\n")
    with pytest.raises(UserError, match="prepared from other texts or in another way"):
        prepared(kept=True)
    (tmp_path / "a.txt").unlink()
    kept = prepared(kept=True)
    assert kept.classes == first.classes and len(kept.train) == 3
    labels = np.load(tmp_path / "data" / "train_labels" / "labels.npy")
    assert labels.tolist() == kept.train.labels.tolist()
