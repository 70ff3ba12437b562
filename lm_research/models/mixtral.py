"""Mixtral (Jiang et al., 2024) and Qwen3-MoE (Yang et al., 2025): a Llama with experts."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from lm_research.errors import UserError
from lm_research.layers import (
    Attention,
    Block,
    Experts,
    GatedMLP,
    RMSNorm,
    Rotary,
    Stack,
    head_norm,
)
from lm_research.layers.attention import head_size
from lm_research.layers.einsum import normal_products
from lm_research.layers.kernels import Kernel
from lm_research.layers.mlp import Activation
from lm_research.layers.scaling import Scaling
from lm_research.layers.stack import Execution, Remat, shortest_period
from lm_research.models import decoder
from lm_research.models.family import Family, Row
from lm_research.models.rope import DEFAULTS, rope_config, rotary
from lm_research.models.transformer import Transformer


def _sizes(width, layers, heads, kv_heads, head, hidden, experts, active, **choices):
    sizes = dict(width=width, layers=layers, heads=heads, kv_heads=kv_heads, head=head)
    return {**sizes, "hidden": hidden, "experts": experts, "active": active, **choices}


_QWEN3 = dict(head_norms=True, epsilon=1e-6)
SIZES = {  # width, layers, heads, kv_heads, head, hidden, experts, active
    "mixtral-8x7b": _sizes(4096, 32, 32, 8, 128, 14336, 8, 2),
    "mixtral-8x22b": _sizes(6144, 56, 48, 8, 128, 16384, 8, 2),
    "qwen3-30b-a3b": _sizes(2048, 48, 32, 4, 128, 768, 128, 8, **_QWEN3),
    "qwen3-235b-a22b": _sizes(4096, 94, 64, 4, 128, 1536, 128, 8, **_QWEN3),
}


def Mixtral(
    vocab: int,
    width: int = 512,
    layers: int = 8,
    heads: int = 8,
    kv_heads: int = 8,
    head: int | None = None,
    hidden: int = 896,
    experts: int = 8,
    active: int = 2,
    normalized: bool = True,
    dense: tuple[bool, ...] = (False,),
    dense_hidden: int | None = None,
    activation: Activation = "silu",
    base: float = 1_000_000.0,
    scaling: Scaling | None = None,
    window: int | None = None,
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
    """A Mixtral; with `head_norms` a Qwen3-MoE.

    Args:
      vocab: V.
      width, layers, heads, kv_heads: D, L, N and K.
      head: H; None is D / N.
      hidden: F of each expert.
      experts: E.
      active: how many of them read each token.
      normalized: whether the weights of those sum to one.
      dense: of the layers of a period, which is repeated, whether they have one MLP for all tokens.
      dense_hidden: F of that MLP; None is as much as the active experts have.
      base, scaling: of the rotary positions.
      window: a query sees only so many keys back.
      head_norms: whether queries and keys are normalised head by head.
      tied, epsilon, dropout, deviation, dtype: as in `Llama`.

    Raises:
      ValueError: sizes that do not divide, or more active experts than there are.
    """
    head = head_size(width, heads, kv_heads, head)
    if not 1 <= active <= experts:
        raise ValueError(f"active is {active}; it takes 1 to {experts}, the experts that there are")
    shared = normal_products(deviation, dtype, 2 * layers)

    def block(dense: bool) -> Block:
        attention = Attention(
            *(heads, kv_heads, head),
            rotary=Rotary(base, scaling=scaling),
            norm=head_norm(epsilon) if head_norms else None,
            window=window,
            kernel=kernel,
            **shared,
        )
        if dense:
            mlp = GatedMLP(dense_hidden or active * hidden, activation, **shared)
        else:
            mlp = Experts(experts, active, hidden, normalized, activation, **shared)
        return Block(attention, mlp, RMSNorm(epsilon), dropout=dropout)

    return Transformer(
        vocab,
        width,
        Stack(layers, tuple(map(block, dense)), execution, remat),
        RMSNorm(epsilon),
        tied=tied,
        dropout=dropout,
        deviation=deviation,
        dtype=dtype,
    )


# What their configs call our options; Qwen3-MoE's have two widths of MLPs.
NAMES = {
    **decoder.NAMES,
    "head": "head_dim",
    "experts": "num_local_experts",
    "active": "num_experts_per_tok",
}
QWEN3_NAMES = {
    **NAMES,
    "experts": "num_experts",
    "normalized": "norm_topk_prob",
    "hidden": "moe_intermediate_size",
    "dense_hidden": "intermediate_size",
}


def _qwen3_section(config: Mapping[str, Any]) -> dict[str, Any]:
    only, step = config["mlp_only_layers"] or (), config["decoder_sparse_step"]
    dense = [i in only or (i + 1) % step > 0 for i in range(config["num_hidden_layers"])]
    return {
        **rotary(config),
        "experts": config["num_local_experts"] or config["num_experts"],
        "dense": list(shortest_period(dense)),
    }


def _mixtral_config(section: Mapping[str, Any]) -> dict[str, Any]:
    if not section["normalized"]:
        raise UserError("MixtralForCausalLM takes model.normalized, weights that sum to one")
    return rope_config(section)


def _qwen3_config(section: Mapping[str, Any]) -> dict[str, Any]:
    dense = section["dense"]
    return {
        **rope_config(section),
        "intermediate_size": section["dense_hidden"] or section["active"] * section["hidden"],
        "mlp_only_layers": [i for i in range(section["layers"]) if dense[i % len(dense)]],
        "decoder_sparse_step": 1,
    }


SHARED = (*decoder.ENDS, decoder.ATTENTION_NORM, *decoder.ATTENTION, decoder.MLP_NORM)
DENSE = tuple(dataclasses.replace(row, optional=True) for row in decoder.MLP)


def _routed(mlp: str, gate: str, up: str, down: str) -> tuple[Row, ...]:
    """A router and its experts, by what theirs are called."""
    expert = f"{decoder.LAYER}{mlp}.experts.{{E}}."
    return (
        Row("stack/blocks/mlp/router/kernel", f"{decoder.LAYER}{mlp}.gate.weight", "ED"),
        Row("stack/blocks/mlp/experts_gate/kernel", f"{expert}{gate}.weight", "FD"),
        Row("stack/blocks/mlp/experts_down/kernel", f"{expert}{down}.weight", "DF"),
        Row("stack/blocks/mlp/experts_up/kernel", f"{expert}{up}.weight", "FD"),
    )


MIXTRAL = Family(
    kind="Mixtral",
    model_type="mixtral",
    architecture="MixtralForCausalLM",
    rows=(*SHARED, *_routed("block_sparse_moe", gate="w1", up="w3", down="w2")),
    names={**NAMES, "window": "sliding_window"},
    derived=("kv_heads", "head"),
    recorded=decoder.RECORDED,
    section=rotary,
    config=_mixtral_config,
    defaults={
        **DEFAULTS,
        "vocab_size": 32000,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": None,
        "intermediate_size": 14336,
        "hidden_act": "silu",
        "rope_theta": 1e6,
        "max_position_embeddings": 131072,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "rms_norm_eps": 1e-5,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    fixed={},
    # The initial weights; dropout, noise and losses of the router, choices of training.
    inert=(
        *("initializer_range", "attention_dropout"),
        *("output_router_logits", "router_aux_loss_coef", "router_jitter_noise"),
    ),
    prefix="model.",
)
QWEN3 = dataclasses.replace(
    MIXTRAL,
    model_type="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    rows=(
        *(*SHARED, *decoder.HEAD_NORMS, *DENSE),
        *_routed("mlp", gate="gate_proj", up="up_proj", down="down_proj"),
    ),
    names=QWEN3_NAMES,
    options={"head_norms": True},
    section=_qwen3_section,
    config=_qwen3_config,
    defaults={
        **MIXTRAL.defaults,
        "vocab_size": 151936,
        "hidden_size": 2048,
        "num_hidden_layers": 24,
        "num_key_value_heads": 4,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "rope_theta": 1e4,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "num_experts": 128,  # since transformers 5 under the other name
        "num_local_experts": None,
        "num_experts_per_tok": 8,
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
        "mlp_only_layers": None,
    },
    fixed={"attention_bias": False, "use_sliding_window": False},
    # A window that is not used leaves its size.
    inert=(*MIXTRAL.inert, "sliding_window", "max_window_layers"),
    without=("window",),
)
FAMILIES = (MIXTRAL, QWEN3)
