"""Sentences of labelled words: from CoNLL files to tokens with labels at first subwords."""

import gzip
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from lm_research.data import BPE, Bytes, CoNLL, LabelledWords, Memory, Words
from lm_research.data.tokenizer import Tokenizer
from lm_research.errors import UserError

LINE = "{}\t{}\t_\t{}\tX{}\t_\t0\troot\t_\t_\n"
UNIVERSAL = (
    "# text = Don't # go\n"
    + "1-2\tDon't" + 8 * "\t_" + "\n"
    + LINE.format(1, "Do", "AUX", 1)
    + LINE.format(2, "n't", "PART", 2)
    + LINE.format(3, "#", "SYM", 3)
    + "3.1\tnothing" + 8 * "\t_" + "\n"
    + LINE.format(4, "10 000", "NUM", 4)
    + "\n\n"
    + LINE.format(1, "Go", "VERB", 1)
)  # fmt: skip
COLUMNS = (
    "-DOCSTART- -X- O\n\nEU NNP B-ORG\n# SYM O\r\n\nPeter NNP B-PER\nBlackburn NNP I-PER\n   \n"
)


def test_universal(tmp_path):
    (tmp_path / "a.conllu.gz").write_bytes(gzip.compress(UNIVERSAL.encode()))
    source = CoNLL(str(tmp_path / "a.conllu.gz"))
    words, labels = ["Do", "n't", "#", "10 000"], ["AUX", "PART", "SYM", "NUM"]
    assert list(source) == [
        {"words": words, "labels": labels},
        {"words": ["Go"], "labels": ["VERB"]},
    ]
    assert source.where(0, 3).endswith("a.conllu.gz:7") and source.where(1).endswith(":10")
    for column in ("xpos", 4, -6):
        found = pickle.loads(pickle.dumps(CoNLL(source.paths, column)))
        assert found[0]["labels"] == ["X1", "X2", "X3", "X4"]
    assert CoNLL(source.paths, "upos", words="xpos")[1]["words"] == ["X1"]


def test_columns(tmp_path):
    (tmp_path / "a.conll").write_text(COLUMNS)
    found = list(CoNLL(str(tmp_path / "a.conll"), column=-1))
    assert found == [
        {"words": ["EU", "#"], "labels": ["B-ORG", "O"]},
        {"words": ["Peter", "Blackburn"], "labels": ["B-PER", "I-PER"]},
    ]
    (tmp_path / "a.dat").write_text("# id 1\nEU\tO\n")
    [found] = CoNLL(str(tmp_path / "a.dat"), column=1, form="columns", comment="# id")
    assert found == {"words": ["EU"], "labels": ["O"]}


@pytest.mark.parametrize(
    "name, content, column, words",
    [
        ("a.conllu", "1\tGo\n", "upos", r"a.conllu:1 has 2 columns; CoNLL-U has 10"),
        ("a.conllu", LINE.format(2, "a", "X", 1), "upos", r"a.conllu:1 has the id '2'; the next"),
        ("a.conllu", LINE.format(1, "a", "_", 1), "upos", r"a.conllu:1 has no upos"),
        ("a.conllu", LINE.format(1, "", "X", 1), "upos", r"a.conllu:1 has no form"),
        ("a.conllu", UNIVERSAL, "upo", "no column of CoNLL-U is called 'upo'; did you mean 'upos'"),
        ("a.conllu", "# only\n", "upos", "a.conllu holds no sentences"),
        ("a.conll", COLUMNS, "upos", "column 'upos' is a name, and .* columns without names"),
        ("a.conll", COLUMNS, 3, r"a.conll:3 has 3 columns, and none has number 3"),
        ("a.conll", "a O\nb\n", 1, r"a.conll:2 has 1 columns, and line 1 of the same sentence 2"),
        ("a.pdf", "a O\n", 1, "a.pdf is no file of labelled words by its name"),
    ],
)
def test_what_is_no_sentence_is_refused(tmp_path, name, content, column, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=words):
        len(CoNLL(str(tmp_path / name), column))


def wordpiece():
    """BERT's way: spaces belong to no word, and some characters vanish."""
    pieces = ["[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "un", "##able", "b"]
    found = tokenizers.Tokenizer(
        models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]")
    )
    found.normalizer = normalizers.BertNormalizer()
    found.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    found.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return Tokenizer(found, {"cls": "[CLS]", "sep": "[SEP]"})


def spelled(tokenizer, words):
    [(ids, places)] = tokenizer.encode_words([words])
    return [tokenizer.decode([i]) for i in ids], places.tolist()


def test_words_are_spelled_as_in_a_text():
    text = ["the cat sat on the mat and the cat sat on the mat"]
    byte_pairs = BPE(290).train(text)
    pieces, places = spelled(byte_pairs, ["the", "cat", "xsat"])
    assert pieces[:2] == ["the", " cat"] and places == [0, 1, 2]
    ids = byte_pairs.encode_words([["the", "cat", "xsat"]])[0][0]
    assert ids.tolist() == byte_pairs.encode("the cat xsat").tolist()
    assert spelled(Bytes().train(()), ["ab", "c"]) == (["a", "b", " ", "c"], [0, 2])
    own = wordpiece()
    assert spelled(own, ["The", "unable", "\u200d", "b"]) == (
        ["the", "un", "##able", "b"],
        [0, 1, -1, 3],
    )
    assert [ids.tolist() for ids, _ in own.encode_words([["b"], ["sat", "b"]])] == [[8], [5, 8]]


