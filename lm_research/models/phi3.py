"""Phi-3 and Phi-4 (Abdin et al., 2024a, 2024b): a Llama whose products are stored joined."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn

from lm_research.errors import UserError
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


def _sizes(width, layers, heads, kv_heads, hidden, **choices) -> dict[str, Any]:
    sizes = dict(width=width, layers=layers, heads=heads, kv_heads=kv_heads, hidden=hidden)
    return {**sizes, **choices}


SIZES = {  # width, layers, heads, kv_heads, hidden
    "phi-3-mini-4k": _sizes(3072, 32, 32, 32, 8192, window=2047),
    "phi-3-medium-4k": _sizes(5120, 40, 40, 10, 17920, window=2047),
    "phi-4": _sizes(5120, 40, 40, 10, 17920, base=2.5e5),
}


def Phi3(
    vocab: int,
    width: int = 512,
    layers: int = 8,
    heads: int = 8,
    kv_heads: int | None = None,
    hidden: int = 1408,
    activation: Activation = "silu",
    base: float = 10_000.0,
    fraction: float = 1.0,
    scaling: Scaling | None = None,
    window: int | None = None,
    tied: bool = False,
    epsilon: float = 1e-5,
    dropout: float = 0.0,
    deviation: float = 0.02,
    dtype: Literal["float32", "bfloat16"] = "float32",
    execution: Execution = "auto",
    remat: Remat = "none",
    kernel: Kernel = "auto",
) -> Transformer:
    """A Phi-3 or a Phi-4.

    Args:
      vocab: V.
      width, layers, heads: D, L and N; the head size is D / N.
      kv_heads: K; None is N.
      hidden: F.
      base: of the rotary positions.
      fraction: the part of each head that is rotated.
      scaling: of them, for contexts longer than that of pretraining.
      window: a query sees only so many keys back.
      tied: whether the head is the embedding table.
      epsilon: of the norms.
      dropout: rate on embeddings and on what blocks add to the stream.
      deviation: of the initial weights; products that write to the stream start smaller by sqrt(2
        L).
      dtype: of the products' operands.

    Raises:
      ValueError: sizes that do not divide.
    """
    kv_heads = kv_heads or heads
    if width % heads:
        raise ValueError(f"width {width} is not a multiple of heads {heads}")
    if heads % kv_heads:
        raise ValueError(f"heads {heads} is not a multiple of kv_heads {kv_heads}")
    shared = dict(
        initializer=nn.initializers.normal(deviation),
        out_initializer=nn.initializers.normal(deviation / math.sqrt(2 * layers)),
        dtype=dtype,
    )
    attention = Attention(
        *(heads, kv_heads, width // heads),
        rotary=Rotary(base, fraction, scaling),
        window=window,
        kernel=kernel,
        **shared,
    )
    block = Block(
        attention, GatedMLP(hidden, activation, **shared), RMSNorm(epsilon), dropout=dropout
    )
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


NAMES = {
    **{ours: theirs for ours, theirs in DECODER.items() if ours != "head"},
    "window": "sliding_window",
}


def _section(config: Mapping[str, Any]) -> dict[str, Any]:
    rope = dict(config["rope_scaling"] or config["rope_parameters"] or {})
    if (kind := rope.get("rope_type", rope.get("type", "default"))) in ("su", "yarn"):
        rope["rope_type"] = "longrope"  # what early files call it
    elif kind not in ("default", "longrope"):
        raise UserError(
            f"config.json scales rotary positions by rope_type {kind!r}; Phi3ForCausalLM takes "
            "default or longrope"
        )
    fraction = rope.pop("partial_rotary_factor", config["partial_rotary_factor"])
    return {
        "kind": "Phi3",
        **our_options(config, NAMES),
        "kv_heads": config["num_key_value_heads"] or config["num_attention_heads"],
        "activation": our_activation(config["hidden_act"]),
        **rotary({**config, "rope_parameters": None}, rope),
        "fraction": float(fraction),
    }


def _config(section: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
    scaling = section["scaling"]
    return {
        **their_options(section, sizes, NAMES),
        "hidden_act": their_activation(section["activation"]),
        **rope_config(section),
        "rope_theta": section["base"],  # for transformers 4
        "partial_rotary_factor": section["fraction"],
        "original_max_position_embeddings": scaling and scaling["length"],
        "initializer_range": section["deviation"],
        "resid_pdrop": section["dropout"],
        "embd_pdrop": section["dropout"],
    }


QKV = f"{decoder.LAYER}self_attn.qkv_proj.weight"
GATE_UP = f"{decoder.LAYER}mlp.gate_up_proj.weight"
_, _, _, OUT = decoder.ATTENTION
_, _, DOWN = decoder.MLP
ROWS = (
    *decoder.ENDS,
    decoder.ATTENTION_NORM,
    Row("stack/blocks/attention/query/kernel", QKV, "+(NH)D"),
    Row("stack/blocks/attention/key/kernel", QKV, "+(KH)D"),
    Row("stack/blocks/attention/value/kernel", QKV, "+(KH)D"),
    OUT,
    decoder.MLP_NORM,
    Row("stack/blocks/mlp/gate/kernel", GATE_UP, "+FD"),
    Row("stack/blocks/mlp/up/kernel", GATE_UP, "+FD"),
    DOWN,
)

FAMILIES = (
    Family(
        kind="Phi3",
        model_type="phi3",
        architecture="Phi3ForCausalLM",
        rows=ROWS,
        section=_section,
        config=_config,
        defaults={
            **DEFAULTS,
            "vocab_size": 32064,
            "hidden_size": 3072,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": None,
            "intermediate_size": 8192,
            "hidden_act": "silu",
            "partial_rotary_factor": 1.0,
            "original_max_position_embeddings": None,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "rms_norm_eps": 1e-5,
        },
        fixed={"attention_bias": False},
        inert=("initializer_range", "attention_dropout", "resid_pdrop", "embd_pdrop"),
        prefix="model.",
    ),
)
