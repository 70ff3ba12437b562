"""Gemma 1, 2 and 3 (Gemma Team, 2024a, 2024b, 2025): scaled embedding, GeGLU, norms around one."""

import math
from collections.abc import Mapping
from typing import Any, Literal

from lm_research.errors import UserError
from lm_research.layers import Attention, Block, GatedMLP, RMSNorm, Rotary, Stack
from lm_research.layers.attention import head_size
from lm_research.layers.einsum import normal_products
from lm_research.layers.kernels import Kernel
from lm_research.layers.mlp import Activation
from lm_research.layers.scaling import Scaling
from lm_research.layers.stack import Execution, Remat, shortest_period
from lm_research.models import decoder
from lm_research.models.family import Family, Row, our_activation, their_activation
from lm_research.models.rope import DEFAULTS, rope_config, rope_parameters, rotary
from lm_research.models.transformer import Transformer

_2 = dict(wiring="sandwich", windows=(4096, None), score_cap=50.0, soft_cap=30.0)
_3 = dict(wiring="sandwich", head_norms=True, base=1e6, local_base=1e4)
_LINEAR = dict(kind="LinearScaling", factor=8.0)


def _sizes(width, layers, heads, kv_heads, head, hidden, **choices) -> dict[str, Any]:
    sizes = dict(width=width, layers=layers, heads=heads, kv_heads=kv_heads, head=head)
    return {**sizes, "hidden": hidden, **choices}


def _five_to_one(window: int) -> tuple[int | None, ...]:
    return (*(window,) * 5, None)


SIZES = {  # width, layers, heads, kv_heads, head, hidden
    "gemma-2b": _sizes(2048, 18, 8, 1, 256, 16384),
    "gemma-7b": _sizes(3072, 28, 16, 16, 256, 24576),
    "gemma-2-2b": _sizes(2304, 26, 8, 4, 256, 9216, **_2),
    "gemma-2-9b": _sizes(3584, 42, 16, 8, 256, 14336, **_2),
    "gemma-2-27b": _sizes(4608, 46, 32, 16, 128, 36864, query_scalar=144, **_2),
    "gemma-3-270m": _sizes(640, 18, 4, 1, 256, 2048, windows=_five_to_one(512), **_3),
    "gemma-3-1b": _sizes(1152, 26, 4, 1, 256, 6912, windows=_five_to_one(512), **_3),
    "gemma-3-4b": _sizes(
        *(2560, 34, 8, 4, 256, 10240), windows=_five_to_one(1024), scaling=_LINEAR, **_3
    ),
    "gemma-3-12b": _sizes(
        *(3840, 48, 16, 8, 256, 15360), windows=_five_to_one(1024), scaling=_LINEAR, **_3
    ),
    "gemma-3-27b": _sizes(
        *(5376, 62, 32, 16, 128, 21504),
        **dict(windows=_five_to_one(1024), scaling=_LINEAR, query_scalar=168, **_3),
    ),
}


