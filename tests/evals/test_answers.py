"""Answers to questions: reading, windows, candidates, and the official numbers."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from each_token import Each, drawn

from lm_research import mesh
from lm_research.data import Bytes, Memory, Questions, SQuAD
from lm_research.data.questions import refuses
from lm_research.errors import UserError
from lm_research.evals import AnswerScores, answers
from lm_research.infer.answer import answer, ranked, spans
from lm_research.objectives import Span, Tag


def test_normalisation():
    assert answers.normalised(" The  cat's, (big) AN-apple!\t") == "cats big anapple"
    assert (
        answers.normalised("an a the") == "" and answers.normalised("Theatre a.b") == "theatre ab"
    )
    assert (
        answers.normalised("l\u2019\u00e9t\u00e9 5%") == "l\u2019\u00e9t\u00e9 5"
    )  # of ASCII only


@pytest.mark.parametrize(
    "predicted, given, exact, f1",
    [
        ("the Eiffel Tower", ["Eiffel tower."], 1, 1),
        ("Eiffel", ["Eiffel Tower"], 0, 2 / 3),
        ("a a b b", ["b b b c"], 0, 2 * (2 / 2) * (2 / 4) / (2 / 2 + 2 / 4)),
        ("in Paris", ["London", "Paris", "Paris, France"], 0, 2 / 3),
        ("", ["Paris"], 0, 0),
        ("the", ["Paris", "the"], 0, 0),  # an answer that normalises to nothing is none
        ("Paris", [], 0, 0),
        ("", [], 1, 1),
    ],
)
def test_exact_match_and_f1_of_one(predicted, given, exact, f1):
    assert answers.best_of(answers.exact, predicted, given) == exact
    assert np.isclose(answers.best_of(answers.f1, predicted, given), f1)


def test_questions_without_answers():
    """Five questions, of which two have none, and every number by hand."""
    predicted = ["x", "y z", "w", "v", "u"]
    given = [["x"], ["y"], ["q"], [], []]
    differences = [-3.0, -1.0, 2.0, 1.0, -2.0]
    found = answers.judged(predicted, given, differences)
    # Answered: 0 (right), 1 (half), 4 (wrong); refused: 2 (wrong), 3 (right).
    assert np.isclose(found["exact"], 100 * 2 / 5) and np.isclose(found["no_answer_f1"], 50)
    assert np.isclose(found["f1"], 100 * (1 + 2 / 3 + 1) / 5)
    assert np.isclose(found["has_answer_exact"], 100 / 3)
    # Refusing all gives 2; then 0 makes 3, 4 makes 2, 1 makes 2 or 2 2/3, and so on.
    assert (found["best_exact"], found["best_exact_threshold"]) == (60, -3)
    assert (found["best_f1"], found["best_f1_threshold"]) == (60, -3)
    later = answers.judged(predicted, given, differences, threshold=5.0)
    assert later["no_answer_exact"] == 0 and later["best_exact"] == 60
    worse = answers.judged(["n", "n"], [["x"], []], [-1.0, -2.0])
    assert (worse["best_f1"], worse["best_f1_threshold"]) == (50, 0)  # refusing all is best
    assert answers.judged(["x"], [["x"]], [9.0]) == {"exact": 100, "f1": 100}  # of version 1.1


def test_spans_are_the_best_of_all():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(12, 2)).astype(np.float32)
    none, found = spans(scores, 40, 3, 11, best=7, longest=3)
    pairs = [(i, j) for i in range(3, 11) for j in range(i, min(11, i + 3))]
    total = lambda pair: float(scores[pair[0], 0]) + float(scores[pair[1], 1])
    wanted = sorted(pairs, key=total, reverse=True)[:7]
    assert [(i - 37, j - 37) for _, i, j in found] == wanted
    assert np.isclose(found[0][0], total(wanted[0])) and np.isclose(none, scores[0].sum())
    assert len(spans(scores, 0, 3, 4, best=7, longest=30)[1]) == 1
    assert spans(scores, 0, 3, 3, best=7, longest=30)[1] == []


def test_windows_agree_on_one_answer():
    offsets = np.array([[0, 3], [3, 7], [7, 11]])  # "the", " cat", " sat"
    found = [(5.0, [(2.0, 1, 2), (1.0, 0, 0)]), (1.0, [(4.0, 1, 1), (2.0, 1, 2)])]
    told = ranked(found, offsets, "the cat sat", 3)
    assert [(c.text, c.start, c.score) for c in told.candidates] == [
        ("cat", 4, 4.0),
        ("cat sat", 4, 2.0),
        ("the", 0, 1.0),
    ]
    # Marks that the tokenizer stripped are of the last letter.
    marked = ranked([(1.0, [(4.0, 1, 2)])], offsets, "the cat sat\u0301\u0323 on", 1)
    assert [c.text for c in marked.candidates] == ["cat sat\u0301\u0323"]
    odds = np.exp([1.0, 4.0, 2.0, 1.0])
    chances = [told.none, *(c.probability for c in told.candidates)]
    assert np.allclose(chances, odds / odds.sum()) and told.difference == -3


CONTEXT = "The cat sat on the mat. A bird flew over the old green hill."


def question(name, asked, *given, **more):
    found = [{"text": text, "answer_start": CONTEXT.index(text)} for text in given]
    return {"id": name, "question": asked, "answers": found, **more}


def written(path, *questions, context=CONTEXT):
    paragraphs = [{"context": context, "qas": list(questions)}]
    path.write_text(json.dumps({"version": "2.0", "data": [{"paragraphs": paragraphs}]}))
    return SQuAD(str(path))


def test_files(tmp_path):
    source = written(
        tmp_path / "a.json",
        question("1", "Who sat?", "The cat", "cat"),
        question("2", "Who swam?", is_impossible=True, plausible_answers=[]),
    )
    assert source[0]["answers"] == (("The cat", 0), ("cat", 4)) and not source[0]["impossible"]
    assert source[1]["answers"] == () and source[1]["impossible"] and len(source) == 2
    assert source.where(1) == f"{tmp_path / 'a.json'}: the question '2'"
    assert pickle.loads(pickle.dumps(source))[1] == source[1]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"id": "1"}, "a.json has the id '1' of a question of .*a.json"),
        ({"answers": [{"text": "cat", "answer_start": 5}]}, "question '2' has the answer 'cat' at"),
        ({"answers": [{"text": "x", "answer_start": 500}]}, "at 500, where its context has ''"),
        ({"answers": [{"text": "cat"}]}, "question '2' has no number 'answer_start'; SQuAD's JSON"),
        (
            {"is_impossible": True},
            "question '2' is impossible to answer, and has the answer 'A bird",
        ),
        ({"question": " "}, "question '2' is empty"),
        ({"answers": 3}, "question '2' has no list 'answers'"),
        ({"question": None}, "question '2' has no text 'question'"),
    ],
)
def test_questions_that_are_none_are_refused(tmp_path, change, words):
    own = {**question("2", "Who flew?", "A bird"), **change}
    with pytest.raises(UserError, match=words):
        len(written(tmp_path / "a.json", question("1", "Who sat?", "cat"), own))


def test_files_that_are_none_are_refused(tmp_path):
    (tmp_path / "a.json").write_text('{"data": [{"paragraphs": [{"qas": []}]}]}')
    with pytest.raises(UserError, match="article 0, paragraph 0 has no text 'context'"):
        len(SQuAD(str(tmp_path / "a.json")))
    silent = Memory(
        [{**written(tmp_path / "b.json", question("1", "Who?", "cat"))[0], "answers": ()}]
    )
    with pytest.raises(UserError, match="record 0 has no answer, and is not said to be impossible"):
        Questions(silent, Bytes(), silent).prepare(tmp_path, 128)
    with pytest.raises(UserError, match=r"length is 32, and questions of 64 tokens .* no room"):
        Questions(
            SQuAD(str(tmp_path / "b.json")), Bytes(), SQuAD(str(tmp_path / "b.json"))
        ).prepare(tmp_path / "data", 32)


def test_records_as_others_have_them(tmp_path):
    """Those of TFDS and of the Hub are the same questions as SQuAD's."""
    own = written(
        tmp_path / "a.json",
        question("1", "Who sat?", "The cat"),
        question("2", "Who swam?", is_impossible=True),
    )
    records = []
    for record in own:
        texts, places = zip(*record["answers"]) if record["answers"] else ((), ())
        answers = {"text": np.array([t.encode() for t in texts], object)}
        answers["answer_start"] = np.int32(places)
        asked = {name: record[name].encode() for name in ("id", "question", "context")}
        records.append({**asked, "answers": answers})
    found = [
        Questions(source, Bytes(), source, question=8).prepare(tmp_path / name, 32).train
        for name, source in (("own", own), ("others", Memory(records)))
    ]
    assert found[0].texts == found[1].texts and refuses(tmp_path / "others")
    assert found[0].answers.tolist() == found[1].answers.tolist() and found[0].answers[1, 0] == -1
    records[0]["answers"]["answer_start"] += 1
    with pytest.raises(UserError, match="record 0 has the answer 'The cat' at 1, where"):
        Questions(Memory(records), Bytes(), own).prepare(tmp_path / "moved", 32)


