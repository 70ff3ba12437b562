import json

import pytest

from lm_research import config, log, tree
from lm_research.errors import UserError
from lm_research.hub import load, names, save
from lm_research.models import GPTNeoX
from lm_research.models.gpt_neox import SIZES

PYTHIA = {  # what the Hub's pythia-70m says of itself
    "architectures": ["GPTNeoXForCausalLM"],
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_act": "gelu",
    "hidden_size": 512,
    "initializer_range": 0.02,
    "intermediate_size": 2048,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 2048,
    "model_type": "gpt_neox",
    "num_attention_heads": 8,
    "num_hidden_layers": 6,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.25,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "use_cache": True,
    "use_parallel_residual": True,
    "vocab_size": 50304,
}


def section(directory, **changes):
    (directory / "config.json").write_text(json.dumps(PYTHIA | changes))
    return load.section(directory)


def test_the_published_config_is_understood_whole(tmp_path):
    before = log.facts()["fallbacks"]
    found = section(tmp_path)
    assert log.facts()["fallbacks"] == before
    assert found["fraction"] == 0.25 and found["parallel"] and not found["tied"]
    assert tree.count(names.abstract(config.build(found, save.CONTENTS))) == 70_426_624


@pytest.mark.parametrize(
    "size, vocab, count",
    # Of the released weights.
    [
        ("pythia-160m", 50304, 162_322_944),
        ("pythia-410m", 50304, 405_334_016),
        ("pythia-1b", 50304, 1_011_781_632),
        ("pythia-6.9b", 50432, 6_857_302_016),
        ("gpt-neox-20b", 50432, 20_554_567_680),
    ],
)
def test_sizes(size, vocab, count):
    section = {"kind": "GPTNeoX", "vocab": vocab, **SIZES[size]}
    assert tree.count(names.abstract(config.build(section, save.CONTENTS))) == count


def test_what_we_do_not_compute_is_refused(tmp_path):
    with pytest.raises(UserError, match="attention_bias False; GPTNeoXForCausalLM takes True"):
        section(tmp_path, attention_bias=False)
    with pytest.raises(ValueError, match="width 10 is not a multiple of heads 4"):
        GPTNeoX(vocab=8, width=10, heads=4)
