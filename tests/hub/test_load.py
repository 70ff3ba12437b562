import json
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
import transformers

from lm_research import config, log, mesh, tree
from lm_research.errors import UserError
from lm_research.hub import load, save


def loaded(stored):
    with mesh.single():
        return load.load(stored.directory, stored.model)


def equal(ours, expected):
    assert {leaf.dtype for leaf in jax.tree.leaves(ours)} == {np.dtype(np.float32)}
    jax.tree.map(np.testing.assert_array_equal, ours, expected)


def test_each_device_gets_its_part(made):
    stored = made()
    with mesh.Mesh(data=2, fsdp=2, tensor=2).activate():
        params = load.load(stored.directory, stored.model)
        equal(params, stored.params)
        for name, leaf in tree.named_leaves(params).items():
            if name.endswith("query/kernel"):  # [L, D, N, H]
                assert leaf.addressable_shards[0].data.shape == (3, 4, 2, 2)


def test_layers_may_lie_apart(made):
    stored = made(layers=4)
    rules = (("L", "fsdp"), ("H", "tensor"))
    with mesh.Mesh(data=2, fsdp=2, tensor=2, rules=rules).activate():
        params = load.load(stored.directory, stored.model)
    equal(params, stored.params)
    key = params["stack"]["blocks"]["attention"]["key"]["kernel"]
    assert key.addressable_shards[0].data.shape == (2, 8, 2, 1)


@pytest.mark.parametrize("limit", [5, 40])
@pytest.mark.parametrize("kind", ["GPT2", "GPTNeoX", "Llama", "T5"])
def test_large_tensors_are_read_in_strips(drawn, tmp_path, monkeypatch, kind, limit):
    section = {"kind": kind, "vocab": 16, "width": 8, "layers": 2, "heads": 4}
    model, params = drawn(section)
    save.save(tmp_path / "stored", section, params)
    monkeypatch.setattr(load, "STRIP", limit)
    with mesh.Mesh(data=2, fsdp=2, tensor=2).activate():
        equal(load.load(tmp_path / "stored", model), params)


def test_no_file_stays_in_memory(made):
    """Mapped pages would count as this process's, besides the parameters made of them."""
    stored = made()
    equal(loaded(stored), stored.params)
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("what is mapped is told by Linux only")
    assert str(stored.directory) not in maps.read_text()


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_sixteen_bits_become_float32_exactly(made, dtype):
    stored = made()
    stored.rewrite({name: t.astype(dtype) for name, t in stored.tensors.items()})
    expected = jax.tree.map(lambda p: np.asarray(p).astype(dtype).astype(np.float32), stored.params)
    equal(loaded(stored), expected)


def test_names_without_prefix_and_old_buffers(made):
    stored = made()
    tensors = {name.removeprefix("model."): t for name, t in stored.tensors.items()}
    for layer in range(3):
        tensors[f"layers.{layer}.self_attn.rotary_emb.inv_freq"] = np.ones(1, np.float32)
    stored.rewrite(tensors)
    equal(loaded(stored), stored.params)


def test_a_tied_head_may_be_stored_and_must_be_equal(made):
    stored = made()
    tensors = stored.tensors
    table = tensors["model.embed_tokens.weight"]
    stored.rewrite(tensors | {"lm_head.weight": table.copy()})
    equal(loaded(stored), stored.params)
    stored.rewrite(tensors | {"lm_head.weight": table + np.eye(*table.shape, dtype=np.float32)})
    with pytest.raises(UserError, match=r"lm_head\.weight differs from model\.embed_tokens"):
        loaded(stored)


def test_an_untied_head_is_its_own(made):
    stored = made(tied=False)
    assert "lm_head.weight" in stored.tensors
    equal(loaded(stored), stored.params)


