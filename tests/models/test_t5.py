"""Configs and files of T5, mT5 and Flan-T5 as they are published."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lm_research import config, log, mesh, tree
from lm_research.errors import UserError
from lm_research.hub import load, names, save
from lm_research.models import T5
from lm_research.models.t5 import FIRST_SIZES, SIZES

FIRST = {  # what the Hub's t5-small says of itself
    "architectures": ["T5ForConditionalGeneration"],
    "d_ff": 2048,
    "d_kv": 64,
    "d_model": 512,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "n_positions": 512,
    "num_heads": 8,
    "num_layers": 6,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_num_buckets": 32,
    "task_specific_params": {"summarization": {"max_length": 200, "prefix": "summarize: "}},
    "vocab_size": 32128,
}
FLAN = {  # and what flan-t5-small does
    **{key: FIRST[key] for key in ("d_kv", "d_model", "eos_token_id", "model_type", "vocab_size")},
    "architectures": ["T5ForConditionalGeneration"],
    "d_ff": 1024,
    "feed_forward_proj": "gated-gelu",
    "num_decoder_layers": 8,
    "num_heads": 6,
    "num_layers": 8,
    "relative_attention_max_distance": 128,
    "tie_word_embeddings": False,
}
SECTION = {"kind": "T5", "vocab": 24, "width": 16, "layers": 2, "heads": 2, "head": 8, "hidden": 24}


def written(directory, section=SECTION):
    """A directory of ours with random weights, and them."""
    model = config.build(section, save.CONTENTS)
    shapes, rng = tree.unboxed(names.abstract(model)), np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    save.save(directory, section, params)
    return model, params


def reopened(directory, **changes):
    """The section and the parameters of a directory whose config has changed."""
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    section = load.section(directory)
    with mesh.single():
        return section, load.load(directory, config.build(section, save.CONTENTS))


@pytest.mark.parametrize("given, count", [(FIRST, 60_506_624), (FLAN, 76_961_152)])
def test_published_configs_are_understood_whole(tmp_path, given, count):
    (tmp_path / "config.json").write_text(json.dumps(given))
    save_file({"lm_head.weight": np.zeros((1, 1), np.float32)}, tmp_path / "model.safetensors")
    before = log.facts()["fallbacks"]
    section = load.section(tmp_path)
    assert log.facts()["fallbacks"] == before
    assert section["tied"] == section["scaled"] == (given is FIRST)
    assert section["activation"] == ("relu" if given is FIRST else "gelu_tanh")
    assert tree.count(names.abstract(config.build(section, save.CONTENTS))) == count


@pytest.mark.parametrize(
    "version, size, count",
    [
        ("1.0", "base", 222_903_552),
        ("1.0", "large", 737_668_096),
        ("1.0", "3b", 2_851_598_336),
        ("1.0", "11b", 11_307_321_344),
        ("1.1", "small", 76_961_152),
        ("1.1", "base", 247_577_856),
        ("1.1", "large", 783_150_080),
        ("1.1", "xl", 2_849_757_184),
        ("1.1", "xxl", 11_135_332_352),
    ],
)
def test_sizes(version, size, count):
    first = version == "1.0"
    width, layers, heads, head, hidden = (FIRST_SIZES if first else SIZES)[size]
    sizes = dict(width=width, layers=layers, heads=heads, head=head, hidden=hidden)
    model = T5(32128, **sizes, gated=not first, tied=first)
    assert tree.count(names.abstract(model)) == count


def test_older_files_hold_the_embedding_under_any_name_and_a_bias_of_nothing(tmp_path):
    _, params = written(tmp_path / "t5")
    file = tmp_path / "t5" / "model.safetensors"
    tensors = load_file(file)
    dead = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    tensors[dead] = np.ones((32, 2), np.float32)
    table = tensors.pop("shared.weight")
    for stack in ("encoder", "decoder"):
        tensors[f"{stack}.embed_tokens.weight"] = table.copy()
    save_file(tensors, file)
    _, found = reopened(tmp_path / "t5")
    jax.tree.map(np.testing.assert_array_equal, found, params)
    save_file({**tensors, "decoder.embed_tokens.weight": table + 1}, file)
    with pytest.raises(UserError, match=r"decoder\.embed_tokens\.weight differs"):
        reopened(tmp_path / "t5")


def test_what_transformers_5_writes_of_an_untied_one(tmp_path):
    """It says that weights are tied, and means that logits are not scaled."""
    written(tmp_path / "t5")
    section, _ = reopened(tmp_path / "t5", tie_word_embeddings=True, scale_decoder_outputs=False)
    assert section["tied"] is False and section["scaled"] is False
    written(tmp_path / "tied", {**SECTION, "tied": True, "scaled": False})
    section, _ = reopened(tmp_path / "tied")
    assert section["tied"] is True and section["scaled"] is False


def test_an_mt5_is_a_t5(tmp_path):
    _, params = written(tmp_path / "t5")
    mt5 = {"architectures": ["MT5ForConditionalGeneration"], "model_type": "mt5"}
    section, found = reopened(tmp_path / "t5", **mt5, tie_word_embeddings=True)
    assert section["tied"] is False and section["scaled"] is False
    jax.tree.map(np.testing.assert_array_equal, found, params)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"feed_forward_proj": "sparse-gelu"}, "feed_forward_proj 'sparse-gelu'"),
        ({"is_encoder_decoder": False}, "is_encoder_decoder False; .* takes True"),
        ({"architectures": ["T5EncoderModel"]}, "T5EncoderModel; it takes"),
    ],
)
def test_what_we_do_not_compute_is_refused(tmp_path, changes, words):
    (tmp_path / "config.json").write_text(json.dumps(FIRST | changes))
    save_file({"shared.weight": np.zeros((1, 1), np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=words):
        load.section(tmp_path)
