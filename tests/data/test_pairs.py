"""Pairs of texts: from files to token arrays."""

import gzip
import pickle

import numpy as np
import pytest

from lm_research import log
from lm_research.data import BPE, Bytes, EachTarget, Memory, Mix, Pairs, Parallel, Tagged
from lm_research.errors import UserError

PAIRS = [("ein Hund", "a dog"), ("zwei Katzen", "two cats"), ("drei", "three")]


def written(directory, kind):
    if kind == "tsv":
        (directory / "pairs.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in PAIRS) + "\n")
        return str(directory / "pairs.tsv")
    if kind == "jsonl":
        lines = "".join(f'{{"de": "{a}", "en": "{b}"}}\n' for a, b in PAIRS)
        (directory / "pairs.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
        return str(directory / "pairs.jsonl.gz")
    (directory / "a.de").write_text("\n".join(a for a, _ in PAIRS))
    (directory / "b.en.gz").write_bytes(gzip.compress("\n".join(b for _, b in PAIRS).encode()))
    return f"{directory / 'a.de'}, {directory / 'b.en.gz'}"


@pytest.mark.parametrize("kind", ["tsv", "jsonl", "parallel"])
def test_files_of_pairs(tmp_path, kind):
    pairs = Pairs(written(tmp_path, kind), ("de", "en"))
    assert [tuple(record.values()) for record in pairs] == PAIRS
    assert list(pairs[0]) == ["source", "target"]
    assert pickle.loads(pickle.dumps(pairs))[2] == pairs[2]


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.tsv", "one\n", r"a.tsv:1 has 1 columns"),
        ("a.jsonl", '{"source": "x"}\n', r"a.jsonl:1 is .*; it takes texts source and target"),
        ("a.jsonl", "{\n", "a.jsonl:1 is not JSON"),
        ("a.tsv", "", "holds no pairs"),
        ("a.txt", "x", "one .tsv or .jsonl file or from two text files"),
    ],
)
def test_files_that_hold_no_pairs_are_refused(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=words):
        len(Pairs(str(tmp_path / name)))


def test_parallel_files_have_as_many_lines(tmp_path):
    (tmp_path / "a").write_text("x\ny\n")
    (tmp_path / "b").write_text("x\n")
    with pytest.raises(UserError, match=r"a has 2 lines and .*b 1"):
        len(Pairs((str(tmp_path / "a"), str(tmp_path / "b"))))


def test_lines_with_one_side_are_left_out_and_that_is_told(tmp_path):
    (tmp_path / "a").write_text("x\n\ny\n\n")
    (tmp_path / "b").write_text("u\n\n \nv\n")
    before = len(log.facts()["fallbacks"])
    pairs = Pairs((str(tmp_path / "a"), str(tmp_path / "b")))
    assert list(pairs) == [{"source": "x", "target": "u"}]
    [told] = log.facts()["fallbacks"][before:]
    assert told["asked"].startswith("2 lines of") and "the first is line 3" in told["why"]


@pytest.mark.parametrize(
    "name, lines",
    [
        ("a.tsv", ["x\tu", "\tv", "y\t ", "z\tw"]),
        (
            "a.jsonl",
            [
                '{"source": "x", "target": "u"}',
                '{"source": "", "target": "v"}',
                '{"source": "y", "target": [" "]}',
                '{"source": "z", "target": ["", "w"]}',
            ],
        ),
    ],
)
def test_so_are_those_of_one_file(tmp_path, name, lines):
    (tmp_path / name).write_text("\n".join(lines))
    before = len(log.facts()["fallbacks"])
    pairs = Pairs(str(tmp_path / name))
    assert list(pairs) == [{"source": "x", "target": "u"}, {"source": "z", "target": "w"}]
    [told] = log.facts()["fallbacks"][before:]
    assert told["asked"].startswith("2 lines of") and "the first is line 2" in told["why"]


def test_pairs_become_tokens_that_end(tmp_path):
    source = Pairs(written(tmp_path, "tsv"))
    data = Parallel(source, Bytes(), heldout=source).prepare(tmp_path / "data", 32)
    found = [{k: v.tolist() for k, v in record.items()} for record in data.train]
    assert found == [{"source": [*a.encode(), 256], "target": [*b.encode(), 256]} for a, b in PAIRS]
    assert data.facts["heldout_bytes"] == sum(len(b) for _, b in PAIRS)
    assert data.facts["heldout_tokens"] == sum(len(b) + 1 for _, b in PAIRS)
    again = Parallel(source, Bytes(), heldout=source).prepare(tmp_path / "data", 32, kept=True)
    assert again.facts == data.facts


def test_long_texts_are_cut_and_that_is_told(tmp_path):
    source = Memory([{"source": "abcdef", "target": "uvw"}] * 3)
    before = len(log.facts()["fallbacks"])
    data = Parallel(source, Bytes(), heldout=0.3).prepare(tmp_path / "data", 4)
    assert data.train[0]["source"].tolist() == [*b"abc", 256]
    assert data.train[0]["target"].tolist() == [*b"uvw", 256]
    asked = [entry["asked"] for entry in log.facts()["fallbacks"][before:]]
    assert "2 of 2 train pairs, longer than 4 tokens" in asked
    assert len(data.train) == 2 and len(data.heldout) == 1


