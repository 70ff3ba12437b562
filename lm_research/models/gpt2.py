"""GPT-2 (Radford et al., 2019): learned positions, LayerNorm before each part, GELU, tied head."""

import math
from typing import Literal

import flax.linen as nn

from lm_research.layers import MLP, Attention, Block, LayerNorm, Learned, Stack
from lm_research.layers.kernels import Kernel
from lm_research.layers.mlp import Activation
from lm_research.layers.stack import Execution, Remat
from lm_research.models.transformer import Transformer

SIZES = {  # width, layers, heads
    "small": (768, 12, 12),
    "medium": (1024, 24, 16),
    "large": (1280, 36, 20),
    "xl": (1600, 48, 25),
}


def GPT2(
    vocab: int,
    width: int = 768,
    layers: int = 12,
    heads: int = 12,
    context: int = 1024,
    hidden: int | None = None,
    activation: Activation = "gelu_tanh",
    bias: bool = True,
    tied: bool = True,
    epsilon: float = 1e-5,
    dropout: float = 0.0,
    deviation: float = 0.02,
    dtype: Literal["float32", "bfloat16"] = "float32",
    execution: Execution = "auto",
    remat: Remat = "none",
    kernel: Kernel = "auto",
) -> Transformer:
    """A GPT-2.

    Args:
      vocab: V.
      width, layers, heads: D, L and N; the head size is D / N.
      context: how many positions there are.
      hidden: F; None is 4 D.
      bias: whether products and norms have one.
      epsilon: of the norms.
      dropout: rate on embeddings and on what blocks add to the stream.
      deviation: of the initial weights; products that write to the stream start smaller by sqrt(2 L).
      dtype: of the products' operands.

    Raises:
      ValueError: the width is not a multiple of the heads.
    """
    if width % heads:
        raise ValueError(f"width {width} is not a multiple of heads {heads}")
    normal = nn.initializers.normal(deviation)
    shared = dict(
        initializer=normal,
        out_initializer=nn.initializers.normal(deviation / math.sqrt(2 * layers)),
        dtype=dtype,
    )
    block = Block(
        Attention(heads, heads, width // heads, bias, bias, kernel=kernel, **shared),
        MLP(hidden or 4 * width, activation, bias, **shared),
        LayerNorm(epsilon, bias),
        dropout=dropout,
    )
    return Transformer(
        vocab,
        width,
        Stack(layers, (block,), execution, remat),
        LayerNorm(epsilon, bias),
        Learned(context, deviation),
        tied=tied,
        dropout=dropout,
        deviation=deviation,
        dtype=dtype,
    )
