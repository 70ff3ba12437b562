"""OPT (Zhang et al., 2022): learned positions, LayerNorm before each part, ReLU, tied head."""

from collections.abc import Mapping
from typing import Any, Literal

from lm_research.errors import UserError
from lm_research.layers import MLP, Attention, Block, LayerNorm, Learned, Stack
from lm_research.layers.attention import head_size
from lm_research.layers.einsum import normal_products
from lm_research.layers.kernels import Kernel
from lm_research.layers.mlp import Activation
from lm_research.layers.stack import Execution, Remat
from lm_research.models.family import Family, Row
from lm_research.models.transformer import Transformer

OFFSET = 2  # rows of the table of positions before the first one, which padding had


def _sizes(width: int, layers: int, heads: int) -> dict[str, Any]:
    return dict(width=width, layers=layers, heads=heads, hidden=4 * width, context=2048)


SIZES = {  # width, layers, heads
    "opt-125m": _sizes(768, 12, 12),
    "opt-1.3b": _sizes(2048, 24, 32),
    "opt-2.7b": _sizes(2560, 32, 32),
    "opt-6.7b": _sizes(4096, 32, 32),
    "opt-13b": _sizes(5120, 40, 40),
    "opt-30b": _sizes(7168, 48, 56),
    "opt-66b": _sizes(9216, 64, 72),
}


def OPT(
    vocab: int,
    width: int = 768,
    layers: int = 12,
    heads: int = 12,
    context: int = 2048,
    hidden: int | None = None,
    activation: Activation = "relu",
    tied: bool = True,
    dropout: float = 0.0,
    deviation: float = 0.02,
    dtype: Literal["float32", "bfloat16"] = "float32",
    execution: Execution = "auto",
    remat: Remat = "none",
    kernel: Kernel = "auto",
) -> Transformer:
    """An OPT.

    Args:
      vocab: V.
      width, layers, heads: D, L and N; the head size is D / N.
      context: how many positions there are.
      hidden: F; None is 4 D.
      tied: whether the head is the embedding table.
      dropout: rate on embeddings and on what blocks add to the stream.
      deviation: of the initial weights; products that write to the stream start smaller by sqrt(2
        L).
      dtype: of the products' operands.

    Raises:
      ValueError: the width is not a multiple of the heads.
    """
    shared = normal_products(deviation, dtype, 2 * layers)
    block = Block(
        Attention(heads, heads, head_size(width, heads), True, True, kernel=kernel, **shared),
        MLP(hidden or 4 * width, activation, **shared),
        LayerNorm(),
        dropout=dropout,
    )
    return Transformer(
        vocab,
        width,
        Stack(layers, (block,), execution, remat),
        LayerNorm(),
        Learned(context, deviation, OFFSET),
        tied=tied,
        dropout=dropout,
        deviation=deviation,
        dtype=dtype,
    )


NAMES = {
    "vocab": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "context": "max_position_embeddings",
    "hidden": "ffn_dim",
    "activation": "activation_function",
    "tied": "tie_word_embeddings",
}


def _section(config: Mapping[str, Any]) -> dict[str, Any]:
    width, embedded = config["hidden_size"], config["word_embed_proj_dim"]
    if embedded not in (None, width):
        raise UserError(
            f"config.json has word_embed_proj_dim {embedded}; OPTForCausalLM takes hidden_size, "
            f"{width}, here: embeddings of another width, as opt-350m's, are not supported"
        )
    return {}


_LAYER = "model.decoder.layers.{L}."
_ATTENTION = _LAYER + "self_attn."
ROWS = (
    Row("embedding/table", "model.decoder.embed_tokens.weight", "VD"),
    Row("position/table", "model.decoder.embed_positions.weight", "TD"),
    Row("stack/blocks/attention_norm/scale", _LAYER + "self_attn_layer_norm.weight", "D"),
    Row("stack/blocks/attention_norm/bias", _LAYER + "self_attn_layer_norm.bias", "D"),
    Row("stack/blocks/attention/query/kernel", _ATTENTION + "q_proj.weight", "(NH)D"),
    Row("stack/blocks/attention/query/bias", _ATTENTION + "q_proj.bias", "(NH)"),
    Row("stack/blocks/attention/key/kernel", _ATTENTION + "k_proj.weight", "(KH)D"),
    Row("stack/blocks/attention/key/bias", _ATTENTION + "k_proj.bias", "(KH)"),
    Row("stack/blocks/attention/value/kernel", _ATTENTION + "v_proj.weight", "(KH)D"),
    Row("stack/blocks/attention/value/bias", _ATTENTION + "v_proj.bias", "(KH)"),
    Row("stack/blocks/attention/out/kernel", _ATTENTION + "out_proj.weight", "D(NH)"),
    Row("stack/blocks/attention/out/bias", _ATTENTION + "out_proj.bias", "D"),
    Row("stack/blocks/mlp_norm/scale", _LAYER + "final_layer_norm.weight", "D"),
    Row("stack/blocks/mlp_norm/bias", _LAYER + "final_layer_norm.bias", "D"),
    Row("stack/blocks/mlp/up/kernel", _LAYER + "fc1.weight", "FD"),
    Row("stack/blocks/mlp/up/bias", _LAYER + "fc1.bias", "F"),
    Row("stack/blocks/mlp/down/kernel", _LAYER + "fc2.weight", "DF"),
    Row("stack/blocks/mlp/down/bias", _LAYER + "fc2.bias", "D"),
    Row("norm/scale", "model.decoder.final_layer_norm.weight", "D"),
    Row("norm/bias", "model.decoder.final_layer_norm.bias", "D"),
    Row("head/table", "lm_head.weight", "VD", tied="embedding/table"),
)

FAMILIES = (
    Family(
        kind="OPT",
        model_type="opt",
        architecture="OPTForCausalLM",
        rows=ROWS,
        names=NAMES,
        recorded={
            "word_embed_proj_dim": "width",
            "dropout": "dropout",
            "init_std": "deviation",
        },
        section=_section,
        defaults={
            "vocab_size": 50272,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "ffn_dim": 3072,
            "max_position_embeddings": 2048,
            "word_embed_proj_dim": None,
            "activation_function": "relu",
            "tie_word_embeddings": True,
        },
        fixed={
            "do_layer_norm_before": True,  # opt-350m's come after
            "_remove_final_layer_norm": False,
            "enable_bias": True,
            "layer_norm_elementwise_affine": True,
        },
        # The initial weights; dropout, a choice of training; what a tokenizer puts first.
        inert=(
            *("init_std", "dropout", "attention_dropout", "activation_dropout", "layerdrop"),
            "prefix",
        ),
        prefix="model.",
    ),
)
