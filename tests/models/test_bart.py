"""Configs and files of BART, mBART and Marian as they are published."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lm_research import config, log, mesh, tree
from lm_research.errors import UserError
from lm_research.hub import load, names, save
from lm_research.models import BART

OLD = {  # what older configs say of the architecture
    "add_bias_logits": False,
    "add_final_layer_norm": False,
    "normalize_before": False,
    "normalize_embedding": True,
    "static_position_embeddings": False,
}
SIDES = ("encoder", "decoder")


def sizes(layers, heads, hidden):
    return {
        f"{side}_{name}": value
        for side in SIDES
        for name, value in (("layers", layers), ("attention_heads", heads), ("ffn_dim", hidden))
    }


LARGE = {  # bart-large-cnn
    **OLD,
    **sizes(12, 16, 4096),
    "activation_function": "gelu",
    "architectures": ["BartForConditionalGeneration"],
    "d_model": 1024,
    "decoder_start_token_id": 2,
    "early_stopping": True,
    "force_bos_token_to_be_generated": True,
    "bos_token_id": 0,
    "length_penalty": 2.0,
    "max_length": 142,
    "max_position_embeddings": 1024,
    "min_length": 56,
    "model_type": "bart",
    "no_repeat_ngram_size": 3,
    "num_beams": 4,
    "scale_embedding": False,
    "vocab_size": 50264,
}
ROMANIAN = {  # mbart-large-en-ro
    **LARGE,
    "add_final_layer_norm": True,
    "architectures": ["MBartForConditionalGeneration"],
    "decoder_start_token_id": 250020,
    "force_bos_token_to_be_generated": False,
    "model_type": "mbart",
    "normalize_before": True,
    "scale_embedding": True,
    "vocab_size": 250027,
}
GERMAN = {  # opus-mt-en-de
    **OLD,
    **sizes(6, 8, 2048),
    "activation_function": "swish",
    "architectures": ["MarianMTModel"],
    "bad_words_ids": [[58100]],
    "d_model": 512,
    "decoder_start_token_id": 58100,
    "max_position_embeddings": 512,
    "model_type": "marian",
    "normalize_embedding": False,
    "num_beams": 6,
    "pad_token_id": 58100,
    "scale_embedding": True,
    "static_position_embeddings": True,
    "vocab_size": 58101,
}
SMALL = {"kind": "BART", "vocab": 24, "width": 16, "layers": 1, "heads": 2, "context": 8}
KINDS = {
    "bart": {**SMALL, "head_bias": True},
    "mbart": {**SMALL, "head_bias": True, "norm_first": True},
    "marian": {**SMALL, "head_bias": True, "sinusoidal": True, "embedding_norm": False},
}


@pytest.mark.parametrize(
    "given, count, first",
    [
        # Without the bias of logits, which is no parameter of theirs.
        (LARGE, 406_290_432, 0),
        (ROMANIAN, 610_851_840, None),
        (GERMAN, 73_886_208, None),
    ],
)
def test_published_configs_are_understood_whole(tmp_path, given, count, first):
    (tmp_path / "config.json").write_text(json.dumps(given))
    save_file({"final_logits_bias": np.zeros((1, 1), np.float32)}, tmp_path / "model.safetensors")
    before = log.facts()["fallbacks"]
    section = load.section(tmp_path)
    assert log.facts()["fallbacks"] == before
    assert section["first"] == first and section["start"] == given["decoder_start_token_id"]
    section = {**section, "head_bias": False}
    assert tree.count(names.abstract(config.build(section, save.CONTENTS))) == count


def written(directory, section):
    model = config.build(section, save.CONTENTS)
    shapes, rng = tree.unboxed(names.abstract(model)), np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    save.save(directory, section, params)
    return params


def reopened(directory, tensors, **changes):
    save_file(tensors, directory / "model.safetensors")
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    section = load.section(directory)
    with mesh.single():
        return section, load.load(directory, config.build(section, save.CONTENTS))


@pytest.mark.parametrize("name", KINDS)
def test_a_trunk_s_file_is_a_model_without_the_bias(tmp_path, name):
    """As bart-base is published: no prefix, and nothing of the head."""
    params = written(tmp_path / "bart", KINDS[name])
    tensors = load_file(tmp_path / "bart" / "model.safetensors")
    del tensors["final_logits_bias"]
    tensors = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    trunk = {"bart": "BartModel", "mbart": "MBartModel", "marian": "MarianModel"}[name]
    section, found = reopened(tmp_path / "bart", tensors, architectures=[trunk])
    assert section == {**section, **KINDS[name], "head_bias": False}
    del params["decoder"]["head_bias"]
    jax.tree.map(np.testing.assert_array_equal, found, params)
    save.save(tmp_path / "again", section, found)
    bias = load_file(tmp_path / "again" / "model.safetensors")["final_logits_bias"]
    assert bias.shape == (1, 24) and not bias.any()


@pytest.mark.parametrize("name", KINDS)
def test_files_may_hold_what_is_tied_and_old_buffers(tmp_path, name):
    params = written(tmp_path / "bart", KINDS[name])
    tensors = load_file(tmp_path / "bart" / "model.safetensors")
    table = tensors["model.shared.weight"]
    tensors["lm_head.weight"] = table.copy()
    for side in SIDES:
        tensors[f"model.{side}.embed_tokens.weight"] = table.copy()
        tensors[f"model.{side}.version"] = np.ones(1, np.float32)
        if name == "marian":
            tensors[f"model.{side}.embed_positions.weight"] = np.ones((8, 16), np.float32)
    _, found = reopened(tmp_path / "bart", tensors)
    jax.tree.map(np.testing.assert_array_equal, found, params)
    with pytest.raises(UserError, match=r"embed_tokens\.weight differs"):
        reopened(tmp_path / "bart", {**tensors, "model.decoder.embed_tokens.weight": table + 1})


@pytest.mark.parametrize(
    "given, changes, words",
    [
        (LARGE, {"normalize_before": True}, "normalize_before True; .* takes False"),
        (LARGE, {"tie_word_embeddings": False}, "tie_word_embeddings False"),
        (LARGE, {"decoder_ffn_dim": 8}, "encoder_ffn_dim 4096 and decoder_ffn_dim 8"),
        (ROMANIAN, {"decoder_attention_heads": 8}, "encoder_attention_heads 16 and decoder"),
        (GERMAN, {"share_encoder_decoder_embeddings": False}, "share_encoder_decoder_embeddings"),
        (GERMAN, {"decoder_vocab_size": 7}, "decoder_vocab_size 7 beside vocab_size 58101"),
    ],
)
def test_what_we_do_not_compute_is_refused(tmp_path, given, changes, words):
    (tmp_path / "config.json").write_text(json.dumps(given | changes))
    save_file({"final_logits_bias": np.zeros((1, 1), np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=words):
        load.section(tmp_path)


def test_widths_are_multiples_of_heads():
    with pytest.raises(ValueError, match="width 10 is not a multiple of heads 4"):
        BART(vocab=8, width=10, heads=4)
