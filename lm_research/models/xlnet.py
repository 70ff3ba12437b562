"""XLNet (Yang et al., 2019): two streams, relative positions, LayerNorm after each part, GELU."""

from collections.abc import Mapping
from typing import Any, Literal

from lm_research.errors import UserError
from lm_research.layers import MLP, Block, LayerNorm, RelativeAttention, Stack
from lm_research.layers.attention import head_size
from lm_research.layers.einsum import normal_products
from lm_research.layers.mlp import Activation
from lm_research.layers.stack import Execution, Remat
from lm_research.models.family import Family, Row
from lm_research.models.two_stream import TwoStream

SIZES = {  # width, layers, heads
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}


def XLNet(
    vocab: int,
    width: int = 768,
    layers: int = 12,
    heads: int = 12,
    hidden: int | None = None,
    activation: Activation = "gelu",
    causal: bool = False,
    clamp: int | None = None,
    tied: bool = True,
    epsilon: float = 1e-12,
    dropout: float = 0.0,
    deviation: float = 0.02,
    dtype: Literal["float32", "bfloat16"] = "float32",
    execution: Execution = "auto",
    remat: Remat = "none",
) -> TwoStream:
    """An XLNet.

    Args:
      vocab: V.
      width, layers, heads: D, L and N; the head size is D / N.
      hidden: F; None is 4 D.
      causal: whether tokens see only those before them, as in Transformer-XL.
      clamp: distances beyond it count as it.
      tied: whether the head is the embedding table.
      epsilon: of the norms.
      dropout: rate on embeddings, on what blocks add to the stream and on last hidden states.
      deviation: of the initial weights.
      dtype: of the products' operands.

    Raises:
      ValueError: the width is not a multiple of the heads.
    """
    shared = normal_products(deviation, dtype)
    block = Block(
        RelativeAttention(heads, head_size(width, heads), **shared),
        MLP(hidden or 4 * width, activation, **shared),
        LayerNorm(epsilon),
        "post",
        dropout,
    )
    return TwoStream(
        vocab,
        width,
        Stack(layers, (block,), execution, remat),
        causal=causal,
        clamp=clamp,
        tied=tied,
        dropout=dropout,
        deviation=deviation,
        dtype=dtype,
    )


def _section(config: Mapping[str, Any]) -> dict[str, Any]:
    if config["attn_type"] not in ("bi", "uni"):
        raise UserError(f"config.json has attn_type {config['attn_type']!r}; it takes bi or uni")
    clamp = config["clamp_len"]
    return {"causal": config["attn_type"] == "uni", "clamp": clamp if clamp > 0 else None}


def _config(section: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "d_head": section["width"] // section["heads"],
        "attn_type": "uni" if section["causal"] else "bi",
        "clamp_len": section["clamp"] or -1,
    }


NAMES = {
    "vocab": "vocab_size",
    "width": "d_model",
    "layers": "n_layer",
    "heads": "n_head",
    "hidden": "d_inner",
    "activation": "ff_activation",
    "tied": "tie_word_embeddings",
    "epsilon": "layer_norm_eps",
}
ROWS = (
    Row("embedding/table", "transformer.word_embedding.weight", "VD"),
    Row("query", "transformer.mask_emb", "11D"),
    Row("stack/blocks/attention/query/kernel", "transformer.layer.{L}.rel_attn.q", "DNH"),
    Row("stack/blocks/attention/key/kernel", "transformer.layer.{L}.rel_attn.k", "DNH"),
    Row("stack/blocks/attention/value/kernel", "transformer.layer.{L}.rel_attn.v", "DNH"),
    Row("stack/blocks/attention/out/kernel", "transformer.layer.{L}.rel_attn.o", "DNH"),
    Row("stack/blocks/attention/relative/kernel", "transformer.layer.{L}.rel_attn.r", "DNH"),
    Row("stack/blocks/attention/key_bias", "transformer.layer.{L}.rel_attn.r_w_bias", "NH"),
    Row("stack/blocks/attention/relative_bias", "transformer.layer.{L}.rel_attn.r_r_bias", "NH"),
    Row("stack/blocks/attention/type_bias", "transformer.layer.{L}.rel_attn.r_s_bias", "NH"),
    Row("stack/blocks/attention/types", "transformer.layer.{L}.rel_attn.seg_embed", "CNH"),
    Row(
        "stack/blocks/attention_norm/scale", "transformer.layer.{L}.rel_attn.layer_norm.weight", "D"
    ),
    Row("stack/blocks/attention_norm/bias", "transformer.layer.{L}.rel_attn.layer_norm.bias", "D"),
    Row("stack/blocks/mlp/up/kernel", "transformer.layer.{L}.ff.layer_1.weight", "FD"),
    Row("stack/blocks/mlp/up/bias", "transformer.layer.{L}.ff.layer_1.bias", "F"),
    Row("stack/blocks/mlp/down/kernel", "transformer.layer.{L}.ff.layer_2.weight", "DF"),
    Row("stack/blocks/mlp/down/bias", "transformer.layer.{L}.ff.layer_2.bias", "D"),
    Row("stack/blocks/mlp_norm/scale", "transformer.layer.{L}.ff.layer_norm.weight", "D"),
    Row("stack/blocks/mlp_norm/bias", "transformer.layer.{L}.ff.layer_norm.bias", "D"),
    Row("head_bias", "lm_loss.bias", "V"),
    Row("head/table", "lm_loss.weight", "VD", tied="embedding/table"),
)

FAMILIES = (
    Family(
        kind="XLNet",
        model_type="xlnet",
        architecture="XLNetLMHeadModel",
        rows=ROWS,
        names=NAMES,
        recorded={"dropout": "dropout", "initializer_range": "deviation"},
        section=_section,
        config=_config,
        defaults={
            "vocab_size": 32000,
            "d_model": 1024,
            "n_layer": 24,
            "n_head": 16,
            "d_inner": 4096,
            "ff_activation": "gelu",
            "attn_type": "bi",
            "clamp_len": -1,
            "tie_word_embeddings": True,
            "layer_norm_eps": 1e-12,
        },
        # A batch of which half is read backwards; a window that depends on the memory's length.
        fixed={"bi_data": False, "same_length": False},
        # D / N; initial weights; dropout; how much memory a call keeps; biases that layers share,
        # which their code never does; other heads.
        inert=(
            *("d_head", "initializer_range", "dropout", "mem_len", "use_mems_eval"),
            *("reuse_len", "untie_r"),
            *("use_mems_train", "summary_type", "summary_use_proj", "summary_activation"),
            *("summary_last_dropout", "start_n_top", "end_n_top"),
        ),
        prefix="transformer.",
    ),
)