def Gemma(
    vocab: int,
    width: int = 2048,
    layers: int = 18,
    heads: int = 8,
    kv_heads: int = 1,
    head: int = 256,
    hidden: int = 16384,
    activation: Activation = "gelu_tanh",
    base: float = 10_000.0,
    scaling: Scaling | None = None,
    windows: tuple[int | None, ...] = (),
    local_base: float | None = None,
    wiring: Literal["pre", "sandwich"] = "pre",
    head_norms: bool = False,
    query_scalar: int | None = None,
    score_cap: float | None = None,
    soft_cap: float | None = None,
    tied: bool = True,
    epsilon: float = 1e-6,
    dropout: float = 0.0,
    deviation: float = 0.02,
    dtype: Literal["float32", "bfloat16"] = "float32",
    execution: Execution = "auto",
    remat: Remat = "none",
    kernel: Kernel = "auto",
) -> Transformer:
    """A Gemma; `SIZES` has the choices of the published ones.

    Args:
      vocab: V.
      width, layers, heads, kv_heads, head, hidden: D, L, N, K, H and F.
      base: of the rotary positions.
      scaling: stretches them to longer contexts.
      windows: how many keys back the layers of a period see, which is repeated; None is all.
      local_base: of the rotary positions in layers with a window, which are then not scaled; None
        makes no difference between layers.
      wiring: `sandwich` also normalises what blocks add to the stream (Gemma 2 and 3).
      head_norms: whether queries and keys are normalised head by head (Gemma 3).
      query_scalar: scores are divided by its square root; None is H.
      score_cap, soft_cap: c of c tanh(x / c), of attention scores and of logits (Gemma 2).
      tied: whether the head is the embedding table.
      epsilon: of the norms.
      dropout: rate on embeddings and on what blocks add to the stream.
      deviation: of the initial weights; products that write to the stream start smaller by sqrt(2
        L).
      dtype: of the products' operands.

    Raises:
      ValueError: the heads do not divide.
    """
    head = head_size(width, heads, kv_heads, head)
    shared = normal_products(deviation, dtype, 2 * layers)
    norm = RMSNorm(epsilon, offset=1.0)

    def block(window: int | None) -> Block:
        local = window is not None and local_base is not None
        attention = Attention(
            *(heads, kv_heads, head),
            rotary=Rotary(local_base) if local else Rotary(base, scaling=scaling),
            norm=norm.clone(letter="H") if head_norms else None,
            scale=(query_scalar or head) ** -0.5,
            soft_cap=score_cap,
            window=window,
            kernel=kernel,
            **shared,
        )
        mlp = GatedMLP(hidden, activation, **shared)
        return Block(attention, mlp, norm, wiring, dropout)

    return Transformer(
        vocab,
        width,
        Stack(layers, tuple(map(block, windows or (None,))), execution, remat),
        RMSNorm(epsilon, offset=1.0),
        tied=tied,
        # In float32 whatever the dtype; `transformers` in bfloat16 rounds sqrt(3072) to 55.5.
        embedding_scale=math.sqrt(width),
        soft_cap=soft_cap,
        dropout=dropout,
        deviation=deviation,
        dtype=dtype,
    )


def _gemma1_section(config: Mapping[str, Any]) -> dict[str, Any]:
    # The first files say "gelu" and mean its approximation, and `transformers` reads it so.
    activation = our_activation(config["hidden_act"])
    return {**rotary(config), "activation": "gelu_tanh" if activation == "gelu" else activation}


def _gemma2_section(
    config: Mapping[str, Any], rope: Mapping[str, Any] | None = None, every: int = 2
) -> dict[str, Any]:
    count = config["num_hidden_layers"]
    kinds = config["layer_types"] or [
        "sliding_attention" if (i + 1) % every else "full_attention" for i in range(count)
    ]
    if other := set(kinds) - {"sliding_attention", "full_attention"}:
        raise UserError(
            f"config.json has layer_types {sorted(other)}; it takes sliding_attention and "
            "full_attention"
        )
    window = {"sliding_attention": config["sliding_window"], "full_attention": None}
    return {
        **rotary(config, rope),
        "windows": list(shortest_period([window[kind] for kind in kinds])),
    }


def _gemma3_section(config: Mapping[str, Any]) -> dict[str, Any]:
    rope = config["rope_parameters"] or {}
    local = rope.get("sliding_attention") or {}
    if local.get("rope_type", "default") != "default":
        raise UserError(
            f"config.json scales the rotary positions of sliding_attention by {local}; it takes "
            "rope_type default there"
        )
    full = {**(rope.get("full_attention") or {}), **(config["rope_scaling"] or {})}
    return {
        **_gemma2_section(config, full, config["sliding_window_pattern"]),
        "local_base": float(local.get("rope_theta", config["rope_local_base_freq"])),
    }


def _config(section: Mapping[str, Any]) -> dict[str, Any]:
    if section["width"] % section["heads"]:
        raise UserError(
            f"Hugging Face's Gemma takes a model.width that is a multiple of model.heads, "
            f"not {section['width']} and {section['heads']}"
        )
    return rope_config(section)


def _activation(section: Mapping[str, Any]) -> str:
    ours = section["activation"]
    return "gelu_pytorch_tanh" if ours == "gelu_tanh" else their_activation(ours)


def _gemma1_config(section: Mapping[str, Any]) -> dict[str, Any]:
    if section["activation"] == "gelu":
        raise UserError("GemmaForCausalLM takes a model.activation of gelu_tanh, not gelu")
    return {**_config(section), "hidden_act": _activation(section)}


