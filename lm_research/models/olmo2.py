"""OLMo 2 (OLMo Team, 2024): a Llama that normalises results, and queries and keys of all heads."""

from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn

from lm_research.layers import Attention, Block, GatedMLP, RMSNorm, Rotary, Stack
from lm_research.layers.kernels import Kernel
from lm_research.layers.mlp import Activation
from lm_research.layers.scaling import Scaling
from lm_research.layers.stack import Execution, Remat
from lm_research.models import decoder
from lm_research.models.family import (
    DECODER,
    Family,
    Row,
    our_activation,
    our_options,
    their_activation,
    their_options,
)
from lm_research.models.rope import DEFAULTS, rope_config, rotary
from lm_research.models.transformer import Transformer


def _sizes(width, layers, heads, kv_heads, hidden) -> dict[str, Any]:
    sizes = dict(width=width, layers=layers, heads=heads, kv_heads=kv_heads, hidden=hidden)
    return {**sizes, "base": 5e5, "epsilon": 1e-6}


SIZES = {  # width, layers, heads, kv_heads, hidden
    "olmo-2-1b": _sizes(2048, 16, 16, 16, 8192),
    "olmo-2-7b": _sizes(4096, 32, 32, 32, 11008),
    "olmo-2-13b": _sizes(5120, 40, 40, 40, 13824),
    "olmo-2-32b": _sizes(5120, 64, 40, 8, 27648),
}


def OLMo2(
    vocab: int,
    width: int = 512,
    layers: int = 8,
    heads: int = 8,
    kv_heads: int | None = None,
    hidden: int = 1408,
    activation: Activation = "silu",
    base: float = 500_000.0,
    scaling: Scaling | None = None,
    tied: bool = False,
    epsilon: float = 1e-6,
    dropout: float = 0.0,
    deviation: float = 0.02,
    dtype: Literal["float32", "bfloat16"] = "float32",
    execution: Execution = "auto",
    remat: Remat = "none",
    kernel: Kernel = "auto",
) -> Transformer:
    """An OLMo 2.

    Args:
      vocab: V.
      width, layers, heads: D, L and N; the head size is D / N.
      kv_heads: K; None is N.
      hidden: F.
      base, scaling: of the rotary positions.
      tied: whether the head is the embedding table.
      epsilon: of the norms.
      dropout: rate on embeddings and on what blocks add to the stream.
      deviation: of all initial weights (OLMo Team, 2024, section 3.2).
      dtype: of the products' operands.

    Raises:
      ValueError: sizes that do not divide.
    """
    kv_heads = kv_heads or heads
    if width % heads:
        raise ValueError(f"width {width} is not a multiple of heads {heads}")
    if heads % kv_heads:
        raise ValueError(f"heads {heads} is not a multiple of kv_heads {kv_heads}")
    normal = nn.initializers.normal(deviation)
    shared = dict(initializer=normal, out_initializer=normal, dtype=dtype)
    attention = Attention(
        *(heads, kv_heads, width // heads),
        rotary=Rotary(base, scaling=scaling),
        norm=RMSNorm(epsilon, letter="NH"),
        kernel=kernel,
        **shared,
    )
    mlp = GatedMLP(hidden, activation, **shared)
    block = Block(attention, mlp, RMSNorm(epsilon), "reordered", dropout)
    return Transformer(
        vocab,
        width,
        Stack(layers, (block,), execution, remat),
        RMSNorm(epsilon),
        tied=tied,
        dropout=dropout,
        deviation=deviation,
        dtype=dtype,
    )


NAMES = {ours: theirs for ours, theirs in DECODER.items() if ours != "head"}


def _section(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kind": "OLMo2",
        **our_options(config, NAMES),
        "kv_heads": config["num_key_value_heads"] or config["num_attention_heads"],
        "activation": our_activation(config["hidden_act"]),
        **rotary(config),
    }


def _config(section: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
    return {
        **their_options(section, sizes, NAMES),
        "hidden_act": their_activation(section["activation"]),
        **rope_config(section),
        "rope_theta": section["base"],  # for transformers 4
        "initializer_range": section["deviation"],
    }


ROWS = (
    *decoder.ENDS,
    *decoder.ATTENTION,
    *decoder.MLP,
    Row(
        "stack/blocks/attention/query_norm/scale", f"{decoder.LAYER}self_attn.q_norm.weight", "(NH)"
    ),
    Row("stack/blocks/attention/key_norm/scale", f"{decoder.LAYER}self_attn.k_norm.weight", "(KH)"),
    Row(
        "stack/blocks/attention_norm/scale", f"{decoder.LAYER}post_attention_layernorm.weight", "D"
    ),
    Row("stack/blocks/mlp_norm/scale", f"{decoder.LAYER}post_feedforward_layernorm.weight", "D"),
)

FAMILIES = (
    Family(
        kind="OLMo2",
        model_type="olmo2",
        architecture="Olmo2ForCausalLM",
        rows=ROWS,
        section=_section,
        config=_config,
        defaults={
            **DEFAULTS,
            "vocab_size": 50304,
            "hidden_size": 4096,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": None,
            "intermediate_size": 11008,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "rms_norm_eps": 1e-5,
        },
        fixed={"attention_bias": False},
        inert=("initializer_range", "attention_dropout"),  # choices of training
        prefix="model.",
    ),
)
