"""Llama (Touvron et al., 2023) and what came of it: Qwen2, Qwen3 and Mistral are its options."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from lm_research.errors import UserError
from lm_research.layers import (
    Attention,
    Block,
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
from lm_research.layers.stack import Execution, Remat
from lm_research.models import decoder
from lm_research.models.family import Family
from lm_research.models.rope import DEFAULTS, rope_config, rotary
from lm_research.models.transformer import Transformer

_TIED = dict(tied=True)
_QWEN2 = dict(base=1e6, bias=True, epsilon=1e-6, tied=True)
_QWEN3 = dict(head=128, base=1e6, head_norms=True, epsilon=1e-6, tied=True)


def _sizes(width, layers, heads, kv_heads, hidden, **choices) -> dict[str, Any]:
    sizes = dict(width=width, layers=layers, heads=heads, kv_heads=kv_heads, hidden=hidden)
    return {**sizes, **choices}


def _stretched(factor: float) -> dict[str, Any]:
    return dict(base=5e5, scaling=dict(kind="Llama3Scaling", factor=factor))


SIZES = {  # width, layers, heads, kv_heads, hidden
    "llama-2-7b": _sizes(4096, 32, 32, 32, 11008),
    "llama-3-8b": _sizes(4096, 32, 32, 8, 14336, base=5e5),
    "llama-3.1-8b": _sizes(4096, 32, 32, 8, 14336, **_stretched(8.0)),
    "llama-3.2-1b": _sizes(2048, 16, 32, 8, 8192, **_stretched(32.0), **_TIED),
    "llama-3.2-3b": _sizes(3072, 28, 24, 8, 8192, **_stretched(32.0), **_TIED),
    "mistral-7b": _sizes(4096, 32, 32, 8, 14336, window=4096),
    "qwen2-0.5b": _sizes(896, 24, 14, 2, 4864, **_QWEN2),
    "qwen2-1.5b": _sizes(1536, 28, 12, 2, 8960, **_QWEN2),
    "qwen3-0.6b": _sizes(1024, 28, 16, 8, 3072, **_QWEN3),
    "qwen3-1.7b": _sizes(2048, 28, 16, 8, 6144, **_QWEN3),
    "smollm-135m": _sizes(576, 30, 9, 3, 1536, **_TIED),
    "smollm-360m": _sizes(960, 32, 15, 5, 2560, **_TIED),
    "smollm2-135m": _sizes(576, 30, 9, 3, 1536, base=1e5, **_TIED),
    "smollm2-360m": _sizes(960, 32, 15, 5, 2560, base=1e5, **_TIED),
    "smollm2-1.7b": _sizes(2048, 24, 32, 32, 8192, base=1.3e5, **_TIED),
}


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
    scaling: Scaling | None = None,
    bias: bool = False,
    out_bias: bool = False,
    mlp_bias: bool = False,
    window: int | None = None,
    head_norms: bool = False,
    ahead: int = 1,
    tied: bool = False,
    epsilon: float = 1e-5,
    dropout: float = 0.0,
    deviation: float = 0.02,
    dtype: Literal["float32", "bfloat16"] = "float32",
    execution: Execution = "auto",
    remat: Remat = "none",
    kernel: Kernel = "auto",
) -> Transformer:
    """A Llama; with `bias` a Qwen2, with `head_norms` a Qwen3, with `window` a Mistral.

    Args:
      vocab: V.
      width, layers, heads: D, L and N.
      kv_heads: K; None is N.
      head: H; None is D / N.
      hidden: F; None is 8/3 D, rounded up to a multiple of 64.
      base: of the rotary positions.
      scaling: stretches them to longer contexts.
      bias: whether the products of queries, keys and values have one; `out_bias`: that of what
        attention gives; `mlp_bias`: those of the MLP.
      window: a query sees only so many keys back.
      head_norms: whether queries and keys are normalised head by head.
      ahead: tokens that it predicts at each place, each with a last block of its own.
      tied: whether the head is the embedding table.
      epsilon: of the norms.
      dropout: rate on embeddings and on what blocks add to the stream.
      deviation: of the initial weights; products that write to the stream start smaller by sqrt(2
        L).
      dtype: of the products' operands.

    Raises:
      ValueError: sizes that do not divide, or no token to predict, or no layer below the last.
    """
    if ahead < 1 or (ahead > 1 and layers < 2):
        raise ValueError(
            f"ahead is {ahead}; it takes 1, or more where layers {layers} are 2 or more"
        )
    shared = normal_products(deviation, dtype, 2 * layers)
    attention = Attention(
        heads,
        kv_heads or heads,
        head_size(width, heads, kv_heads, head),
        bias,
        out_bias,
        rotary=Rotary(base, scaling=scaling),
        window=window,
        norm=head_norm(epsilon) if head_norms else None,
        kernel=kernel,
        **shared,
    )
    mlp = GatedMLP(hidden or 64 * math.ceil(width * 8 / 3 / 64), activation, mlp_bias, **shared)
    block = Block(attention, mlp, RMSNorm(epsilon), dropout=dropout)
    return Transformer(
        vocab,
        width,
        Stack(layers - (ahead > 1), (block,), execution, remat),
        RMSNorm(epsilon),
        ahead=(block,) * ahead if ahead > 1 else (),
        tied=tied,
        dropout=dropout,
        deviation=deviation,
        dtype=dtype,
    )


def _qwen_section(config: Mapping[str, Any]) -> dict[str, Any]:
    other = set(config["layer_types"] or ()) - {"full_attention"}
    if other:
        raise UserError(f"config.json has layer_types {sorted(other)}; it takes full_attention")
    return rotary(config)


def _llama_config(section: Mapping[str, Any]) -> dict[str, Any]:
    if section["width"] % section["heads"]:
        raise UserError(
            f"LlamaForCausalLM takes a model.width that is a multiple of model.heads, "
            f"not {section['width']} and {section['heads']}"
        )
    return rope_config(section)


NAMES = {**decoder.NAMES, "head": "head_dim"}
ROWS = (*decoder.ENDS, decoder.ATTENTION_NORM, *decoder.ATTENTION, decoder.MLP_NORM, *decoder.MLP)

LLAMA = Family(
    kind="Llama",
    model_type="llama",
    architecture="LlamaForCausalLM",
    rows=ROWS,
    names=NAMES,
    derived=("kv_heads", "head"),
    recorded=decoder.RECORDED,
    section=rotary,
    config=_llama_config,
    defaults={
        **DEFAULTS,
        "vocab_size": 32000,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "head_dim": None,
        "intermediate_size": 11008,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "rms_norm_eps": 1e-6,
    },
    fixed={"attention_bias": False, "mlp_bias": False},
    # The initial weights; dropout, a choice of training; in how many pieces products are made.
    inert=("initializer_range", "attention_dropout", "pretraining_tp"),
    without=("bias", "window"),
    prefix="model.",
    buffers=decoder.BUFFERS,
)


def _biased(attention: bool, mlp: bool) -> Family:
    """A Llama whose products have biases: of attention, of the MLP, or of both."""
    biases = decoder.ATTENTION_BIASES * attention + decoder.MLP_BIASES * mlp
    return dataclasses.replace(
        LLAMA,
        rows=(*ROWS, *biases),
        defaults={**LLAMA.defaults, "attention_bias": False, "mlp_bias": False},
        options={"bias": attention, "out_bias": attention, "mlp_bias": mlp},
        fixed={"attention_bias": attention, "mlp_bias": mlp},
        without=("window",),
    )


QWEN3 = dataclasses.replace(
    LLAMA,
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    rows=(*ROWS, *decoder.HEAD_NORMS),
    options={"bias": False, "head_norms": True},
    section=_qwen_section,
    config=rope_config,
    defaults={
        **LLAMA.defaults,
        "vocab_size": 151936,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "intermediate_size": 22016,
        "layer_types": None,
        "max_position_embeddings": 32768,
    },
    fixed={"attention_bias": False, "use_sliding_window": False},
    # A window that is not used leaves its size.
    inert=(*LLAMA.inert, "sliding_window", "max_window_layers"),
)

QWEN2 = dataclasses.replace(
    LLAMA,
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    rows=(*ROWS, *decoder.ATTENTION_BIASES[:3]),
    options={"bias": True},
    section=_qwen_section,
    config=rope_config,
    defaults={**QWEN3.defaults, "head_dim": None},
    fixed={"use_sliding_window": False},
    inert=QWEN3.inert,
    without=("window",),
)

MISTRAL = dataclasses.replace(
    LLAMA,
    model_type="mistral",
    architecture="MistralForCausalLM",
    names={**NAMES, "window": "sliding_window"},
    config=rope_config,
    defaults={
        **LLAMA.defaults,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
    fixed={},
    without=("bias",),
)

BIASED = (_biased(True, False), _biased(False, True), _biased(True, True))
FAMILIES = (LLAMA, *BIASED, QWEN3, QWEN2, MISTRAL)
