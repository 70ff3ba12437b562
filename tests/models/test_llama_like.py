"""Published configs of OLMo 2 and Phi-3, and what of them is refused."""

import json

import pytest

from lm_research import config, log, tree
from lm_research.errors import UserError
from lm_research.hub import load, names, save
from lm_research.models import olmo2, phi3

PHI3 = {  # what the Hub's Phi-3-mini-4k-instruct says of itself
    "architectures": ["Phi3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "embd_pdrop": 0.0,
    "eos_token_id": 32000,
    "hidden_act": "silu",
    "hidden_size": 3072,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 4096,
    "model_type": "phi3",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "original_max_position_embeddings": 4096,
    "pad_token_id": 32000,
    "resid_pdrop": 0.0,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "sliding_window": 2047,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 32064,
}
OLMO2 = {  # what the Hub's OLMo-2-0425-1B says of itself
    "architectures": ["Olmo2ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "eos_token_id": 100257,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 4096,
    "model_type": "olmo2",
    "num_attention_heads": 16,
    "num_hidden_layers": 16,
    "num_key_value_heads": 16,
    "pad_token_id": 100277,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 500000,
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": 100352,
}


def section(directory, given, **changes):
    (directory / "config.json").write_text(json.dumps(given | changes))
    return load.section(directory)


@pytest.mark.parametrize(
    "given, sizes, count",
    [
        (PHI3, phi3.SIZES["phi-3-mini-4k"], 3_821_079_552),
        (OLMO2, olmo2.SIZES["olmo-2-1b"], 1_484_916_736),
    ],
)
def test_published_configs(tmp_path, given, sizes, count):
    before = log.facts()["fallbacks"]
    found = section(tmp_path, given)
    assert log.facts()["fallbacks"] == before
    assert {name: found[name] for name in sizes} == sizes
    assert tree.count(names.abstract(config.build(found, save.CONTENTS))) == count


@pytest.mark.parametrize(
    "given, changes, words",
    [
        (PHI3, {"rope_scaling": {"type": "su"}}, "'longrope' lacks short_factor, long_factor"),
        (PHI3, {"rope_scaling": {"type": "linear"}}, "'linear'; Phi3ForCausalLM takes default or"),
        (OLMO2, {"attention_bias": True}, "attention_bias True"),
        (OLMO2, {"rope_scaling": {"type": "fourier", "factor": 2.0}}, "rope_type 'fourier'"),
    ],
)
def test_what_we_do_not_compute_is_refused(tmp_path, given, changes, words):
    with pytest.raises(UserError, match=words):
        section(tmp_path, given, **changes)


def test_sizes_that_do_not_divide():
    for kind in (phi3.Phi3, olmo2.OLMo2):
        with pytest.raises(ValueError, match="heads 4 is not a multiple of kv_heads 3"):
            kind(vocab=8, width=8, heads=4, kv_heads=3)
        with pytest.raises(ValueError, match="width 10 is not a multiple of heads 4"):
            kind(vocab=8, width=10, heads=4)
