"""The Transformer as Vaswani et al. (2017) made it, for translation."""

import math
from typing import Literal

from lm_research.layers import MLP, Attention, Block, LayerNorm, Sinusoidal, Stack
from lm_research.layers.attention import head_size
from lm_research.layers.kernels import Kernel
from lm_research.layers.stack import Execution, Remat
from lm_research.models.encoder_decoder import EncoderDecoder
from lm_research.models.transformer import Transformer

SIZES = {  # width, layers of each stack, heads, hidden, dropout: table 3
    "base": (512, 6, 8, 2048, 0.1),
    "big": (1024, 6, 16, 4096, 0.3),
}


def OriginalTransformer(
    vocab: int,
    width: int = 512,
    layers: int = 6,
    heads: int = 8,
    hidden: int = 2048,
    attention_bias: bool = False,
    start: int = 0,
    epsilon: float = 1e-6,
    dropout: float = 0.1,
    dtype: Literal["float32", "bfloat16"] = "float32",
    execution: Execution = "auto",
    remat: Remat = "none",
    kernel: Kernel = "auto",
) -> EncoderDecoder:
    """Norms after each sum, sinusoidal positions, one table for sources, texts and the head.

    Args:
      vocab: V, of source and text together.
      width, layers, heads, hidden: D, L of each stack, N and F; the head size is D / N.
      attention_bias: whether the products of attention have one: in the paper they do not.
      start: the token before the first one of a text.
      epsilon: of the norms.
      dropout: rate on embeddings and on what blocks add to the stream.
      dtype: of the products' operands.

    Raises:
      ValueError: the width is not a multiple of the heads.
    """

    def attention() -> Attention:
        bias = attention_bias
        return Attention(
            heads, heads, head_size(width, heads), bias, bias, kernel=kernel, dtype=dtype
        )

    def stack(causal: bool) -> Transformer:
        block = Block(
            attention(),
            MLP(hidden, "relu", dtype=dtype),
            LayerNorm(epsilon),
            wiring="post",
            dropout=dropout,
            cross=attention() if causal else None,
        )
        return Transformer(
            vocab,
            width,
            Stack(layers, (block,), execution, remat),
            position=Sinusoidal(),
            causal=causal,
            embedding_scale=math.sqrt(width),
            dropout=dropout,
            deviation=width**-0.5,
            dtype=dtype,
        )

    return EncoderDecoder(stack(causal=False), stack(causal=True), start)
