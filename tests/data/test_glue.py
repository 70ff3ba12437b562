"""The tasks of GLUE: their files as the benchmark has them, and the rows that they give."""

import os
from pathlib import Path

import pytest

from lm_research import config
from lm_research.commands import config_flag
from lm_research.data import TFDS, Table, glue
from lm_research.errors import UserError

CONFIG = Path(__file__).parents[2] / "configs" / "finetune" / "glue.py"
TSV = {  # official heads, and a row each
    "cola": (None, 'gj04\t1\t\tHe said "no.'),
    "sst2": ("sentence\tlabel", "a film \t1"),
    "mrpc": ("\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String", '1\t7\t8\tHe said "no.\tNo.'),
    "stsb": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        "0\tg\tf\t2012\t1\tnone\tnone\tA plane.\tAn air plane.\t4.750",
    ),
    "qqp": ("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "1\t2\t3\tWhy?\tHow?\t0\n4\t5\n"),
    "mnli": (
        "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\t"
        "sentence1_parse\tsentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label",
        "0\t1\t1n\tfiction\t( a )\t( b )\t(A a)\t(B b)\tA a\tB b\tneutral\tneutral",
    ),
    "qnli": ("index\tquestion\tsentence\tlabel", "0\tWhy?\tSo.\tnot_entailment"),
    "rte": ("index\tsentence1\tsentence2\tlabel", "0\tA.\tB.\tentailment"),
    "wnli": ("index\tsentence1\tsentence2\tlabel", "0\tA.\tB.\t1"),
}
FOUND = {
    "cola": {"text": 'He said "no.', "label": "1"},
    "sst2": {"text": "a film ", "label": "1"},
    "mrpc": {"text": 'He said "no.', "pair": "No.", "label": "1"},
    "stsb": {"text": "A plane.", "pair": "An air plane.", "label": "4.750"},
    "qqp": {"text": "Why?", "pair": "How?", "label": "0"},
    "mnli": {"text": "A a", "pair": "B b", "label": "neutral"},
    "qnli": {"text": "Why?", "pair": "So.", "label": "not_entailment"},
    "rte": {"text": "A.", "pair": "B.", "label": "entailment"},
    "wnli": {"text": "A.", "pair": "B.", "label": "1"},
}


def built(section):
    return config.build(section, {"Table": Table, "TFDS": TFDS})


@pytest.mark.parametrize("name", TSV)
def test_official_files(tmp_path, name):
    head, row = TSV[name]
    (tmp_path / "train.tsv").write_text("".join(f"{x}\n" for x in (head, row) if x is not None))
    [record] = built(glue.labelled(name, "train.tsv", "train", str(tmp_path)))
    record.pop("id", None)  # which QQP's rows have
    assert record == FOUND[name]
    task = glue.task(name)
    assert task.numeric or record["label"] in task.labels
    assert set(task.published) == {f"{part}/{m}" for part in task.judged for m in task.metrics}


def test_test_files_have_an_index(tmp_path):
    (tmp_path / "test.tsv").write_text("index\tsentence\n7\tHe go.\n")
    [record] = built(glue.unlabelled("cola", "test.tsv", "test", str(tmp_path)))
    assert record == {"text": "He go.", "id": "7"}
    (tmp_path / "diagnostic.tsv").write_text("index\tsentence1\tsentence2\n0\tA.\tB.\n")
    [record] = built(glue.unlabelled("ax", "diagnostic.tsv", "test", str(tmp_path)))
    assert record == {"text": "A.", "pair": "B.", "id": "0"}


@pytest.mark.parametrize("name", glue.TASKS)
def test_tfds_has_the_same_tasks(name):
    tfds = pytest.importorskip("tensorflow_datasets")
    task = glue.task(name)
    with tfds.testing.mock_data(num_examples=5):
        for _, split, _ in task.tests:
            record = built(glue.unlabelled(name, "", split, ""))[0]
            assert set(record) == {*task.tfds, "id"} and isinstance(record["text"], str)
        for _, split in task.judged.values():
            source = built(glue.labelled(name, "", split, ""))
            labels = {record["label"] for record in source}
            assert labels <= set(task.labels) or task.numeric
            assert len(source._loaded[2]["label"].names) == len(task.labels) if task.labels else 1


@pytest.mark.parametrize(
    "knobs, count, classes",
    [
        ("task=rte,path={}/glue/RTE,train=train.tsv.gz,dev=dev.tsv.gz", (2490, 277), 2),
        (
            "task=stsb,path={}/glue/STS-B,train=sts-train.csv.gz,dev=sts-dev.csv.gz,"
            "text=5,pair=6,label=4",
            (5749, 1500),
            0,
        ),
    ],
)
def test_files_of_other_layouts(knobs, count, classes):
    if "LM_RESEARCH_DATA" not in os.environ:
        pytest.skip("LM_RESEARCH_DATA, under which glue/ lies, is not set")
    found = config_flag.loaded(f"{CONFIG}:{knobs.format(os.environ['LM_RESEARCH_DATA'])}")
    parts = [built(found.data[part].to_dict()) for part in ("source", "heldout")]
    assert tuple(map(len, parts)) == count and set(parts[0][0]) == {"text", "pair", "label"}
    assert len(found.data.classes or ()) == classes


@pytest.mark.parametrize(
    "knobs, words",
    [
        ("task=colla", "no task of GLUE to train is called 'colla'; did you mean 'cola'"),
        ("task=ax", "no task of GLUE to train is called 'ax'"),
        ("task=cola,peek=1", "no knob is called 'peek'; did you mean 'peak'"),
    ],
)
def test_what_is_no_task_is_refused(knobs, words):
    with pytest.raises(UserError, match=words):
        config_flag.loaded(f"{CONFIG}:{knobs}")
