"""Questions with choices, from files as they are published, and as token arrays."""

import gzip
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from lm_research import log
from lm_research.data import Bytes, Choices, MultipleChoice
from lm_research.data.multiple_choice import asked
from lm_research.errors import UserError

QUESTION = {"question": "Q?", "choices": ("a", "b", "c"), "answer": 1}
FORMS = {
    "a number": {"question": "Q?", "choices": ["a", "b", "c"], "answer": 1},
    "a letter": {"question": "Q?", "choices": ["a", "b", "c"], "answer": "B"},
    "a number as text": {"question": "Q?", "choices": ["a", "b", "c"], "answer": "1"},
    "a text": {"question": "Q?", "choices": ["a", "b", "c"], "answer": "b"},
    "ARC": {
        "question": "Q?",
        "choices": {"text": ["a", "b", "c"], "label": ["1", "2", "3"]},
        "answerKey": "2",
    },
    "ARC as published": {
        "question": {
            "stem": "Q?",
            "choices": [{"text": text, "label": label} for text, label in zip("abc", "ABC")],
        },
        "answerKey": "B",
    },
    "ARC with numbers": {
        "question": "Q?",
        "choices": {"text": ["a", "b", "c"], "label": ["1", "2", "3"]},
        "answerKey": 2,
    },
    "a list of choices": {
        "question": "Q?",
        "choices": [{"text": text, "label": label} for text, label in zip("abc", "ABC")],
        "answerKey": "B",
    },
    "ARC of TFDS": {
        "question": b"Q?",
        "choices": {"text": np.array([b"a", b"b", b"c"], object), "label": np.array([0, 1, 2])},
        "answerKey": np.int64(1),
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_question(form):
    assert asked(FORMS[form], "here") == QUESTION


def test_piqa_has_its_labels_beside(tmp_path):
    file = tmp_path / "valid.jsonl"
    rows = [{"goal": f"g {i}", "sol1": "x", "sol2": "y"} for i in range(2)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [MultipleChoice(str(file))[i]["answer"] for i in range(2)] == [None, None]
    before = MultipleChoice(str(file)).fingerprint()
    (tmp_path / "valid-labels.lst").write_text("1\n0\n")
    source = MultipleChoice(str(file))
    assert [source[i]["answer"] for i in range(2)] == [1, 0] and source.fingerprint() != before
    assert pickle.loads(pickle.dumps(source))[1] == source[1]
    (tmp_path / "valid-labels.lst").write_text("1\n")
    with pytest.raises(UserError, match=r"valid-labels.lst has 1 labels for 2 lines of .*valid"):
        MultipleChoice(str(file))[0]


def test_rows_may_have_other_numbers_of_choices(tmp_path):
    file = tmp_path / "arc.csv.gz"
    rows = b'"A, or\nB?",a,b,c,,C\nQ?,a,b,,,A\nV?,a,b,c,d,D\nV?,a,b,c,d,3\n'
    file.write_bytes(gzip.compress(rows))
    source = MultipleChoice(str(file))
    assert [len(source[i]["choices"]) for i in range(4)] == [3, 2, 4, 4]
    assert [source[i]["answer"] for i in range(4)] == [2, 0, 3, 2]
    assert source[0]["question"] == "A, or\nB?" and source.where(1) == f"{file}:3"


FLAWS = {
    "Q?,a,b,c,d,E": "line:2 has the answer 'E', which is no choice; they are A, B, C, D",
    "Q?,,,,,3": "line:2 has 0 choices; it takes two or more",
    "Q?,a,,,,A": "line:2 has 1 choices; it takes two or more",
    "Q?,a,,c,d,A": "line:2 has an empty choice, number 1",
    " ,a,b,c,d,A": "line:2 has an empty question",
}


@pytest.mark.parametrize("row", FLAWS)
def test_flawed_rows_are_named_or_left_out(row, tmp_path):
    file = tmp_path / "arc.csv"
    file.write_text(f"Q?,a,b,c,d,A\n{row}\n")
    words = FLAWS[row].replace("line", str(file))
    with pytest.raises(UserError) as error:
        MultipleChoice(str(file))[0]
    assert words in str(error.value) and "flawed='leave out'" in str(error.value)
    log.forget()
    assert len(MultipleChoice(str(file), "leave out")) == 1
    assert any(words in told["why"] for told in log.facts()["fallbacks"])


@pytest.mark.parametrize(
    "line, words",
    [
        ("{", "is not JSON"),
        ("[]", "is no JSON object"),
        ('{"text": "a"}', "is no question with choices; it takes"),
        ('{"question": "a", "choices": ["b", 3]}', "is no question with choices; it takes"),
        ('{"question": "a", "choices": ["b", "c"], "answer": 2}', "the answer 2, which is no"),
        ('{"question": "a", "choices": {"text": 3, "label": 2}}', "is no question with choices"),
        ('{"question": {"stem": "a", "choices": 3}}', "is no question with choices"),
        ('{"question": "a", "choices": "bc"}', "is no question with choices"),
    ],
)
def test_what_is_no_question_is_one_line(line, words, tmp_path):
    file = tmp_path / "own.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(UserError, match=rf"own.jsonl:1 .*{words}|own.jsonl:1 {words}"):
        MultipleChoice(str(file))[0]


def test_as_token_arrays(tmp_path):
    """Each choice stands after its question, the longer of both cut; absent ones have no tokens."""
    rows = [
        {"question": "Who?", "choices": ["me", "you and I"], "answer": 1},
        {"question": "What?", "choices": ["a", "b", "c"], "answer": 0},
    ]
    file = tmp_path / "own.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = MultipleChoice(str(file))
    kind = Choices(source, Bytes(("cls", "sep")), source)
    data = kind.prepare(tmp_path / "data", 14)
    cls, sep = data.tokenizer.cls, data.tokenizer.sep
    spelled = lambda ids: bytes(i for i in ids.tolist() if i < 256).decode()
    first, second = data.train[0], data.heldout[1]
    assert [spelled(ids) for ids in first["texts"]] == ["Who?me", "Who?you and", ""]
    ids = first["texts"][0].tolist()
    assert ids == [cls, *b"Who?", sep, *b"me", sep]
    assert first["types"][0].tolist() == [0] * 6 + [1] * 3 and first["label"] == 1
    assert [spelled(ids) for ids in second["texts"]] == ["What?a", "What?b", "What?c"]
    assert data.train.lengths.tolist() == [14, 9] and data.classes == ("choice",)
    assert np.isclose(data.facts["heldout_chance"], (1 / 2 + 1 / 3) / 2)
    again = kind.prepared(tmp_path / "data", 14)
    assert pickle.loads(pickle.dumps(again.train))[1]["texts"][2].tolist() == [
        *second["texts"][2].tolist()
    ]
    (tmp_path / "own.jsonl").write_text('{"question": "Who?", "choices": ["me", "you"]}\n')
    source = MultipleChoice(str(file))
    with pytest.raises(UserError, match=r"own.jsonl:1 has no answer; training and evaluation"):
        Choices(source, Bytes(("cls", "sep")), source).prepare(tmp_path / "other", 14)


def test_ids_come_once(tmp_path):
    file = tmp_path / "arc.jsonl"
    rows = [{"id": name, **FORMS["ARC as published"]} for name in ("q1", "q2", "q1")]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = MultipleChoice(str(file))
    assert source[1] == {**QUESTION, "id": "q2"}
    with pytest.raises(UserError, match=r"arc.jsonl:3 has the id 'q1' of .*arc.jsonl:1"):
        Choices(source, Bytes(("cls", "sep")), source).prepare(tmp_path / "data", 14)


def test_arc_and_piqa_as_they_are():
    if "LM_RESEARCH_DATA" not in os.environ:
        pytest.skip("LM_RESEARCH_DATA, under which arc/ and piqa/ lie, is not set")
    directory = Path(os.environ["LM_RESEARCH_DATA"])
    arc = MultipleChoice(str(directory / "arc" / "arc_easy_validation.csv"), "leave out")
    piqa = MultipleChoice(str(directory / "piqa" / "valid.jsonl"))
    # Of 570 rows 21 have lost their choices; 1 has three.
    assert len(arc) == 549 and len(piqa) == 1838
    assert sum(len(record["choices"]) == 3 for record in arc) == 1
    assert {record["answer"] for record in arc} == {0, 1, 2, 3}
    assert np.isclose(np.mean([record["answer"] for record in piqa]), 0.4951, atol=0.02)
    with pytest.raises(UserError, match=r"arc_easy_validation.csv:\d+ has 0 choices"):
        MultipleChoice(str(directory / "arc" / "arc_easy_validation.csv"))[0]
