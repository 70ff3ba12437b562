import json

import jax
import numpy as np
import pytest

from lm_research import config, log, tree
from lm_research.errors import UserError
from lm_research.hub import load, names, save
from lm_research.models.gpt2 import GPT2, SIZES
from lm_research.models.initial import initial

# What the Hub's gpt2 says of itself, written before most of today's options existed.
CONFIG = {
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.1,
    "bos_token_id": 50256,
    "embd_pdrop": 0.1,
    "eos_token_id": 50256,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2",
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "resid_pdrop": 0.1,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "vocab_size": 50257,
}


def section(directory, **changes):
    (directory / "config.json").write_text(json.dumps(CONFIG | changes))
    return load.section(directory)


def test_the_published_config_is_understood_whole(tmp_path):
    before = log.facts()["fallbacks"]
    found = section(tmp_path)
    assert log.facts()["fallbacks"] == before
    assert found["activation"] == "gelu_tanh" and found["tied"] and found["hidden"] == 4 * 768
    assert tree.count(names.abstract(config.build(found, save.CONTENTS))) == 124_439_808


@pytest.mark.parametrize(
    "size, count",
    # Of the released weights.
    [
        ("small", 124_439_808),
        ("medium", 354_823_168),
        ("large", 774_030_080),
        ("xl", 1_557_611_200),
    ],
)
def test_sizes(size, count):
    width, layers, heads = SIZES[size]
    model = GPT2(vocab=50257, width=width, layers=layers, heads=heads)
    assert tree.count(names.abstract(model)) == count


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"scale_attn_by_inverse_layer_idx": True}, "inverse_layer_idx True"),
        ({"scale_attn_weights": False}, "scale_attn_weights False; GPT2LMHeadModel takes True"),
        ({"add_cross_attention": True}, "add_cross_attention True"),
        ({"architectures": ["GPT2DoubleHeadsModel"]}, "GPT2DoubleHeadsModel; it takes"),
    ],
)
def test_what_we_do_not_compute_is_refused(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        section(tmp_path, **changes)


def test_widths_are_multiples_of_heads():
    with pytest.raises(ValueError, match="width 10 is not a multiple of heads 4"):
        GPT2(vocab=8, width=10, heads=4)


def test_what_init_is_traced_with_counts_as_no_fallback():
    log.forget()
    model = GPT2(64, 16, 1, 2, context=8, kernel="splash")
    params = initial(model, jax.random.key(0))
    assert log.facts() == {"fallbacks": []}
    model.apply({"params": params}, np.zeros((1, 4), int))
    assert "splash" in log.facts()["fallbacks"][0]["asked"]
    log.forget()
