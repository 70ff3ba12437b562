"""Mamba-2 (Dao and Gu, 2024): blocks of a selective state space, RMSNorm before each."""

import itertools
import math
from collections.abc import Mapping
from typing import Any, Literal

from lm_research.errors import UserError
from lm_research.layers import RecurrentBlock, RMSNorm, Stack, StateSpace
from lm_research.layers.einsum import normal_products
from lm_research.layers.mlp import Activation
from lm_research.layers.stack import Execution, Remat
from lm_research.models.family import Family, Row
from lm_research.models.transformer import Transformer

SIZES = {  # width, layers
    "130m": (768, 24),
    "370m": (1024, 48),
    "780m": (1536, 48),
    "1.3b": (2048, 48),
    "2.7b": (2560, 64),
}


def Mamba2(
    vocab: int,
    width: int = 768,
    layers: int = 24,
    heads: int | None = None,
    head: int = 64,
    groups: int = 1,
    state: int = 128,
    convolution: int = 4,
    activation: Activation = "silu",
    bias: bool = False,
    convolution_bias: bool = True,
    tied: bool = True,
    epsilon: float = 1e-5,
    chunk: int = 128,
    dropout: float = 0.0,
    deviation: float = 0.02,
    dtype: Literal["float32", "bfloat16"] = "float32",
    execution: Execution = "auto",
    remat: Remat = "none",
) -> Transformer:
    """A Mamba-2.

    Args:
      vocab: V.
      width, layers: D and L.
      heads: N; None is 2 D / H.
      head: H.
      groups: K; heads of a group share what writes to their states and what reads them.
      state: C, the size of a head's state over H.
      convolution: how many inputs each channel is convolved over.
      bias, convolution_bias: whether products and convolutions have one.
      tied: whether the head is the embedding table.
      epsilon: of the norms.
      chunk: tokens within which products take the place of the recurrence; the result is the same.
      dropout: rate on embeddings and on what blocks add to the stream.
      deviation: of the initial weights; products that write to the stream start smaller by sqrt(L).
      dtype: of the products' operands.

    Raises:
      ValueError: sizes that do not divide.
    """
    heads = heads or 2 * width // head
    if heads % groups:
        raise ValueError(f"heads {heads} is not a multiple of groups {groups}")
    mixer = StateSpace(
        *(heads, head, groups, state, convolution, bias, convolution_bias, activation),
        epsilon=epsilon,
        chunk=chunk,
        **normal_products(deviation, dtype, layers),
    )
    block = RecurrentBlock(mixer, RMSNorm(epsilon), dropout)
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
    "vocab": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_heads",
    "head": "head_dim",
    "groups": "n_groups",
    "state": "state_size",
    "convolution": "conv_kernel",
    "activation": "hidden_act",
    "bias": "use_bias",
    "convolution_bias": "use_conv_bias",
    "chunk": "chunk_size",
    "tied": "tie_word_embeddings",
    "epsilon": "layer_norm_epsilon",
}


def _config(section: Mapping[str, Any]) -> dict[str, Any]:
    heads, head, width = section["heads"], section["head"], section["width"]
    if heads * head % width:
        raise UserError(
            f"Mamba2ForCausalLM takes heads that together are a multiple of model.width, "
            f"not {heads} of {head} for {width}"
        )
    return {"expand": heads * head // width}


LAYER = "backbone.layers.{L}."
MIXER = LAYER + "mixer."
ROWS = (
    Row("embedding/table", "backbone.embeddings.weight", "VD"),
    Row("stack/blocks/mixer_norm/scale", LAYER + "norm.weight", "D"),
    Row("stack/blocks/mixer/gate/kernel", MIXER + "in_proj.weight", "+(NH)D"),
    Row("stack/blocks/mixer/input/kernel", MIXER + "in_proj.weight", "+(NH)D"),
    Row("stack/blocks/mixer/write/kernel", MIXER + "in_proj.weight", "+(KC)D"),
    Row("stack/blocks/mixer/read/kernel", MIXER + "in_proj.weight", "+(KC)D"),
    Row("stack/blocks/mixer/step/kernel", MIXER + "in_proj.weight", "+ND"),
    Row("stack/blocks/mixer/input_convolution/kernel", MIXER + "conv1d.weight", "+(NH)1_"),
    Row("stack/blocks/mixer/write_convolution/kernel", MIXER + "conv1d.weight", "+(KC)1_"),
    Row("stack/blocks/mixer/read_convolution/kernel", MIXER + "conv1d.weight", "+(KC)1_"),
    Row("stack/blocks/mixer/step_bias", MIXER + "dt_bias", "N"),
    Row("stack/blocks/mixer/log_decay", MIXER + "A_log", "N"),
    Row("stack/blocks/mixer/skip", MIXER + "D", "N"),
    Row("stack/blocks/mixer/norm/scale", MIXER + "norm.weight", "(NH)"),
    Row("stack/blocks/mixer/out/kernel", MIXER + "out_proj.weight", "D(NH)"),
    Row("norm/scale", "backbone.norm_f.weight", "D"),
    Row("head/table", "lm_head.weight", "VD", tied="embedding/table"),
)
BIASES = (
    Row("stack/blocks/mixer/gate/bias", MIXER + "in_proj.bias", "+(NH)"),
    Row("stack/blocks/mixer/input/bias", MIXER + "in_proj.bias", "+(NH)"),
    Row("stack/blocks/mixer/write/bias", MIXER + "in_proj.bias", "+(KC)"),
    Row("stack/blocks/mixer/read/bias", MIXER + "in_proj.bias", "+(KC)"),
    Row("stack/blocks/mixer/step/bias", MIXER + "in_proj.bias", "+N"),
    Row("stack/blocks/mixer/out/bias", MIXER + "out_proj.bias", "D"),
)
CONVOLUTION_BIASES = (
    Row("stack/blocks/mixer/input_convolution/bias", MIXER + "conv1d.bias", "+(NH)"),
    Row("stack/blocks/mixer/write_convolution/bias", MIXER + "conv1d.bias", "+(KC)"),
    Row("stack/blocks/mixer/read_convolution/bias", MIXER + "conv1d.bias", "+(KC)"),
)


def _family(convolution_bias: bool, bias: bool) -> Family:
    """The family with or without the biases, which are tensors where they are asked for."""
    return Family(
        kind="Mamba2",
        model_type="mamba2",
        architecture="Mamba2ForCausalLM",
        rows=ROWS + BIASES * bias + CONVOLUTION_BIASES * convolution_bias,
        names=NAMES,
        recorded={"initializer_range": "deviation"},
        config=_config,
        defaults={
            "vocab_size": 32768,
            "hidden_size": 4096,
            "num_hidden_layers": 64,
            "num_heads": 128,
            "head_dim": 64,
            "n_groups": 8,
            "state_size": 128,
            "conv_kernel": 4,
            "use_bias": False,
            "use_conv_bias": True,
            "hidden_act": "silu",
            "chunk_size": 256,
            "tie_word_embeddings": False,
            "layer_norm_epsilon": 1e-5,
        },
        fixed={"time_step_limit": [0.0, math.inf]},
        # N H / D; initial weights; what 16 bits are added up in; older keys that nothing acts on.
        inert=(
            *("expand", "initializer_range", "rescale_prenorm_residual", "time_step_rank"),
            *("time_step_min", "time_step_max", "time_step_floor", "residual_in_fp32"),
            *("norm_before_gate", "rms_norm"),
        ),
        prefix="backbone.",
        spellings={"embedding.": "embeddings."},
    )


FAMILIES = tuple(itertools.starmap(_family, itertools.product((True, False), (False, True))))