def _gemma2_config(section: Mapping[str, Any]) -> dict[str, Any]:
    windows = section["windows"] or (None,)
    found = sorted({window for window in windows if window is not None})
    if len(found) > 1:
        raise UserError(f"Hugging Face's Gemma takes one size of model.windows, not {found}")
    kinds = ["full_attention" if window is None else "sliding_attention" for window in windows]
    return {
        **_config(section),
        "hidden_activation": _activation(section),
        "sliding_window": found[0] if found else 4096,  # which no layer uses then
        "layer_types": [kinds[i % len(kinds)] for i in range(section["layers"])],
        "query_pre_attn_scalar": section["query_scalar"] or section["head"],
    }


def _gemma3_config(section: Mapping[str, Any]) -> dict[str, Any]:
    local = section["local_base"] or section["base"]
    if section["local_base"] is None and section["scaling"] is not None:
        raise UserError("Gemma3ForCausalLM takes a model.local_base where there is a model.scaling")
    rope = {
        "full_attention": rope_parameters(section["base"], section["scaling"]),
        "sliding_attention": rope_parameters(local, None),
    }
    config = {**_gemma2_config(section), "rope_parameters": rope}
    return {**config, "rope_local_base_freq": local}


ROWS = (*decoder.ENDS, decoder.ATTENTION_NORM, *decoder.ATTENTION, *decoder.MLP)
ROWS_2 = (
    Row(
        "stack/blocks/attention_out_norm/scale",
        decoder.LAYER + "post_attention_layernorm.weight",
        "D",
    ),
    Row("stack/blocks/mlp_norm/scale", decoder.LAYER + "pre_feedforward_layernorm.weight", "D"),
    Row(
        "stack/blocks/mlp_out_norm/scale", decoder.LAYER + "post_feedforward_layernorm.weight", "D"
    ),
)
NAMES = {**decoder.NAMES, "head": "head_dim"}
NAMES_2 = {
    **NAMES,
    "activation": "hidden_activation",
    "query_scalar": "query_pre_attn_scalar",
    "score_cap": "attn_logit_softcapping",
    "soft_cap": "final_logit_softcapping",
}
SHARED = dict(
    kind="Gemma",
    recorded=decoder.RECORDED,
    fixed={"attention_bias": False, "use_bidirectional_attention": False},
    prefix="model.",
    buffers=decoder.BUFFERS,
)
# The initial weights; dropout, a choice of training; a second name that is not read.
INERT = ("initializer_range", "attention_dropout")
GEMMA = {
    **DEFAULTS,
    "vocab_size": 256000,
    "hidden_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 256,
    "intermediate_size": 24576,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-6,
}
GEMMA_2 = {
    **GEMMA,
    "hidden_size": 2304,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 9216,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "layer_types": None,
}
FAMILIES = (
    Family(
        model_type="gemma",
        architecture="GemmaForCausalLM",
        rows=(*ROWS, decoder.MLP_NORM),
        names=NAMES,
        section=_gemma1_section,
        config=_gemma1_config,
        defaults={**GEMMA, "hidden_act": "gelu_pytorch_tanh"},
        inert=(*INERT, "hidden_activation"),
        without=("windows", "local_base", "query_scalar", "score_cap", "soft_cap"),
        **SHARED,
    ),
    Family(
        model_type="gemma2",
        architecture="Gemma2ForCausalLM",
        rows=(*ROWS, *ROWS_2),
        names=NAMES_2,
        options={"wiring": "sandwich"},
        section=_gemma2_section,
        config=_gemma2_config,
        defaults={**GEMMA_2, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        inert=(*INERT, "hidden_act", "cache_implementation"),
        without=("local_base",),
        **SHARED,
    ),
    Family(
        model_type="gemma3_text",
        architecture="Gemma3ForCausalLM",
        rows=(*ROWS, *ROWS_2, *decoder.HEAD_NORMS),
        names=NAMES_2,
        options={"wiring": "sandwich", "head_norms": True, "score_cap": None},
        section=_gemma3_section,
        config=_gemma3_config,
        defaults={
            **GEMMA_2,
            "vocab_size": 262208,
            "rope_theta": 1e6,
            "rope_local_base_freq": 1e4,
            "sliding_window_pattern": 6,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
        },
        inert=(*INERT, "hidden_act", "cache_implementation", "_sliding_window_pattern"),
        without=("score_cap",),
        **SHARED,
    ),
)
