import multiprocessing
import os
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_research.data import (
    BPE,
    Bytes,
    Characters,
    Memory,
    Packed,
    Pretrained,
    TextFiles,
    Windows,
    shards,
)
from lm_research.errors import UserError


def memory(*texts):
    return Memory([{"text": text} for text in texts])


MANY = memory(*(f"document number {i} " * (1 + i % 5) for i in range(40)))


def expected(stream, begins, start, length, tokens):
    """Window by window in plain Python: (tokens, weights, segments, position) from `start` on."""
    for first in range(start, tokens, length):
        rows = []
        segment, since = 0, first
        for place in range(first, first + length + 1):
            if place > tokens:
                rows.append((0, 0.0, 0, 0))
                continue
            if place == first or place in begins:
                segment, since = segment + 1, place
            rows.append((stream[place], 1.0, segment, place - since))
        yield rows


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text("abc", max_size=9), min_size=1, max_size=9), st.integers(1, 12))
def test_windows_against_plain_python(texts, length):
    with tempfile.TemporaryDirectory() as directory:
        written = shards.write(Path(directory) / "s", texts, Bytes().train([]))
        stream = written.tokens.tolist()
        begins = {place for place, token in enumerate(stream) if token == 256}
        windows = Windows(written, length)
        whole = windows.gather(np.arange(len(windows)))
        names = ("tokens", "weights", "segments", "position")
        found = [
            list(zip(*(whole[name][i].tolist() for name in names))) for i in range(len(windows))
        ]
        assert found == list(expected(stream, begins, 0, length, len(stream) - 1))
        # The loss sees every token but the very first once, in order.
        targets, real = whole["tokens"][:, 1:], whole["weights"][:, 1:] > 0
        assert targets[real].tolist() == stream[1:]
        for name in names:
            assert whole[name].dtype == (np.float32 if name == "weights" else np.int32)
            assert (windows[len(windows) - 1][name] == whole[name][-1]).all()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text("abc", max_size=9), min_size=1, max_size=9), st.integers(1, 9), st.data())
def test_shifted_windows_cover_the_same_ring(texts, length, data):
    with tempfile.TemporaryDirectory() as directory:
        written = shards.write(Path(directory) / "s", texts, Bytes().train([]))
        stream = written.tokens.tolist()
        ring = stream[:-1]
        if len(ring) < length:
            return
        shift = data.draw(st.integers(0, len(ring) - 1))
        windows = Windows(written, length)
        whole = windows.gather(np.arange(len(windows)), shift)
        turned = 3 * ring
        begins = {place for place, token in enumerate(turned) if token == 256}
        plain = list(expected(turned, begins, shift, length, len(ring) + shift))
        names = ("tokens", "weights", "segments", "position")
        for i, rows in enumerate(plain):
            assert list(zip(*(whole[name][i].tolist() for name in names))) == rows


