"""Conversations: from files to rows of tokens of which the answers have a loss."""

import gzip
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from lm_research import log
from lm_research.data import BPE, Bytes, Conversations, Instruct, Memory, Pretrained
from lm_research.data.chat import ends
from lm_research.errors import UserError

ROWS = [
    {"instruction": "Add.", "input": "1 2", "output": " 3\n"},
    {"instruction": "Who?", "context": "", "response": "A cat.", "category": "qa"},
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
]
TURNS = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Who is it?"},
    {"role": "user", "content": "A cat"},
    {"role": "assistant", "content": "Come in."},
]


def talk(count):
    """Conversations of two answers each."""
    given = [[{**m, "content": f"{m['content']} {i}"} for m in TURNS] for i in range(count)]
    return Memory([{"messages": messages} for messages in given])


def test_files_of_instructions_and_messages(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(ROWS[:1]))
    lines = "".join(json.dumps(row) + "\n" for row in ROWS[1:])
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    found = Conversations(f"{tmp_path / 'a.json'},{tmp_path / 'b.jsonl.gz'}", system="Be.")
    said = [[tuple(m.values()) for m in record["messages"][1:]] for record in found]
    assert said == [
        [("user", "Add.", "1 2"), ("assistant", "3")],
        [("user", "Who?"), ("assistant", "A cat.")],
        [("user", "a"), ("assistant", "b")],
    ]
    assert all(record["messages"][0]["content"] == "Be." for record in found)
    assert pickle.loads(pickle.dumps(found))[2] == found[2]
    assert found.where(0).endswith("a.json, row 1") and found.where(2).endswith("b.jsonl.gz:2")


@pytest.mark.parametrize(
    "row, words",
    [
        ({"instruction": "a", "output": "  "}, "row 2 has an empty answer; source.empty='leave"),
        ({"instruction": "a"}, "row 2 has 'instruction'; it takes a list 'messages', or"),
        ({"messages": [{"role": "bot", "content": "a"}]}, "row 2 has the role 'bot'; it takes one"),
        ({"messages": [TURNS[0], {"role": "user"}]}, "message 2 of .*row 2 is {'role': 'user'}"),
        ({"messages": TURNS[:1]}, "row 2 has no answer"),
    ],
)
def test_rows_that_are_no_conversations_are_refused(tmp_path, row, words):
    (tmp_path / "a.json").write_text(json.dumps([ROWS[0], row]))
    with pytest.raises(UserError, match=words):
        len(Conversations(str(tmp_path / "a.json")))
    if "empty" in words:
        assert len(Conversations(str(tmp_path / "a.json"), empty="leave out")) == 1


def test_what_has_a_loss_are_the_answers_and_their_ends(tmp_path):
    """Several conversations to a row, each a segment of its own from position 0 on."""
    data = Instruct(talk(10), Bytes(), heldout=0.2, template="chatml")
    prepared = data.prepare(tmp_path / "data", 159)
    tokenizer, train = prepared.tokenizer, prepared.train
    assert (len(train), prepared.facts["tokens_added"], tokenizer.vocab) == (4, 2, 259)
    seen = set()
    for row in (train[i] for i in range(len(train))):
        assert {name: array.shape for name, array in row.items()} == dict.fromkeys(row, (160,))
        assert row["segments"].max() == 2
        for segment in (1, 2):
            own = row["segments"] == segment
            assert row["position"][own].tolist() == list(range(own.sum()))
            text = tokenizer.decode(row["tokens"][own])
            number = text.partition("Hello ")[2][0]
            seen.add(number)
            told = tokenizer.decode(row["tokens"][own & (row["weights"] > 0)])
            assert told == f"Who is it? {number}<|im_end|>Come in. {number}<|im_end|>"
        assert not row["weights"][row["segments"] == 0].any()
    assert len(seen) == 8 and ends(tokenizer) == (256, 258)
    [one, _] = prepared.texts
    assert one["targets"][0].startswith("Come in.") and one["messages"][-1]["role"] == "user"
    assert prepared.facts["heldout_tokens"] == 2 * (len("Who is it? 0Come in. 0") + 2)
    assert prepared.facts["heldout_bytes"] == 2 * len("Who is it? 0Come in. 0")


def test_long_conversations_are_cut_and_those_without_an_answer_left_out(tmp_path):
    mixed = [{"messages": TURNS}] * 4 + [
        {"messages": [{"role": "user", "content": "x" * 90}, TURNS[1]]} for _ in range(3)
    ]
    log.forget()
    data = Instruct(Memory(mixed), Bytes(), heldout=talk(1), template="chatml")
    train = data.prepare(tmp_path / "data", 49).train
    rows = [train[i] for i in range(len(train))]
    told = {entry["asked"] for entry in log.facts()["fallbacks"]}
    assert len(rows) == 4 and all(row["weights"].sum() == len("Who is it?") + 1 for row in rows)
    assert "4 of 4 train conversations, longer than 50 tokens" in told
    assert "3 of 7 train conversations" in told
    with pytest.raises(UserError, match="no train conversation has an answer that begins in its"):
        data.prepared(tmp_path / "data", 8)


def test_templates_are_found_or_refused(tmp_path):
    log.forget()
    BPE(300).train(["Hello who is it"]).save(tmp_path / "bare")
    given = lambda template: Instruct(talk(3), Pretrained(str(tmp_path / "bare")), 0.4, template)
    for template, words in (
        ("own", "data.template is 'own', and the tokenizer has no chat template; it takes chatml"),
        ("chat", "data.template is 'chat'; it takes auto, own, chatml, alpaca"),
        (str(tmp_path / "no.jinja"), "there is no file"),
    ):
        with pytest.raises(UserError, match=words):
            given(template).prepare(tmp_path / "refused", 99)
    auto = given("auto").prepare(tmp_path / "auto", 199)
    assert auto.facts["template"].count("### Instruction") and not auto.facts["tokens_added"]
    (tmp_path / "t.jinja").write_text("{% for m in messages %}{{ m.content }}\n{% endfor %}")
    given(str(tmp_path / "t.jinja")).prepare(tmp_path / "file", 99)
    assert "a token that ends each answer" in {e["asked"] for e in log.facts()["fallbacks"]}
    twice = Memory([{"messages": [TURNS[0], *TURNS[:2]]}] * 3)
    with pytest.raises(UserError, match=r"record \d: the chat template refuses it: turns of user"):
        Instruct(twice, Bytes(), 0.4, "alpaca").prepare(tmp_path / "twice", 99)


def test_a_tuned_model_reads_every_answer_of_real_data(tmp_path):
    """Dolly: what has a loss, decoded, is the answer of the file and the end."""
    if "LM_RESEARCH_DATA" not in os.environ:
        pytest.skip("LM_RESEARCH_DATA, under which instruct/dolly_3k.json.gz lies, is not set")
    path = Path(os.environ["LM_RESEARCH_DATA"]) / "instruct" / "dolly_3k.json.gz"
    source = Conversations(str(path))
    assert len(source) == 2996
    few = Memory([source[i] for i in range(0, 2996, 100)])
    data = Instruct(few, Bytes(), heldout=few, template="alpaca").prepare(tmp_path / "d", 9000)
    told = []
    for row in (data.train[i] for i in range(len(data.train))):
        for segment in range(1, row["segments"].max() + 1):
            own = (row["segments"] == segment) & (row["weights"] > 0)
            told.append(data.tokenizer.decode(row["tokens"][own]))
    want = [record["messages"][-1]["content"] + "<|endoftext|>" for record in few]
    kept = np.array([len(text) < 8000 for text in want])
    assert kept.all() and sorted(told) == sorted(want)
