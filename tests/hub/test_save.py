import json

import jax
import numpy as np
import pytest

from lm_research import config, mesh
from lm_research.data import Bytes
from lm_research.errors import UserError
from lm_research.hub import load, save

SIZES = {"vocab": 16, "width": 8, "layers": 2, "heads": 2}


def test_missing_biases_are_zeros(drawn, tmp_path):
    section = {"kind": "GPT2", **SIZES, "context": 6, "bias": False}
    model, params = drawn(section)
    save.save(tmp_path / "out", section, params)
    again = load.section(tmp_path / "out")
    full = config.build(again, save.CONTENTS)
    with mesh.single():
        stored = load.load(tmp_path / "out", full)
    assert not np.any(stored["stack"]["blocks"]["attention"]["key"]["bias"])
    logits = jax.jit(
        lambda m, p: m.apply({"params": p}, np.arange(6)[None]).logits, static_argnums=0
    )
    expected = logits(model, params)
    np.testing.assert_allclose(logits(full, stored), expected, atol=1e-6 * np.abs(expected).max())


def test_from_a_mesh_of_eight(made, tmp_path):
    stored = made()
    with mesh.Mesh(data=2, fsdp=2, tensor=2).activate():
        params = load.load(stored.directory, stored.model)
        save.save(tmp_path / "again", stored.section, params)
    one, other = stored.directory, tmp_path / "again"
    for name in ("config.json", "model.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def test_special_tokens_are_the_tokenizers(made, tmp_path):
    stored = made()
    written = json.loads((stored.directory / "config.json").read_text())
    assert written["eos_token_id"] is written["bos_token_id"] is None
    tokenizer = Bytes().train([])
    save.save(tmp_path / "out", stored.section, stored.params, tokenizer)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["eos_token_id"] == tokenizer.eos
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_nothing_is_overwritten_and_no_half_is_left(made, tmp_path):
    stored = made()
    with pytest.raises(UserError, match="not empty"):
        save.save(stored.directory, stored.section, stored.params)
    wrong = stored.section | {"layers": 2}
    with pytest.raises(UserError, match="not those of the model section: stack/blocks"):
        save.save(tmp_path / "out", wrong, stored.params)
    assert [path.name for path in tmp_path.iterdir()] == ["stored"]


def test_what_transformers_cannot_have_is_refused(drawn, tmp_path):
    section = {"kind": "Llama", **SIZES, "heads": 3, "head": 4}
    _, params = drawn(section)
    with pytest.raises(UserError, match=r"multiple of model\.heads, not 8 and 3"):
        save.save(tmp_path / "out", section, params)
    assert not any(tmp_path.iterdir())
