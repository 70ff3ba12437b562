"""A hybrid of Mamba-2 and attention (Waleffe et al., 2024): a few blocks look back."""

import math
from typing import Literal

from lm_research.layers import (
    Attention,
    Block,
    GatedMLP,
    RecurrentBlock,
    RMSNorm,
    Rotary,
    Stack,
    StateSpace,
)
from lm_research.layers.einsum import normal_products
from lm_research.layers.kernels import Kernel
from lm_research.layers.stack import Execution, Remat
from lm_research.models.transformer import Transformer


def Hybrid(
    vocab: int,
    width: int = 512,
    layers: int = 8,
    heads: int = 8,
    kv_heads: int | None = None,
    hidden: int | None = None,
    every: int = 4,
    head: int = 64,
    groups: int = 1,
    state: int = 128,
    base: float = 10_000.0,
    tied: bool = True,
    epsilon: float = 1e-5,
    chunk: int = 128,
    dropout: float = 0.0,
    deviation: float = 0.02,
    dtype: Literal["float32", "bfloat16"] = "float32",
    execution: Execution = "auto",
    remat: Remat = "none",
    kernel: Kernel = "auto",
) -> Transformer:
    """Blocks of Mamba-2, and after each `every` - 1 of them one of attention and a gated MLP.

    No Hugging Face architecture computes it; it is a stack like any other.

    Args:
      vocab: V.
      width, layers: D and L, of both kinds.
      heads, kv_heads: N and K of attention, whose head size is D / N.
      hidden: F; None is 8/3 D, rounded up to a multiple of 64.
      every: the length of the period.
      head, groups, state: H, K and C of Mamba-2, whose N is 2 D / H.
      base: of attention's rotary positions.
      tied: whether the head is the embedding table.
      epsilon: of the norms.
      chunk: tokens within which products take the place of the recurrence; the result is the same.
      dropout: rate on embeddings and on what blocks add to the stream.
      deviation: of the initial weights; products that write to the stream start smaller by sqrt(2
        L).
      dtype: of the products' operands.

    Raises:
      ValueError: sizes that do not divide.
    """
    for name, size, part in (("width", width, heads), ("2 width", 2 * width, head * groups)):
        if size % part:
            raise ValueError(f"{name} {size} is not a multiple of {part}")
    shared = normal_products(deviation, dtype, 2 * layers)
    state_space = lambda: StateSpace(
        2 * width // head, head, groups, state, epsilon=epsilon, chunk=chunk, **shared
    )
    attention = Attention(
        heads, kv_heads or heads, width // heads, rotary=Rotary(base), kernel=kernel, **shared
    )
    mlp = GatedMLP(hidden or 64 * math.ceil(width * 8 / 3 / 64), **shared)
    period = (
        *(RecurrentBlock(state_space(), RMSNorm(epsilon), dropout) for _ in range(every - 1)),
        Block(attention, mlp, RMSNorm(epsilon), dropout=dropout),
    )
    return Transformer(
        vocab,
        width,
        Stack(layers, period, execution, remat),
        RMSNorm(epsilon),
        tied=tied,
        dropout=dropout,
        deviation=deviation,
        dtype=dtype,
    )
