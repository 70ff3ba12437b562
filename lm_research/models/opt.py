"""OPT (Zhang et al., 2022): learned positions, LayerNorm before each part, ReLU, tied head.

The one of 350 M parameters has its norms after each part, and embeddings of half the width. Models
of the same code lack biases, parameters of norms, or the last norm.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

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
    "opt-350m": dict(**_sizes(1024, 24, 16), embedding=512, wiring="post"),
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
    embedding: int | None = None,
    wiring: Literal["pre", "post"] = "pre",
    bias: bool = True,
    norm_weights: bool = True,
    final_norm: bool = True,
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
      embedding: C, the width of embeddings; None is D.
      wiring: whether norms come before each part and after the last block, or after each part.
      bias: whether products have one.
      norm_weights: whether norms have a scale and a bias.
      final_norm: whether there is a norm after the last block; `post` has none.
      dropout: rate on embeddings and on what blocks add to the stream.
      deviation: of the initial weights; products that write to the stream start smaller by sqrt(2
        L).
      dtype: of the products' operands.

    Raises:
      ValueError: the width is not a multiple of the heads.
    """
    shared = normal_products(deviation, dtype, 2 * layers)
    norm = lambda: LayerNorm(bias=norm_weights, scale=norm_weights)  # Linen shares what is one
    block = Block(
        Attention(heads, heads, head_size(width, heads), bias, bias, kernel=kernel, **shared),
        MLP(hidden or 4 * width, activation, bias, **shared),
        norm(),
        wiring,
        dropout=dropout,
    )
    embedding = None if embedding == width else embedding
    return Transformer(
        vocab,
        width,
        Stack(layers, (block,), execution, remat),
        norm() if final_norm and wiring == "pre" else None,
        Learned(context, deviation, OFFSET),
        tied=tied,
        embedding_width=embedding,
        narrows=embedding is not None,
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
    "embedding": "word_embed_proj_dim",
    "bias": "enable_bias",
    "norm_weights": "layer_norm_elementwise_affine",
}


def _section(config: Mapping[str, Any]) -> dict[str, Any]:
    wiring = "pre" if config["do_layer_norm_before"] else "post"
    return {"wiring": wiring, "final_norm": not config["_remove_final_layer_norm"]}


def _config(section: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "do_layer_norm_before": section["wiring"] == "pre",
        "_remove_final_layer_norm": not section["final_norm"],
    }


_LAYER = "model.decoder.layers.{L}."
_ATTENTION = _LAYER + "self_attn."


def _weights(ours: str, theirs: str, axes: str) -> tuple[Row, Row]:
    """Of a product; models without biases lack the second."""
    bias = axes[: axes.index(")") + 1] if axes.startswith("(") else axes[0]
    return (
        Row(f"{ours}/kernel", f"{theirs}.weight", axes),
        Row(f"{ours}/bias", f"{theirs}.bias", bias, optional=True),
    )


def _norm(ours: str, theirs: str) -> tuple[Row, Row]:
    """Of a norm, which may have none of them."""
    return tuple(
        Row(f"{ours}/{mine}", f"{theirs}.{name}", "D", optional=True)
        for mine, name in (("scale", "weight"), ("bias", "bias"))
    )


def _rows(letter: str = "D") -> tuple[Row, ...]:
    """All tensors, with embeddings as wide as `letter`."""
    return (
        Row("embedding/table", "model.decoder.embed_tokens.weight", f"V{letter}"),
        Row("position/table", "model.decoder.embed_positions.weight", "TD"),
        *_norm("stack/blocks/attention_norm", _LAYER + "self_attn_layer_norm"),
        *_weights("stack/blocks/attention/query", _ATTENTION + "q_proj", "(NH)D"),
        *_weights("stack/blocks/attention/key", _ATTENTION + "k_proj", "(KH)D"),
        *_weights("stack/blocks/attention/value", _ATTENTION + "v_proj", "(KH)D"),
        *_weights("stack/blocks/attention/out", _ATTENTION + "out_proj", "D(NH)"),
        *_norm("stack/blocks/mlp_norm", _LAYER + "final_layer_norm"),
        *_weights("stack/blocks/mlp/up", _LAYER + "fc1", "FD"),
        *_weights("stack/blocks/mlp/down", _LAYER + "fc2", "DF"),
        *_norm("norm", "model.decoder.final_layer_norm"),
        Row("head/table", "lm_head.weight", f"V{letter}", tied="embedding/table"),
    )


NARROW = (
    Row("widening/kernel", "model.decoder.project_in.weight", "DC"),
    Row("narrowing/kernel", "model.decoder.project_out.weight", "CD"),
)

PLAIN = Family(
    kind="OPT",
    model_type="opt",
    architecture="OPTForCausalLM",
    rows=_rows(),
    names=NAMES,
    recorded={
        "dropout": "dropout",
        "init_std": "deviation",
    },
    derived=("embedding",),
    section=_section,
    config=_config,
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
        "do_layer_norm_before": True,
        "_remove_final_layer_norm": False,
        "enable_bias": True,
        "layer_norm_elementwise_affine": True,
    },
    fixed={},
    # The initial weights; dropout, a choice of training; what a tokenizer puts first.
    inert=(
        *("init_std", "dropout", "attention_dropout", "activation_dropout", "layerdrop"),
        "prefix",
    ),
    prefix="model.",
)
FAMILIES = (PLAIN, dataclasses.replace(PLAIN, rows=(*_rows("C"), *NARROW)))