def test_other_texts_are_refused_to_a_run_and_gone_ones_are_not_needed(tmp_path):
    source = Pairs(written(tmp_path, "tsv"))
    made = Parallel(source, Bytes()).prepare(tmp_path / "data", 32)
    with (tmp_path / "pairs.tsv").open("a") as file:
        file.write("vier\tfour\n")
    with pytest.raises(UserError, match=r"other texts.*new --workdir"):
        Parallel(Pairs(source.paths), Bytes()).prepare(tmp_path / "data", 32, kept=True)
    assert len(Parallel(Pairs(source.paths), Bytes()).prepare(tmp_path / "new", 32).train) == 3
    (tmp_path / "pairs.tsv").unlink()
    kept = Parallel(Pairs(source.paths), Bytes()).prepare(tmp_path / "data", 32, kept=True)
    np.testing.assert_array_equal(kept.train[0]["source"], made.train[0]["source"])


def test_records_without_both_texts_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"record 0 .* no text 'target'"):
        Parallel(Memory([{"source": "x"}] * 2), Bytes()).prepare(tmp_path / "data", 4)


def test_a_list_as_a_source_is_one_text_and_as_a_target_several(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"source": ["One.", "Two."], "target": ["x", "y"]}\n')
    pairs = Pairs(str(path))
    assert pairs[0] == {"source": "One. Two.", "target": "x", "targets": ("x", "y")}
    each = pickle.loads(pickle.dumps(EachTarget(Mix((pairs, pairs), (1, 1)))))
    assert [record["target"] for record in each] == ["x", "y"] * 2
    assert each[3] == {"source": "One. Two.", "target": "y"}
    before = each.fingerprint()
    assert before == EachTarget(Mix((pairs, pairs), (1, 1))).fingerprint()
    path.write_text('{"source": [], "target": "x"}\n')
    assert EachTarget(Mix((Pairs(str(path)),) * 2, (1, 1))).fingerprint() != before
    with pytest.raises(UserError, match=r"a.jsonl:1 is .*; it takes texts"):
        len(Pairs(str(path)))


def test_what_is_held_out_is_kept_as_it_was_written(tmp_path):
    records = [{"source": "a\u2028b", "target": " x ", "targets": (" x ", "y")}]
    records.append({"source": "c", "target": "z"})
    data = Parallel(Memory(records), Bytes(), heldout=Memory(records)).prepare(tmp_path, 9)
    kept = [{"source": "a\u2028b", "targets": [" x ", "y"]}, {"source": "c", "targets": ["z"]}]
    assert list(data.texts) == kept
    share = Parallel(Memory(records * 5), Bytes(), heldout=0.3).prepare(tmp_path / "share", 9)
    assert len(share.texts) == len(share.heldout) == 3
    for original, held in zip(share.texts, share.heldout):
        assert held["source"].tolist() == [*original["source"].encode(), 256]


def test_a_tag_is_one_token_before_a_source(tmp_path):
    pairs = Pairs(written(tmp_path, "tsv"))
    to_english = Tagged(pairs, "<2en>")
    assert to_english[1] == {"source": "<2en> zwei Katzen", "target": "two cats"}
    assert to_english.fingerprint() != Tagged(pairs, "<2fr>").fingerprint()
    settings = BPE(300, tags=("<2en>", "<2fr>"))
    data = Parallel(to_english, settings, heldout=pairs).prepare(tmp_path / "data", 32)
    tokenizer = data.tokenizer
    first = data.train[0]["source"]
    assert first[0] == tokenizer.vocab - 2 and tokenizer.decode(first[1:-1]) == " ein Hund"
    assert tokenizer.decode(tokenizer.encode("<2fr> a")) == "<2fr> a" and tokenizer.vocab <= 300
    with pytest.raises(UserError, match="takes 259 or more"):
        BPE(258, tags=("<2en>", "<2fr>"))


def test_packed_pairs_share_rows_and_none_is_lost(tmp_path):
    rng = np.random.default_rng(0)
    words = lambda: "".join(chr(97 + c) for c in rng.integers(0, 26, rng.integers(1, 9)))
    source = Memory([{"source": words(), "target": words()} for _ in range(200)])
    settings = Parallel(source, Bytes(), heldout=source, packed=True)
    rows = pickle.loads(pickle.dumps(settings.prepare(tmp_path, 24).train))
    found = []
    for row in rows:
        assert max(len(row["source"]), len(row["target"])) <= 24
        ends = {n: np.cumsum(counts)[:-1] for n, counts in row["counts"].items()}
        sides = [np.split(row[name], ends[name]) for name in ("source", "target")]
        texts = [[bytes(text[:-1].tolist()).decode() for text in side] for side in sides]
        found += zip(*texts)
    assert sorted(found) == sorted((r["source"], r["target"]) for r in source)
    total = sum(max(len(r["source"]), len(r["target"])) + 1 for r in source)
    assert len(rows) * 24 < 1.25 * total  # hardly a row is not full