RECORDS = [
    {"words": ["a", "bcd", "e"], "labels": ["X", "Y", "X"]},
    {"words": ["fg"], "labels": ["Y"]},
    {"words": ["a", "fg", "zzz"], "labels": ["X", "X", "Y"]},
]


def test_labels_stand_at_first_tokens(tmp_path, capsys):
    tokenizer = Bytes(roles=("cls", "sep"))
    other = Memory([{"words": ["bcd", "new", "a"], "labels": ["Y", "X", "Y"]}])
    data = LabelledWords(Memory(RECORDS), tokenizer, Memory(RECORDS), others={"other": other})
    prepared = data.prepare(tmp_path, 8)
    assert prepared.classes == ("X", "Y")
    first, last = prepared.train[0], prepared.train[2]
    assert prepared.tokenizer.decode(first["text"]) == "<|cls|>a bcd <|sep|>"
    assert first["labels"].tolist() == [-1, 0, 1, -1, -1, -1, 0, -1]  # a space begins the word e
    assert last["labels"].tolist() == [-1, 0, 0, -1, -1, 1, -1, -1]
    assert prepared.train.lengths.tolist() == [8, 4, 8]
    shorter = pickle.loads(pickle.dumps(data.prepared(tmp_path, 7).train))
    assert [x.tolist() for x in shorter.words(2)] == [[1, 2, 5], [0, 0, 1]]
    assert [x.tolist() for x in data.prepared(tmp_path, 6).train.words(2)] == [
        [1, 2, -1],
        [0, 0, 1],
    ]
    told = capsys.readouterr().err
    assert "asked for 2 of 7 train words, in 2 long sentences, got the first 6 tokens" in told
    # "bcd" was Y, "new" is unknown and takes X, the more frequent one, and "a" was X.
    assert prepared.facts["other_most_frequent"] == 2 / 3
    assert "heldout_most_frequent" not in prepared.facts  # it is the train part
    again = LabelledWords(Memory(RECORDS[:2]), tokenizer, 0.5)
    with pytest.raises(UserError, match="prepared from other texts or in another way"):
        again.prepare(tmp_path, 8, kept=True)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"labels": ["X", "Z", "X"]}, r"record 0 has the label 'Z' \(bcd\), of no class; they are"),
        ({"labels": ["X"]}, "record 0 has 3 words and 1 labels; it takes one for each word"),
        ({"words": []}, "record 0 has 0 words and 3 labels"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, change, words):
    heldout = Memory([{**RECORDS[0], **change}])
    with pytest.raises(UserError, match=words):
        LabelledWords(Memory(RECORDS), Bytes(), heldout).prepare(tmp_path, 8)
    with pytest.raises(UserError, match="a bag of words and n-grams; take BPE or Bytes"):
        LabelledWords(Memory(RECORDS), Words(), Memory(RECORDS)).prepare(tmp_path, 8)


def test_a_label_of_no_class_is_told_with_its_line(tmp_path):
    (tmp_path / "a.conllu").write_text(UNIVERSAL)
    (tmp_path / "b.conllu").write_text(UNIVERSAL.replace("NUM", "SCONJ"))
    train, dev = (CoNLL(str(tmp_path / f"{name}.conllu")) for name in "ab")
    with pytest.raises(UserError, match=r"b.conllu:7 has the label 'SCONJ' \(10 000\), of no clas"):
        LabelledWords(train, Bytes(), dev).prepare(tmp_path / "data", 32)


def test_universal_dependencies():
    """Counts of the treebanks' own READMEs, and what the most frequent label of words gives."""
    if "LM_RESEARCH_DATA" not in os.environ:
        pytest.skip("LM_RESEARCH_DATA, under which ud/*.conllu.gz lie, is not set")
    directory = Path(os.environ["LM_RESEARCH_DATA"]) / "ud"
    sizes = {"en_ewt-ud-test": (2077, 25094), "fr_sequoia-ud-test": (456, 10044)}
    for name, (sentences, words) in sizes.items():
        source = CoNLL(str(directory / f"{name}.conllu.gz"))
        assert (len(source), sum(len(r["words"]) for r in source)) == (sentences, words)
    with pytest.raises(UserError, match=r"fr_sequoia-ud-test.conllu.gz:4 has no xpos"):
        len(CoNLL(str(directory / "fr_sequoia-ud-test.conllu.gz"), "xpos"))
    assert np.array_equal(source[0]["labels"], CoNLL(source.paths, 3)[0]["labels"])


def test_only_spaces_and_tabs_part_columns(tmp_path):
    (tmp_path / "a.txt").write_text("10\u00a0000  NUM\nkm NOUN\n\n1\u2009000 NUM\n")
    found = CoNLL(str(tmp_path / "a.txt"), column=-1)
    assert [record["words"] for record in found] == [["10\u00a0000", "km"], ["1\u2009000"]]
