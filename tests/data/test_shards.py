import json
import pickle

import numpy as np
import pytest

from lm_research.data import BPE, Bytes, Characters, shards
from lm_research.errors import UserError

TEXTS = ["one", "two two", "", "four"]


def test_round_trip(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "BATCH", 4)  # several batches
    tokenizer = Bytes().train([])
    written = shards.write(tmp_path / "shards", iter(TEXTS), tokenizer, "key")
    for found in (written, pickle.loads(pickle.dumps(written))):
        assert found.offsets.tolist() == [0, 4, 12, 13]
        assert found.tokens.dtype == np.uint16 and found.eos == 256
        assert tokenizer.decode(found.tokens[1:4]) == "one"
        assert found.tokens[[0, 4, 12, 13, 18]].tolist() == [256] * 5
    index = written.index
    assert (index["tokens"], index["documents"], index["bytes"]) == (19, 4, 14)
    written.verify()
    assert {path.name for path in tmp_path.iterdir()} == {"shards"}


def test_without_an_end_and_with_a_large_vocabulary(tmp_path):
    tokenizer = Characters().train(["abc"])
    written = shards.write(tmp_path / "shards", ["ab", "c"], tokenizer)
    assert written.tokens.tolist() == [0, 1, 2] and written.offsets.tolist() == [0, 2]
    tokenizer.vocab = 70_000
    assert shards.write(tmp_path / "shards", ["ab"], tokenizer).tokens.dtype == np.uint32


def test_reused_only_if_it_is_what_was_asked_for(tmp_path):
    tokenizer, other = Bytes().train([]), BPE(vocab=257).train([])
    assert shards.written(tmp_path / "shards", tokenizer, "key") is None
    shards.write(tmp_path / "shards", TEXTS, tokenizer, "key")
    assert shards.written(tmp_path / "shards", tokenizer, "key") is not None
    assert shards.written(tmp_path / "shards", tokenizer, "another") is None
    assert shards.written(tmp_path / "shards", other, "key") is None


def test_damage_is_named(tmp_path):
    tokenizer = Bytes().train([])
    path = tmp_path / "shards" / "tokens.bin"
    shards.write(tmp_path / "shards", TEXTS, tokenizer, "key")
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"tokens\.bin is damaged: its SHA-256 is"):
        shards.written(tmp_path / "shards", tokenizer, "key")
    path.write_bytes(content[:-2])
    with pytest.raises(UserError, match=r"tokens\.bin is damaged: it has 36 bytes, .* with 38"):
        shards.Shards(tmp_path / "shards").tokens.sum()
    path.unlink()
    with pytest.raises(UserError, match="is damaged"):
        shards.Shards(tmp_path / "shards").tokens.sum()
    (tmp_path / "shards" / "index.json").write_text("{")
    with pytest.raises(UserError, match=r"index\.json is damaged; remove"):
        shards.Shards(tmp_path / "shards").tokens.sum()
    with pytest.raises(UserError, match="holds no token shards"):
        shards.Shards(tmp_path).tokens.sum()


def test_an_error_in_the_middle_leaves_what_was_there(tmp_path):
    tokenizer = Bytes().train([])
    shards.write(tmp_path / "shards", ["old"], tokenizer)

    def broken():
        yield "new"
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        shards.write(tmp_path / "shards", broken(), tokenizer)
    assert tokenizer.decode(shards.Shards(tmp_path / "shards").tokens[1:-1]) == "old"
    shards.write(tmp_path / "shards", ["newer"], tokenizer)
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]
    assert json.loads((tmp_path / "shards" / "index.json").read_text())["documents"] == 1