def prepared(tmp_path, length=32, **given):
    source = written(
        tmp_path / "a.json",
        question("1", "Who sat?", "The cat", "cat"),
        question("2", "Who swam?", is_impossible=True),
        question("3", "Where?", "green hill"),
    )
    tokenizer = Bytes(roles=("cls", "sep"))
    data = Questions(source, tokenizer, source, question=8, **given)
    return data, data.prepare(tmp_path / "data", length)


def test_windows(tmp_path, capsys):
    """Of 32 bytes 3 frame, 8 or 6 ask, and 21 or 23 are a window of 60 bytes."""
    data, found = prepared(tmp_path, stride=10)
    assert found.classes == ("start", "end") and found.facts["train_windows"] == len(found.train)
    windows = [(*pair, record) for pair, record in zip(found.train.plan.tolist(), found.train)]
    spell = lambda ids: found.tokenizer.decode(ids)
    assert [number for q, number, _ in windows if q == 0] == [0, 1, 2, 3, 4]
    assert [number for q, number, _ in windows if q == 2] == [0, 1, 2, 3, 4]
    assert spell(windows[0][2]["text"]) == "<|cls|>Who sat?<|sep|>The cat sat on the ma<|sep|>"
    assert spell(windows[1][2]["text"]) == f"<|cls|>Who sat?<|sep|>{CONTEXT[10:31]}<|sep|>"
    assert spell(windows[4][2]["text"]) == f"<|cls|>Who sat?<|sep|>{CONTEXT[40:]}<|sep|>"
    assert windows[0][2]["types"].tolist() == [0] * 10 + [1] * 22
    assert found.train.lengths.tolist() == [len(record["text"]) for *_, record in windows]
    assert found.train.lengths.max() == 32
    told = [spell(r["text"][r["start"] : r["end"] + 1]) for *_, r in windows]
    assert told[0] == "The cat" and set(told[1:10]) == {"<|cls|>"}  # elsewhere, and impossible
    assert told[10:] == ["<|cls|>"] * 4 + ["green hill"]
    assert "1 of 3 train questions, longer than 8 tokens" in capsys.readouterr().err
    # A stride that is longer than a window leaves nothing out.
    wide = Questions(data.source, data.tokenizer, data.source, question=8, stride=100)
    assert len(wide.prepared(tmp_path / "data", 32).train) == 9
    again = pickle.loads(pickle.dumps(found.train))
    assert again[10]["end"] == windows[10][2]["end"]


