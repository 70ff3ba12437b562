"""Llama (Touvron et al., 2023): rotary positions, RMSNorm, gated SiLU, grouped queries."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn

from lm_research.errors import UserError
from lm_research.layers import Attention, Block, GatedMLP, RMSNorm, Rotary, Stack, head_norm
from lm_research.layers.kernels import Kernel
from lm_research.layers.mlp import Activation
from lm_research.layers.stack import Execution, Remat
from lm_research.models.family import Family, Row, our_activation, their_activation
from lm_research.models.transformer import Transformer


def Llama(
    vocab: int,
    width: int = 512,
    layers: int = 8,
    heads: int = 8,
    kv_heads: int | None = None,
    head: int | None = None,
    hidden: int | None = None,
    activation: Activation = "silu",
    base: float = 10_000.0,
    head_norms: bool = False,
    tied: bool = False,
    epsilon: float = 1e-5,
    dropout: float = 0.0,
    deviation: float = 0.02,
    dtype: Literal["float32", "bfloat16"] = "float32",
    execution: Execution = "auto",
    remat: Remat = "none",
    kernel: Kernel = "auto",
) -> Transformer:
    """A Llama; with `head_norms` a Qwen3.

    Args:
      vocab: V.
      width, layers, heads: D, L and N.
      kv_heads: K; None is N.
      head: H; None is D / N.
      hidden: F; None is 8/3 D, rounded up to a multiple of 64.
      base: of the rotary positions.
      head_norms: whether queries and keys are normalised head by head.
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
    if head is None and width % heads:
        raise ValueError(f"width {width} is not a multiple of heads {heads}")
    if heads % kv_heads:
        raise ValueError(f"heads {heads} is not a multiple of kv_heads {kv_heads}")
    shared = dict(
        initializer=nn.initializers.normal(deviation),
        out_initializer=nn.initializers.normal(deviation / math.sqrt(2 * layers)),
        dtype=dtype,
    )
    attention = Attention(
        heads,
        kv_heads,
        head or width // heads,
        rotary=Rotary(base),
        norm=head_norm(epsilon) if head_norms else None,
        kernel=kernel,
        **shared,
    )
    mlp = GatedMLP(hidden or 64 * math.ceil(width * 8 / 3 / 64), activation, **shared)
    block = Block(attention, mlp, RMSNorm(epsilon), dropout=dropout)
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


def _section(config: Mapping[str, Any]) -> dict[str, Any]:
    width, heads = config["hidden_size"], config["num_attention_heads"]
    return {
        "kind": "Llama",
        "vocab": config["vocab_size"],
        "width": width,
        "layers": config["num_hidden_layers"],
        "heads": heads,
        "kv_heads": config["num_key_value_heads"] or heads,
        "head": config["head_dim"] or width // heads,
        "hidden": config["intermediate_size"],
        "activation": our_activation(config["hidden_act"]),
        "base": _base(config),
        "tied": config["tie_word_embeddings"],
        "epsilon": config["rms_norm_eps"],
    }


def _qwen3_section(config: Mapping[str, Any]) -> dict[str, Any]:
    other = set(config.get("layer_types") or ()) - {"full_attention"}
    if other:
        raise UserError(f"config.json has layer_types {sorted(other)}; it takes full_attention")
    return {**_section(config), "head_norms": True}


def _base(config: Mapping[str, Any]) -> float:
    """The base of rotary positions: `rope_parameters` has it since transformers 5."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    other = set(rope) - {"rope_type", "type", "rope_theta"}
    if kind != "default" or other:
        raise UserError(f"config.json scales rotary positions by {rope}; it takes the default type")
    return float(rope.get("rope_theta", config["rope_theta"]))


def _llama_config(section: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
    if sizes["D"] % sizes["N"]:
        raise UserError(
            f"LlamaForCausalLM takes a model.width that is a multiple of model.heads, "
            f"not {sizes['D']} and {sizes['N']}"
        )
    return _config(section, sizes)


def _config(section: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
    return {
        "vocab_size": sizes["V"],
        "hidden_size": sizes["D"],
        "num_hidden_layers": sizes["L"],
        "num_attention_heads": sizes["N"],
        "num_key_value_heads": sizes["K"],
        "head_dim": sizes["H"],
        "intermediate_size": sizes["F"],
        "hidden_act": their_activation(section["activation"]),
        "rope_parameters": {"rope_type": "default", "rope_theta": section["base"]},
        "rope_theta": section["base"],  # for transformers 4
        "tie_word_embeddings": section["tied"],
        "rms_norm_eps": section["epsilon"],
        "initializer_range": section["deviation"],
    }


ROWS = (
    Row("embedding/table", "model.embed_tokens.weight", "VD"),
    Row("stack/blocks/attention_norm/scale", "model.layers.{L}.input_layernorm.weight", "D"),
    Row("stack/blocks/attention/query/kernel", "model.layers.{L}.self_attn.q_proj.weight", "(NH)D"),
    Row("stack/blocks/attention/key/kernel", "model.layers.{L}.self_attn.k_proj.weight", "(KH)D"),
    Row("stack/blocks/attention/value/kernel", "model.layers.{L}.self_attn.v_proj.weight", "(KH)D"),
    Row("stack/blocks/attention/out/kernel", "model.layers.{L}.self_attn.o_proj.weight", "D(NH)"),
    Row("stack/blocks/mlp_norm/scale", "model.layers.{L}.post_attention_layernorm.weight", "D"),
    Row("stack/blocks/mlp/gate/kernel", "model.layers.{L}.mlp.gate_proj.weight", "FD"),
    Row("stack/blocks/mlp/up/kernel", "model.layers.{L}.mlp.up_proj.weight", "FD"),
    Row("stack/blocks/mlp/down/kernel", "model.layers.{L}.mlp.down_proj.weight", "DF"),
    Row("norm/scale", "model.norm.weight", "D"),
    Row("head/table", "lm_head.weight", "VD", tied="embedding/table"),
)

LLAMA = Family(
    kind="Llama",
    model_type="llama",
    architecture="LlamaForCausalLM",
    rows=ROWS,
    section=_section,
    config=_llama_config,
    defaults={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "head_dim": None,
        "intermediate_size": 11008,
        "hidden_act": "silu",
        "rope_theta": 10_000.0,
        "rope_parameters": None,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "rms_norm_eps": 1e-6,
    },
    fixed={"attention_bias": False, "mlp_bias": False},
    # The initial weights; dropout, a choice of training; a bound that rotary positions do not have;
    # in how many pieces products are made.
    inert=("initializer_range", "attention_dropout", "max_position_embeddings", "pretraining_tp"),
    prefix="model.",
    buffers=(r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),  # in older files
)

QWEN3 = dataclasses.replace(
    LLAMA,
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    rows=(
        *ROWS,
        Row(
            "stack/blocks/attention/query_norm/scale",
            "model.layers.{L}.self_attn.q_norm.weight",
            "H",
        ),
        Row(
            "stack/blocks/attention/key_norm/scale", "model.layers.{L}.self_attn.k_norm.weight", "H"
        ),
    ),
    section=_qwen3_section,
    config=_config,
    defaults={
        **LLAMA.defaults,
        "vocab_size": 151936,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "intermediate_size": 22016,
        "layer_types": None,
    },
    fixed={"attention_bias": False, "use_sliding_window": False},
    # A window that is not used leaves its size.
    inert=(*LLAMA.inert, "sliding_window", "max_window_layers"),
)

FAMILIES = (LLAMA, QWEN3)
