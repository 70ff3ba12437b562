"""Llama (Touvron et al., 2023): rotary positions, RMSNorm, gated SiLU, grouped queries, no biases."""

import math
from typing import Literal

import flax.linen as nn

from lm_research.layers import Attention, Block, GatedMLP, RMSNorm, Rotary, Stack, head_norm
from lm_research.layers.kernels import Kernel
from lm_research.layers.mlp import Activation
from lm_research.layers.stack import Execution, Remat
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
      deviation: of the initial weights; products that write to the stream start smaller by sqrt(2 L).
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
