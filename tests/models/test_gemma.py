import json

import pytest

from lm_research import config, log, tree
from lm_research.errors import UserError
from lm_research.hub import load, names, save
from lm_research.models import Gemma
from lm_research.models.gemma import SIZES

GEMMA3 = {  # what transformers 4 wrote for Gemma 3 1B
    "architectures": ["Gemma3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "cache_implementation": "hybrid",
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 1152,
    "initializer_range": 0.02,
    "intermediate_size": 6912,
    "max_position_embeddings": 32768,
    "model_type": "gemma3_text",
    "num_attention_heads": 4,
    "num_hidden_layers": 26,
    "num_key_value_heads": 1,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "vocab_size": 262144,
}


def section(directory, **changes):
    (directory / "config.json").write_text(json.dumps(GEMMA3 | changes))
    return load.section(directory)


@pytest.mark.parametrize(
    "size, vocab, count",
    # Of the released weights.
    [
        ("gemma-2b", 256_000, 2_506_172_416),
        ("gemma-7b", 256_000, 8_537_680_896),
        ("gemma-2-2b", 256_000, 2_614_341_888),
        ("gemma-2-9b", 256_000, 9_241_705_984),
        ("gemma-2-27b", 256_000, 27_227_128_320),
        ("gemma-3-270m", 262_144, 268_098_176),
        ("gemma-3-1b", 262_144, 999_885_952),
    ],
)
def test_sizes(size, vocab, count):
    section = {"kind": "Gemma", "vocab": vocab, **SIZES[size]}
    assert tree.count(names.abstract(config.build(section, save.CONTENTS))) == count


def test_the_published_config_is_understood_whole(tmp_path):
    before = log.facts()["fallbacks"]
    found = section(tmp_path)
    assert log.facts()["fallbacks"] == before
    assert found["windows"] == [*[512] * 5, None]
    assert (found["base"], found["local_base"], found["scaling"]) == (1e6, 1e4, None)
    shapes = names.parameters(names.abstract(config.build(found, save.CONTENTS)))
    rows = [shapes[f"stack/{name}/mlp/up/kernel"].shape[0] for name in ("blocks_5", "rest_1")]
    assert rows == [4, 1] and names.sizes(shapes)["L"] == 26


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"attention_bias": True}, "attention_bias True"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention True"),
        ({"layer_types": ["chunked_attention"]}, "chunked_attention.*it takes sliding_attention"),
        ({"rope_parameters": {"sliding_attention": {"rope_type": "linear"}}}, "sliding_attention"),
        ({"rope_scaling": {"rope_type": "fourier", "factor": 2.0}}, "rope_type 'fourier'"),
    ],
)
def test_what_we_do_not_compute_is_refused(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        section(tmp_path, **changes)


TINY = dict(vocab=8, width=8, layers=2, heads=2, head=4, hidden=8)


def test_what_transformers_cannot_say_is_not_saved(large, tmp_path):
    for words, choices in (
        ("gelu_tanh, not gelu", dict(activation="gelu")),
        ("model.windows", dict(windows=(3,))),
        (r"one size of model.windows, not \[2, 3\]", dict(windows=(3, 2), wiring="sandwich")),
    ):
        section = {"kind": "Gemma", **TINY, **choices}
        with pytest.raises(UserError, match=words):
            save.save(tmp_path / "out", section, large(Gemma(**TINY, **choices)))


def test_heads_that_do_not_divide():
    with pytest.raises(ValueError, match="heads 8 is not a multiple of kv_heads 3"):
        Gemma(vocab=8, kv_heads=3)
