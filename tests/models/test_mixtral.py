import json

import pytest

from lm_research import config, log, tree
from lm_research.errors import UserError
from lm_research.hub import load, names, save
from lm_research.models import Mixtral
from lm_research.models.mixtral import SIZES

QWEN3 = {  # what transformers 4 wrote for Qwen3-30B-A3B
    "architectures": ["Qwen3MoeForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "decoder_sparse_step": 1,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 6144,
    "max_position_embeddings": 40960,
    "max_window_layers": 48,
    "mlp_only_layers": [],
    "model_type": "qwen3_moe",
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_attention_heads": 32,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "output_router_logits": False,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.001,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}


def section(directory, **changes):
    (directory / "config.json").write_text(json.dumps(QWEN3 | changes))
    return load.section(directory)


def test_the_published_config_is_understood_whole(tmp_path):
    before = log.facts()["fallbacks"]
    found = section(tmp_path)
    assert log.facts()["fallbacks"] == before
    assert found["experts"] == 128 and found["normalized"] and found["dense"] == [False]
    assert tree.count(names.abstract(config.build(found, save.CONTENTS))) == 30_532_122_624


@pytest.mark.parametrize(
    "size, vocab, count",
    # Of the released weights.
    [("mixtral-8x7b", 32000, 46_702_792_704), ("mixtral-8x22b", 32768, 140_630_071_296)],
)
def test_sizes(size, vocab, count):
    section = {"kind": "Mixtral", "vocab": vocab, **SIZES[size]}
    assert tree.count(names.abstract(config.build(section, save.CONTENTS))) == count


def test_layers_without_experts(tmp_path):
    found = section(tmp_path, num_hidden_layers=5, decoder_sparse_step=2, mlp_only_layers=[3])
    assert found["dense"] == [True, False, True, True]  # and again
    assert section(tmp_path, num_hidden_layers=5, decoder_sparse_step=2)["dense"] == [True, False]


def test_what_we_do_not_compute_is_refused(tmp_path, large):
    with pytest.raises(UserError, match="use_sliding_window True"):
        section(tmp_path, use_sliding_window=True)
    tiny = dict(vocab=8, width=8, layers=1, heads=2, kv_heads=1, hidden=8, experts=2, active=1)
    with pytest.raises(UserError, match=r"takes model\.normalized"):
        model = Mixtral(**tiny, normalized=False)
        given = {"kind": "Mixtral", **tiny, "normalized": False}
        save.save(tmp_path / "out", given, large(model))


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="active is 3; it takes 1 to 2"):
        Mixtral(vocab=8, experts=2, active=3)
    with pytest.raises(ValueError, match="heads 8 is not a multiple of kv_heads 3"):
        Mixtral(vocab=8, kv_heads=3)
