import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models

from lm_research.data import BPE, Bytes, Characters, Pretrained
from lm_research.data.tokenizer import Tokenizer, find, load
from lm_research.errors import UserError

TEXT = "the cat sat on the mat, the other cat sat on the hat\n" * 20
KINDS = {"bytes": Bytes(), "characters": Characters(), "bpe": BPE(vocab=300)}


@pytest.fixture(scope="module")
def trained():
    return {name: kind.train([TEXT]) for name, kind in KINDS.items()}


def test_vocabularies(trained):
    assert (trained["bytes"].vocab, trained["bytes"].eos) == (257, 256)
    assert trained["bytes"].encode("é").tolist() == [0xC3, 0xA9]
    assert (trained["characters"].vocab, trained["characters"].eos) == (len(set(TEXT)), None)
    assert trained["characters"].encode("\n ,a").tolist() == [0, 1, 2, 3]
    assert Characters().train([TEXT, "z"]).eos == len(set(TEXT) | {"z"})
    assert trained["bpe"].eos == 0 and trained["bpe"].vocab <= 300
    assert len(trained["bpe"].encode(TEXT)) < len(TEXT) / 2


@pytest.mark.parametrize("name", ["bytes", "bpe"])
def test_every_text_round_trips(trained, name):
    tokenizer = trained[name]

    @settings(deadline=None)
    @given(st.text(st.characters(exclude_categories=["Cs"])))
    def check(text):
        ids = tokenizer.encode(text)
        assert ids.dtype == np.int32 and tokenizer.eos not in ids
        assert tokenizer.decode(ids) == text

    check()
    special = "a<|endoftext|>b"  # text that spells a special token stays text
    assert tokenizer.eos not in tokenizer.encode(special)
    assert tokenizer.decode(tokenizer.encode(special)) == special


@pytest.mark.parametrize("name", KINDS)
def test_saved_loaded_and_read_by_transformers(trained, tmp_path, name):
    transformers = pytest.importorskip("transformers")
    tokenizer = trained[name]
    tokenizer.save(tmp_path)
    ids = tokenizer.encode(TEXT)
    for other in (load(tmp_path), find(tmp_path), Pretrained(str(tmp_path)).train([])):
        assert (other.hash, other.vocab, other.eos) == (
            tokenizer.hash,
            tokenizer.vocab,
            tokenizer.eos,
        )
        assert (other.encode(TEXT) == ids).all()
    assert pickle.loads(pickle.dumps(tokenizer)).hash == tokenizer.hash
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.encode(TEXT, add_special_tokens=False) == ids.tolist()
    assert theirs.decode(ids.tolist()) == TEXT
    assert theirs.eos_token_id == tokenizer.eos


def test_characters_are_those_of_the_library_behind_them(trained):
    tokenizer = trained["characters"]
    assert tokenizer.encode(TEXT).tolist() == tokenizer._tokenizer.encode(TEXT).ids


def test_training_is_deterministic(trained):
    program = f"from lm_research.data import BPE;print(BPE(vocab=300).train([{TEXT!r}]).hash)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == trained["bpe"].hash
    assert BPE(vocab=265).train([TEXT]).hash != trained["bpe"].hash


def test_learns_from_the_beginning_alone():
    limited = BPE(vocab=280, characters=len(TEXT))
    assert limited.train([TEXT, "zzzz" * 999]).hash == BPE(vocab=280).train([TEXT]).hash


def test_older_directories_of_gpt2(trained, tmp_path):
    model = json.loads(trained["bpe"]._tokenizer.to_str())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    with pytest.raises(UserError, match=r"merges\.txt is missing"):
        load(tmp_path)
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + merges + "\n")
    tokenizer = load(tmp_path)
    assert tokenizer.eos == 0
    assert (tokenizer.encode(TEXT) == trained["bpe"].encode(TEXT)).all()
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": [7, 8]}))
    assert load(tmp_path).eos == 7
    (tmp_path / "special_tokens_map.json").write_text(
        json.dumps({"eos_token": {"content": "<|endoftext|>"}})
    )
    assert load(tmp_path).eos == 0


def test_prompts(trained):
    assert trained["bpe"].prompt("").tolist() == [0]
    assert trained["characters"].prompt("").tolist() == [0]  # a new line
    assert trained["bytes"].prompt("a").tolist() == [97]
    assert Characters().train(["no lines"]).prompt("").tolist() == [0]


def test_special_tokens_by_role(tmp_path):
    bpe = BPE(vocab=300, roles=("mask", "cls", "sep", "pad"), sentinels=3).train([TEXT])
    assert (bpe.eos, bpe.mask, bpe.cls, bpe.sep, bpe.pad, bpe.unk) == (0, 1, 2, 3, 4, None)
    assert bpe.sentinels == (5, 6, 7) and bpe.vocab <= 300
    plain = Bytes(roles=("mask",), sentinels=2).train([])
    assert (plain.mask, plain.sentinels) == (257, (258, 259))
    bpe.save(tmp_path)
    again = load(tmp_path)
    assert (again.hash, again.mask, again.sentinels) == (bpe.hash, 1, (5, 6, 7))
    with pytest.raises(UserError, match=r"264 or more: 256 bytes, .* and 7 other"):
        BPE(vocab=263, roles=("mask", "cls", "sep", "pad"), sentinels=3)


def test_tokens_that_begin_words(trained):
    bpe = trained["bpe"]
    words = [bpe.decode([i]) for i in np.flatnonzero(bpe.begins_word)]
    assert " the" in words and "\n" in words and "<|endoftext|>" in words and "at" not in words
    pieces = models.WordPiece({"[UNK]": 0, "cat": 1, "##s": 2}, unk_token="[UNK]")
    assert Tokenizer(tokenizers.Tokenizer(pieces), {}).begins_word.tolist() == [True, True, False]


def test_a_list_of_word_pieces_alone(tmp_path):
    """As Google's BERT comes, whose tokens have roles that no file tells."""
    pieces = "[PAD] [UNK] [CLS] [SEP] [MASK] a cat ##s film ! É".split()
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    (tmp_path / "config.json").write_text(json.dumps({"pad_token_id": 0}))
    bert = find(tmp_path)
    assert bert.encode("A cats! É [SEP]").tolist() == [5, 6, 7, 9, 1, 1, 1, 1]
    assert (bert.pad, bert.unk, bert.cls, bert.sep, bert.mask) == (0, 1, 2, 3, 4)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    assert load(tmp_path).encode("A É").tolist() == [1, 10]
    bert.save(tmp_path / "saved")
    assert load(tmp_path / "saved").hash == bert.hash and pickle.loads(pickle.dumps(bert)).cls == 2


def test_bad_input(trained, tmp_path):
    with pytest.raises(UserError, match=r"'☃' \(number 3 of 'the☃'"):
        trained["characters"].encode("the☃")
    with pytest.raises(UserError, match="257 or more"):
        BPE(vocab=100)
    with pytest.raises(UserError, match="empty"):
        Characters().train([""])
    with pytest.raises(UserError, match=r"holds no tokenizer; it takes tokenizer\.json"):
        load(tmp_path)
    with pytest.raises(UserError, match="is not a directory"):
        load(tmp_path / "no")
    assert find(tmp_path) is None
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer\.json cannot be read") as error:
        load(tmp_path)
    assert "\n" not in str(error.value)
