import json

import pytest

from lm_research import config, tree
from lm_research.hub import load, names, save
from lm_research.models import Llama
from lm_research.models.llama import SIZES

QWEN3 = {  # the sizes of Qwen3-0.6B
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "max_window_layers": 28,
    "model_type": "qwen3",
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
    "vocab_size": 151936,
}
LLAMA = {  # the sizes of Llama 2 7B
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "vocab_size": 32000,
}


@pytest.mark.parametrize(
    "given, count, base", [(QWEN3, 596_049_920, 1e6), (LLAMA, 6_738_415_616, 1e4)]
)
def test_published_configs(tmp_path, given, count, base):
    (tmp_path / "config.json").write_text(json.dumps(given))
    section = load.section(tmp_path)
    assert section["base"] == base and section["tied"] == (given is QWEN3)
    assert tree.count(names.abstract(config.build(section, save.CONTENTS))) == count


@pytest.mark.parametrize(
    "size, vocab, count",
    # Of the released weights.
    [
        ("llama-2-7b", 32_000, 6_738_415_616),
        ("llama-3.1-8b", 128_256, 8_030_261_248),
        ("llama-3.2-1b", 128_256, 1_235_814_400),
        ("mistral-7b", 32_000, 7_241_732_096),
        ("qwen2-0.5b", 151_936, 494_032_768),
        ("qwen3-0.6b", 151_936, 596_049_920),
        ("smollm2-135m", 49_152, 134_515_008),
        ("smollm2-1.7b", 49_152, 1_711_376_384),
    ],
)
def test_sizes(size, vocab, count):
    section = {"kind": "Llama", "vocab": vocab, **SIZES[size]}
    assert tree.count(names.abstract(config.build(section, save.CONTENTS))) == count


def test_sizes_that_do_not_divide():
    with pytest.raises(ValueError, match="heads 4 is not a multiple of kv_heads 3"):
        Llama(vocab=8, width=8, heads=4, kv_heads=3)
    with pytest.raises(ValueError, match="width 10 is not a multiple of heads 4"):
        Llama(vocab=8, width=10, heads=4)


def test_the_hidden_size_follows_from_the_width():
    shape = names.parameters(names.abstract(Llama(vocab=8, width=96)))
    assert shape["stack/blocks/mlp/up/kernel"].shape[-1] == 256  # 8/3 of 96, which is 4 times 64