def test_what_is_missing_misshapen_and_unknown_is_listed_in_a_line(made):
    stored = made()
    tensors = stored.tensors
    del tensors["model.layers.1.mlp.up_proj.weight"]
    tensors["model.norm.weight"] = np.zeros(9, np.float32)
    tensors["model.layers.0.self_attn.q_norm.weight"] = np.zeros(2, np.int32)
    tensors["model.layers.0.self_attn.q_proj.bias"] = np.zeros(8, np.float32)
    stored.rewrite(tensors)
    with pytest.raises(UserError) as refused:
        loaded(stored)
    line = str(refused.value)
    assert "missing: model.layers.1.mlp.up_proj.weight" in line
    assert "wrong shape: model.norm.weight is [9], not [8]" in line
    assert "wrong dtype: model.layers.0.self_attn.q_norm.weight is I32" in line
    assert "unknown: model.layers.0.self_attn.q_proj.bias" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM; it takes .*GPT2LMHeadModel, "),
        ({"architectures": None, "model_type": "mamba"}, "model_type 'mamba'; it takes .*GPT2LM"),
        ({"hidden_act": "xielu"}, "activation 'xielu'; it takes gelu_new"),
        ({"rope_parameters": {"rope_type": "ntk", "factor": 4.0}}, "'ntk'; .* or yarn"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4, "new": 1}}, "yarn.*'new': 1"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear"}}, "'linear' lacks factor"),
        ({"attention_bias": True}, "attention_bias True; Qwen3ForCausalLM takes False"),
        ({"use_sliding_window": True}, "use_sliding_window True"),
        ({"layer_types": ["sliding_attention"]}, "layer_types.*sliding_attention"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ],
)
def test_what_we_do_not_compute_is_refused(made, changes, words):
    stored = made()
    stored.configure(**changes)
    with pytest.raises(UserError, match=words):
        load.section(stored.directory)


def test_an_option_that_we_do_not_know_is_a_fallback(made, capsys):
    stored = made()
    stored.configure(residual_multiplier=0.2, some_switch=False)
    load.section(stored.directory)
    assert [f["asked"] for f in log.facts()["fallbacks"] if "residual_multiplier" in f["asked"]]
    assert "some_switch" not in str(log.facts())
    assert "residual_multiplier=0.2" in capsys.readouterr().err


def test_a_section_makes_the_same_model(made):
    stored = made()
    assert stored.section.items() <= load.section(stored.directory).items()


def test_the_rope_base_of_older_configs(made):
    stored = made()
    stored.configure(rope_parameters=None, rope_theta=123.0)
    assert load.section(stored.directory)["base"] == 123.0


def test_directories_that_are_none(tmp_path):
    with pytest.raises(UserError, match="no config"):
        load.section(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        load.section(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(UserError, match="model_type None"):
        load.section(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_no_number_is_named(made, value):
    stored = made()
    tensors = stored.tensors
    tensors["model.layers.2.mlp.down_proj.weight"][3, 1] = value
    stored.rewrite(tensors)
    with pytest.raises(UserError, match=r"model\.layers\.2\.mlp\.down_proj\.weight in .* NaN"):
        loaded(stored)


def test_how_a_text_begins_may_be_said_beside_the_config(tmp_path):
    """As transformers 5 writes it; and what we save says it there, too."""
    settings = transformers.BartConfig(
        **{f"{side}_layers": 1 for side in ("encoder", "decoder")},
        **{f"{side}_attention_heads": 2 for side in ("encoder", "decoder")},
        **{f"{side}_ffn_dim": 8 for side in ("encoder", "decoder")},
        **dict(vocab_size=20, d_model=8, max_position_embeddings=8),
    )
    model = transformers.BartForConditionalGeneration(settings)
    model.generation_config.forced_bos_token_id = 7
    model.save_pretrained(tmp_path / "theirs")
    section = load.section(tmp_path / "theirs")
    assert (section["start"], section["first"]) == (2, 7)
    with mesh.single():
        params = load.load(tmp_path / "theirs", config.build(section, save.CONTENTS))
        save.save(tmp_path / "ours", section, params)
    again = transformers.BartForConditionalGeneration.from_pretrained(tmp_path / "ours")
    assert again.generation_config.forced_bos_token_id == 7


@pytest.mark.parametrize(
    "changes",
    [{"hidden_size": "32"}, {"num_attention_heads": 0}, {"rope_scaling": [1]}],
    ids=str,
)
def test_values_of_another_kind_are_told_in_a_line(tmp_path, changes):
    given = {"model_type": "llama", "hidden_size": 32, "num_attention_heads": 4, **changes}
    (tmp_path / "config.json").write_text(json.dumps(given))
    with pytest.raises(UserError, match="has a value of another kind than it takes"):
        load.section(tmp_path)
