"""GPT-2 (Radford et al., 2019): learned positions, LayerNorm before each part, GELU, tied head."""

from typing import Literal

from lm_research.layers import MLP, Attention, Block, LayerNorm, Learned, Stack
from lm_research.layers.attention import head_size
from lm_research.layers.einsum import normal_products
from lm_research.layers.kernels import Kernel
from lm_research.layers.mlp import Activation
from lm_research.layers.stack import Execution, Remat
from lm_research.models.family import Family, Row
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
      deviation: of the initial weights; products that write to the stream start smaller by sqrt(2
        L).
      dtype: of the products' operands.

    Raises:
      ValueError: the width is not a multiple of the heads.
    """
    shared = normal_products(deviation, dtype, 2 * layers)
    block = Block(
        Attention(heads, heads, head_size(width, heads), bias, bias, kernel=kernel, **shared),
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


NAMES = {
    "vocab": "vocab_size",
    "width": "n_embd",
    "layers": "n_layer",
    "heads": "n_head",
    "context": "n_positions",
    "hidden": "n_inner",
    "activation": "activation_function",
    "tied": "tie_word_embeddings",
    "epsilon": "layer_norm_epsilon",
}
ROWS = (
    Row("embedding/table", "transformer.wte.weight", "VD"),
    Row("position/table", "transformer.wpe.weight", "TD"),
    Row("stack/blocks/attention_norm/scale", "transformer.h.{L}.ln_1.weight", "D"),
    Row("stack/blocks/attention_norm/bias", "transformer.h.{L}.ln_1.bias", "D"),
    Row("stack/blocks/attention/query/kernel", "transformer.h.{L}.attn.c_attn.weight", "D+(NH)"),
    Row("stack/blocks/attention/key/kernel", "transformer.h.{L}.attn.c_attn.weight", "D+(KH)"),
    Row("stack/blocks/attention/value/kernel", "transformer.h.{L}.attn.c_attn.weight", "D+(KH)"),
    Row("stack/blocks/attention/query/bias", "transformer.h.{L}.attn.c_attn.bias", "+(NH)"),
    Row("stack/blocks/attention/key/bias", "transformer.h.{L}.attn.c_attn.bias", "+(KH)"),
    Row("stack/blocks/attention/value/bias", "transformer.h.{L}.attn.c_attn.bias", "+(KH)"),
    Row("stack/blocks/attention/out/kernel", "transformer.h.{L}.attn.c_proj.weight", "(NH)D"),
    Row("stack/blocks/attention/out/bias", "transformer.h.{L}.attn.c_proj.bias", "D"),
    Row("stack/blocks/mlp_norm/scale", "transformer.h.{L}.ln_2.weight", "D"),
    Row("stack/blocks/mlp_norm/bias", "transformer.h.{L}.ln_2.bias", "D"),
    Row("stack/blocks/mlp/up/kernel", "transformer.h.{L}.mlp.c_fc.weight", "DF"),
    Row("stack/blocks/mlp/up/bias", "transformer.h.{L}.mlp.c_fc.bias", "F"),
    Row("stack/blocks/mlp/down/kernel", "transformer.h.{L}.mlp.c_proj.weight", "FD"),
    Row("stack/blocks/mlp/down/bias", "transformer.h.{L}.mlp.c_proj.bias", "D"),
    Row("norm/scale", "transformer.ln_f.weight", "D"),
    Row("norm/bias", "transformer.ln_f.bias", "D"),
    Row("head/table", "lm_head.weight", "VD", tied="embedding/table"),
)

FAMILIES = (
    Family(
        kind="GPT2",
        model_type="gpt2",
        architecture="GPT2LMHeadModel",
        rows=ROWS,
        names=NAMES,
        derived=("hidden",),
        recorded={
            "embd_pdrop": "dropout",
            "resid_pdrop": "dropout",
            "initializer_range": "deviation",
        },
        config=lambda section: {"attn_pdrop": 0.0},
        defaults={
            "vocab_size": 50257,
            "n_embd": 768,
            "n_layer": 12,
            "n_head": 12,
            "n_positions": 1024,
            "n_inner": None,
            "activation_function": "gelu_new",
            "tie_word_embeddings": True,
            "layer_norm_epsilon": 1e-5,
        },
        fixed={
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "add_cross_attention": False,
        },
        # The order in which attention multiplies its scale in 16 bits; the initial weights;
        # dropout, a choice of training; an older name of n_positions; other architectures' heads.
        inert=(
            *("reorder_and_upcast_attn", "initializer_range"),
            *("embd_pdrop", "resid_pdrop", "attn_pdrop"),
            *("n_ctx", "summary_activation", "summary_first_dropout", "summary_proj_to_labels"),
            *("summary_type", "summary_use_proj"),
        ),
        prefix="transformer.",
        buffers=(r"h\.\d+\.attn\.(masked_)?bias",),  # the causal mask, in older files
    ),
)
