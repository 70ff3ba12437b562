"""Texts that belong together, prepared, with scores; and the files that pairs are published in."""

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from lm_research.data import STS, Bytes, Memory, Related, Tatoeba
from lm_research.errors import UserError

PAIRS = [{"text": f"a{i}", "pair": f"bcd{i}", "negative": "e"} for i in range(10)]


def test_parts_with_texts_and_scores_of_their_own(tmp_path):
    scored = Memory([{"text": "x", "pair": "yz", "label": "2.5"}])
    data = Related(Memory(PAIRS), Bytes(), heldout=0.2, others={"sts": scored})
    found = data.prepare(tmp_path, 4)
    assert (len(found.train), len(found.heldout)) == (8, 2) and found.classes == ()
    texts = {name: found.tokenizer.decode(ids) for name, ids in found.train[0].items()}
    assert texts["negative"].startswith("e") and set(texts) == {"text", "pair", "negative"}
    assert found.train.lengths.tolist() == [4] * 8  # of pairs, which are cut
    record = found.part("sts")[0]
    assert record["label"] == np.float32(2.5) and set(record) == {"text", "pair", "label"}
    assert data.prepared(tmp_path, 4).facts == found.facts


@pytest.mark.parametrize(
    "record, words",
    [
        ({"text": "a", "label": 1}, "record 0 has a label and no pair"),
        ({"text": "a", "pair": "b", "label": "good"}, "record 0 has the label 'good', which is no"),
    ],
)
def test_scores_that_are_none_are_refused(tmp_path, record, words):
    data = Related(Memory(PAIRS), Bytes(), others={"sts": Memory([record])})
    with pytest.raises(UserError, match=words):
        data.prepare(tmp_path, 8)


def test_files_of_scored_pairs(tmp_path):
    (tmp_path / "STS.input.b.txt").write_text("a b\tc\nunscored\td\n")
    (tmp_path / "STS.gs.b.txt").write_text("4.5\n\n")
    benchmark = tmp_path / "sts-dev.csv"
    benchmark.write_text('main\tfiles\t2012\t1\t3.2\tone "quoted\tother\n')
    found = STS((str(tmp_path), str(benchmark)))
    assert list(found) == [
        {"text": "a b", "pair": "c", "label": 4.5},
        {"text": 'one "quoted', "pair": "other", "label": 3.2},
    ]
    glue = tmp_path / "dev.tsv"
    glue.write_text("index\tsentence1\tsentence2\tscore\n0\tA plane.\tAn air plane.\t5.000\n")
    assert list(STS(str(glue))) == [{"text": "A plane.", "pair": "An air plane.", "label": 5.0}]
    benchmark.write_text("main\tfiles\t2012\t1\tgood\tone\tother\n")
    with pytest.raises(UserError, match=r"sts-dev.csv:1 has 'good' as a score"):
        len(STS(str(benchmark)))
    (tmp_path / "STS.gs.b.txt").unlink()
    with pytest.raises(UserError, match="has no scores beside it"):
        len(STS(str(tmp_path)))


def test_an_archive_of_translations(tmp_path):
    for name, text in (("tatoeba.deu-eng.deu", "ja\nnein\n"), ("tatoeba.deu-eng.eng", "yes\nno\n")):
        (tmp_path / name).write_text(text)
    with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as archive:
        for file in sorted(tmp_path.glob("tatoeba.*")):
            archive.add(file, f"data/tatoeba/v1/{file.name}")
    for path in (tmp_path / "all.tar.gz", tmp_path):
        assert list(Tatoeba(str(path), "deu")) == [
            {"text": "ja", "pair": "yes"},
            {"text": "nein", "pair": "no"},
        ]
    with pytest.raises(UserError, match="'dev'; did you mean 'deu'"):
        len(Tatoeba(str(tmp_path), "dev"))


def test_published_counts():
    if "LM_RESEARCH_DATA" not in os.environ:
        pytest.skip("LM_RESEARCH_DATA, under which sts and glue/STS-B lie, is not set")
    data = Path(os.environ["LM_RESEARCH_DATA"])
    counts = {12: 3108, 13: 1500, 14: 3750, 15: 3000, 16: 1186}
    for year, count in counts.items():
        assert len(STS(str(data / "sts" / f"STS{year}-en-test"))) == count
    assert len(STS(str(data / "sts" / "SICK" / "SICK_test_annotated.txt"))) == 4927
    assert len(STS(str(data / "glue" / "STS-B" / "sts-test.csv.gz"))) == 1379