def test_whole_contexts_are_held_out(tmp_path):
    records = [
        {"question": f"{i}?", "context": f"text {i % 4}", "answers": (("text", 0),)}
        for i in range(12)
    ]
    records = [{**record, "impossible": False} for record in records]
    found = Questions(Memory(records), Bytes(), 0.25, question=4).prepare(tmp_path, 32)
    contexts = [set(part.texts["contexts"]) for part in (found.train, found.heldout)]
    assert len(contexts[0]) == 3 and len(contexts[1]) == 1 and not contexts[0] & contexts[1]


def test_every_question_is_judged_once(tmp_path):
    """14 windows in batches of 8, over eight devices, beside the answers that `answer` gives."""
    _, found = prepared(tmp_path, stride=10)
    model = Each(("start", "end"))
    params = drawn(model)
    texts = found.heldout.texts
    asked = [(q["question"], texts["contexts"][q["context"]]) for q in texts["questions"]]
    with mesh.Mesh().activate():
        judge = AnswerScores(every=1, batch=8).bind(Span(32), found, 8)
        numbers = judge(model, params)
        given = model, params, found.tokenizer, asked, 32
        told = answer(*given, question=8, stride=10)
    by_hand = answers.judged(
        [one.text for one in told],
        [q["answers"] for q in texts["questions"]],
        [one.difference for one in told],
    )
    assert set(numbers) == {"loss", *by_hand} and "best_f1_threshold" in numbers
    assert all(np.isclose(numbers[name], value, rtol=1e-4) for name, value in by_hand.items())
    for one, (_, context) in zip(told, asked):
        best = one.candidates[0]
        assert context[best.start :].startswith(best.text) and len(one.candidates) == 20
        total = one.none + sum(c.probability for c in one.candidates)
        assert np.isclose(total, 1) and best.probability == max(
            c.probability for c in one.candidates
        )
    with pytest.raises(UserError, match="answers no questions: its classes are a, b"):
        answer(Each(("a", "b")), *given[1:])
    with (
        mesh.single(),
        pytest.raises(UserError, match="it takes data=Questions and objective=Span"),
    ):
        AnswerScores(every=1).bind(Tag(32), found, 8)


def test_xquad():
    """Twelve languages, each with the same questions about the same contexts."""
    if "LM_RESEARCH_DATA" not in os.environ:
        pytest.skip("LM_RESEARCH_DATA, under which xquad/*.json.gz lie, is not set")
    files = sorted((Path(os.environ["LM_RESEARCH_DATA"]) / "xquad").glob("xquad.*.json.gz"))
    every = [SQuAD(str(file)) for file in files]
    assert len(every) == 12 and {len(source) for source in every} == {1190}
    assert len({tuple(r["id"] for r in source) for source in every}) == 1