def test_without_an_end_the_last_token_predicts_nothing(tmp_path):
    written = shards.write(tmp_path / "s", ["abcde"], Characters().train(["abcde"]))
    rows = Windows(written, 2).gather([0, 1], 3)
    assert rows["tokens"].tolist() == [[3, 4, 1], [1, 2, 3]]
    assert rows["weights"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert rows["segments"].tolist() == [[1, 1, 2], [1, 1, 1]]
    assert Windows(written, 2, "joined")[0].keys() == {"tokens", "weights"}


def test_prepare(tmp_path):
    packed = Packed(MANY, BPE(vocab=300), heldout=0.1)
    prepared = packed.prepare(tmp_path / "data", 8)
    facts = prepared.facts
    assert facts["split"] == "documents"
    assert facts["train_documents"] + facts["heldout_documents"] == 40
    total = facts["train_bytes"] + facts["heldout_bytes"]
    assert total == sum(len(record["text"]) for record in MANY)
    assert 0.1 <= facts["heldout_bytes"] / total < 0.1 + 95 / total
    for name, part in (("train", prepared.train), ("heldout", prepared.heldout)):
        rows = part.gather(np.arange(len(part)))
        assert rows["weights"][:, 1:].sum() == facts[f"{name}_tokens"]
    assert facts["gzip_bits_per_byte"] > 0 and facts["xz_bits_per_byte"] > 0
    assert facts["tokenizer"] == prepared.tokenizer.hash and facts["vocab"] <= 300
    train = prepared.tokenizer.decode(prepared.train.shards.tokens).split("<|endoftext|>")[1:-1]
    heldout = prepared.tokenizer.decode(prepared.heldout.shards.tokens).split("<|endoftext|>")[1:-1]
    assert sorted(train + heldout) == sorted(record["text"] for record in MANY)
    assert BPE(vocab=300).train(train).hash == prepared.tokenizer.hash
    assert pickle.loads(pickle.dumps(prepared.train))[0]["tokens"].shape == (9,)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("files", [False, True])
def test_prepared_once(tmp_path, monkeypatch, cached, files):
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": "some words {i}"}}\n' for i in range(30)))
    source = TextFiles(str(tmp_path / "a.jsonl")) if files else MANY
    cache = str(tmp_path / "cache") if cached else None
    packed = Packed(source, BPE(vocab=280), cache=cache)
    first = packed.prepare(tmp_path / "data", 8)

    def never(*_):
        raise AssertionError("made again")

    monkeypatch.setattr(BPE, "train", never)
    monkeypatch.setattr(shards, "write", never)
    places = [tmp_path / "data"] + ([tmp_path / "another"] if cached else [])
    for place in places:
        again = packed.prepare(place, 8)
        assert again.facts == first.facts
        assert (again.train.gather([0, 1])["tokens"] == first.train.gather([0, 1])["tokens"]).all()


def test_a_moved_directory_is_still_prepared(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("abcdefgh" * 20)
    packed = Packed(TextFiles(str(path)), Bytes())
    first = packed.prepare(tmp_path / "data", 8)
    (tmp_path / "data").rename(tmp_path / "moved")
    assert packed.prepare(tmp_path / "moved", 8).facts == first.facts


def test_made_again_when_anything_changes(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("abcdefgh" * 20)
    source = TextFiles(str(path))
    first = Packed(source, Bytes()).prepare(tmp_path / "data", 8).facts
    fewer = Packed(source, Bytes(), heldout=0.5).prepare(tmp_path / "data", 8).facts
    assert fewer["heldout_bytes"] == 80 and first["heldout_bytes"] == 8
    assert Packed(source, Characters()).prepare(tmp_path / "data", 8).facts["vocab"] == 8
    path.write_text("abcdefghi" * 20)
    again = Packed(TextFiles(str(path)), Bytes()).prepare(tmp_path / "data", 8)
    assert again.facts["content"] != first["content"]


def test_tail_is_the_split_of_nanogpt(tmp_path):
    text = "".join(map(chr, range(97, 107))) * 11
    packed = Packed(memory(text), Characters(), heldout=0.1, documents="joined")
    prepared = packed.prepare(tmp_path, 4)
    assert prepared.facts["split"] == "tail"
    ids = packed.tokenizer.train([text]).encode(text).astype(np.uint16)
    assert prepared.train.shards.tokens.tolist() == ids[: int(110 * 0.9)].tolist()
    assert prepared.heldout.shards.tokens.tolist() == ids[int(110 * 0.9) :].tolist()


def test_tail_of_several_documents(tmp_path):
    prepared = Packed(memory("aaaa", "bbbb", "cccc"), Bytes(), heldout=0.5).prepare(tmp_path, 2)
    decode = prepared.tokenizer.decode
    assert decode(prepared.train.shards.tokens[1:-1]) == "aaaa<|endoftext|>bb"
    assert decode(prepared.heldout.shards.tokens[1:-1]) == "bb<|endoftext|>cccc"


def test_a_heldout_source_and_a_pretrained_tokenizer(tmp_path):
    Bytes().train([]).save(tmp_path / "tokenizer")
    packed = Packed(memory("abcd"), Pretrained(str(tmp_path / "tokenizer")), heldout=memory("xyz"))
    prepared = packed.prepare(tmp_path / "data", 2)
    assert prepared.facts["split"] == "given" and prepared.facts["heldout_bytes"] == 3
    assert prepared.tokenizer.decode(prepared.heldout.shards.tokens[1:-1]) == "xyz"


def _killed(directory, calls):
    """Prepares in a process that dies in the middle of its n-th text."""
    seen = 0
    add = shards.TextHash.add

    def dying(self, text):
        nonlocal seen
        seen += 1
        if seen == calls:
            os.kill(os.getpid(), 9)
        return add(self, text)

    shards.TextHash.add = dying
    Packed(MANY, Bytes()).prepare(directory, 8)


@pytest.mark.parametrize("calls", [5, 45, 79])  # surveying, writing train, writing held-out
def test_killed_in_the_middle(tmp_path, calls):
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_killed, args=(tmp_path / "data", calls))
    process.start()
    process.join(30)
    assert process.exitcode == -9
    after = Packed(MANY, Bytes()).prepare(tmp_path / "data", 8)
    clean = Packed(MANY, Bytes()).prepare(tmp_path / "clean", 8)
    assert after.facts == clean.facts
    assert (after.train.shards.tokens == clean.train.shards.tokens).all()
    names = {path.name for path in (tmp_path / "data").iterdir()}
    assert names == {".lock", "prepared.json", "tokenizer", "train", "heldout"}


def test_what_is_damaged_is_named(tmp_path):
    packed = Packed(MANY, Bytes())
    packed.prepare(tmp_path, 8)
    path = tmp_path / "train" / "tokens.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"tokens\.bin is damaged"):
        packed.prepare(tmp_path, 8)


@pytest.mark.parametrize(
    "packed, message",
    [
        (Packed(memory("abc"), Bytes()), "has 3 tokens to predict, fewer than one sequence of 8"),
        (Packed(memory(), Bytes()), "the text is empty: 0 documents"),
        (Packed(memory("abcdefghijk"), Bytes(), split="documents"), "is empty: 1 documents"),
        (Packed(memory("abcdefghijk"), Bytes(), heldout=memory("")), "held-out part .* is empty"),
        (Packed(Memory([{"body": 1}]), Bytes()), "record 0 .* no field 'text'; it has 'body'"),
        (Packed(memory("a\ud800"), Bytes()), "record 0 .* surrogate pair at character 1"),
    ],
)
def test_bad_text(tmp_path, packed, message):
    with pytest.raises(UserError, match=message) as error:
        packed.prepare(tmp_path, 8)
    assert "\n" not in str(error.value)


def test_bad_settings():
    for heldout in (0.0, 1.0, -0.1):
        with pytest.raises(UserError, match="a share between 0 and 1"):
            Packed(MANY, Bytes(), heldout=heldout)
    with pytest.raises(UserError, match="takes a source"):
        Packed("a.txt", Bytes())
