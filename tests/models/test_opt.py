import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from lm_research import config, log, tree
from lm_research.hub import load, names, save
from lm_research.models import OPT
from lm_research.models.opt import SIZES

PUBLISHED = {  # what the Hub's opt-125m says of itself
    "_remove_final_layer_norm": False,
    "activation_dropout": 0.0,
    "activation_function": "relu",
    "architectures": ["OPTForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 2,
    "do_layer_norm_before": True,
    "dropout": 0.1,
    "eos_token_id": 2,
    "ffn_dim": 3072,
    "hidden_size": 768,
    "init_std": 0.02,
    "layerdrop": 0.0,
    "max_position_embeddings": 2048,
    "model_type": "opt",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "prefix": "</s>",
    "torch_dtype": "float16",
    "use_cache": True,
    "vocab_size": 50272,
    "word_embed_proj_dim": 768,
}


def section(directory, **changes):
    (directory / "config.json").write_text(json.dumps(PUBLISHED | changes))
    save_file({"lm_head.weight": np.zeros((1, 1), np.float32)}, directory / "model.safetensors")
    return load.section(directory)


def test_the_published_config_is_understood_whole(tmp_path):
    before = log.facts()["fallbacks"]
    found = section(tmp_path)
    assert log.facts()["fallbacks"] == before
    model = config.build(found, save.CONTENTS)
    assert model.context == 2048 and tree.count(names.abstract(model)) == 125_239_296


@pytest.mark.parametrize(
    "size, count",
    # Of the released weights.
    [("opt-350m", 331_196_416), ("opt-1.3b", 1_315_758_080), ("opt-6.7b", 6_658_473_984)],
)
def test_sizes(size, count):
    section = {"kind": "OPT", "vocab": 50272, **SIZES[size]}
    assert tree.count(names.abstract(config.build(section, save.CONTENTS))) == count


def test_widths_are_multiples_of_heads():
    with pytest.raises(ValueError, match="width 10 is not a multiple of heads 4"):
        OPT(vocab=8, width=10, heads=4)
