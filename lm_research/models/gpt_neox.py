"""GPT-NeoX (Black et al., 2022), Pythia (Biderman et al., 2023): attention beside the MLP."""

from collections.abc import Mapping
from typing import Any, Literal

from lm_research.layers import MLP, Attention, Block, LayerNorm, Rotary, Stack
from lm_research.layers.attention import head_size
from lm_research.layers.einsum import normal_products
from lm_research.layers.kernels import Kernel
from lm_research.layers.mlp import Activation
from lm_research.layers.scaling import Scaling
from lm_research.layers.stack import Execution, Remat
from lm_research.models import decoder
from lm_research.models.family import Family, Row
from lm_research.models.rope import DEFAULTS, rope_config, rotary
from lm_research.models.transformer import Transformer


def _sizes(width: int, layers: int, heads: int) -> dict[str, Any]:
    return dict(width=width, layers=layers, heads=heads, hidden=4 * width)


SIZES = {  # width, layers, heads
    "pythia-70m": _sizes(512, 6, 8),
    "pythia-160m": _sizes(768, 12, 12),
    "pythia-410m": _sizes(1024, 24, 16),
    "pythia-1b": _sizes(2048, 16, 8),
    "pythia-1.4b": _sizes(2048, 24, 16),
    "pythia-2.8b": _sizes(2560, 32, 32),
    "pythia-6.9b": _sizes(4096, 32, 32),
    "pythia-12b": _sizes(5120, 36, 40),
    "gpt-neox-20b": {**_sizes(6144, 44, 64), "activation": "gelu_tanh"},
}


def GPTNeoX(
    vocab: int,
    width: int = 512,
    layers: int = 6,
    heads: int = 8,
    hidden: int | None = None,
    activation: Activation = "gelu",
    base: float = 10_000.0,
    fraction: float = 0.25,
    scaling: Scaling | None = None,
    parallel: bool = True,
    tied: bool = False,
    epsilon: float = 1e-5,
    dropout: float = 0.0,
    deviation: float = 0.02,
    dtype: Literal["float32", "bfloat16"] = "float32",
    execution: Execution = "auto",
    remat: Remat = "none",
    kernel: Kernel = "auto",
) -> Transformer:
    """A GPT-NeoX or a Pythia.

    Args:
      vocab: V.
      width, layers, heads: D, L and N; the head size is D / N.
      hidden: F; None is 4 D.
      base, scaling: of the rotary positions.
      fraction: the part of each head that is rotated.
      parallel: whether attention and MLP read the same stream, each with a norm of its own.
      tied: whether the head is the embedding table.
      epsilon: of the norms.
      dropout: rate on embeddings and on what blocks add to the stream.
      deviation: of the initial weights; products that write to the stream start smaller by sqrt(2
        L).
      dtype: of the products' operands.

    Raises:
      ValueError: the width is not a multiple of the heads.
    """
    shared = normal_products(deviation, dtype, 2 * layers)
    rotary = Rotary(base, fraction, scaling)
    block = Block(
        Attention(
            *(heads, heads, head_size(width, heads), True, True),
            rotary=rotary,
            kernel=kernel,
            **shared,
        ),
        MLP(hidden or 4 * width, activation, **shared),
        LayerNorm(epsilon),
        "parallel_norms" if parallel else "pre",
        dropout,
    )
    return Transformer(
        vocab,
        width,
        Stack(layers, (block,), execution, remat),
        LayerNorm(epsilon),
        tied=tied,
        dropout=dropout,
        deviation=deviation,
        dtype=dtype,
    )


NAMES = {
    **{ours: theirs for ours, theirs in decoder.NAMES.items() if ours != "kv_heads"},
    "epsilon": "layer_norm_eps",
    "parallel": "use_parallel_residual",
}


def _section(config: Mapping[str, Any]) -> dict[str, Any]:
    # Since transformers 5 the fraction is one of the rotary parameters.
    rope = dict(config["rope_scaling"] or config["rope_parameters"] or {})
    fraction = rope.pop("partial_rotary_factor", config["rotary_pct"])
    found = rotary({**config, "rope_theta": config["rotary_emb_base"]}, rope)
    return {**found, "fraction": float(fraction)}


_LAYER = "gpt_neox.layers.{L}."
_ATTENTION, _JOINED = _LAYER + "attention.", _LAYER + "attention.query_key_value."
ROWS = (
    Row("embedding/table", "gpt_neox.embed_in.weight", "VD"),
    Row("stack/blocks/attention_norm/scale", _LAYER + "input_layernorm.weight", "D"),
    Row("stack/blocks/attention_norm/bias", _LAYER + "input_layernorm.bias", "D"),
    Row("stack/blocks/mlp_norm/scale", _LAYER + "post_attention_layernorm.weight", "D"),
    Row("stack/blocks/mlp_norm/bias", _LAYER + "post_attention_layernorm.bias", "D"),
    Row("stack/blocks/attention/query/kernel", _JOINED + "weight", "(N+H)D"),
    Row("stack/blocks/attention/key/kernel", _JOINED + "weight", "(K+H)D"),
    Row("stack/blocks/attention/value/kernel", _JOINED + "weight", "(K+H)D"),
    Row("stack/blocks/attention/query/bias", _JOINED + "bias", "(N+H)"),
    Row("stack/blocks/attention/key/bias", _JOINED + "bias", "(K+H)"),
    Row("stack/blocks/attention/value/bias", _JOINED + "bias", "(K+H)"),
    Row("stack/blocks/attention/out/kernel", _ATTENTION + "dense.weight", "D(NH)"),
    Row("stack/blocks/attention/out/bias", _ATTENTION + "dense.bias", "D"),
    Row("stack/blocks/mlp/up/kernel", _LAYER + "mlp.dense_h_to_4h.weight", "FD"),
    Row("stack/blocks/mlp/up/bias", _LAYER + "mlp.dense_h_to_4h.bias", "F"),
    Row("stack/blocks/mlp/down/kernel", _LAYER + "mlp.dense_4h_to_h.weight", "DF"),
    Row("stack/blocks/mlp/down/bias", _LAYER + "mlp.dense_4h_to_h.bias", "D"),
    Row("norm/scale", "gpt_neox.final_layer_norm.weight", "D"),
    Row("norm/bias", "gpt_neox.final_layer_norm.bias", "D"),
    Row("head/table", "embed_out.weight", "VD", tied="embedding/table"),
)

FAMILIES = (
    Family(
        kind="GPTNeoX",
        model_type="gpt_neox",
        architecture="GPTNeoXForCausalLM",
        rows=ROWS,
        names=NAMES,
        recorded={
            "rotary_emb_base": "base",  # for transformers 4, as the next
            "rotary_pct": "fraction",
            "hidden_dropout": "dropout",
            "initializer_range": "deviation",
        },
        section=_section,
        config=rope_config,
        defaults={
            **DEFAULTS,
            "vocab_size": 50432,
            "hidden_size": 6144,
            "num_hidden_layers": 44,
            "num_attention_heads": 64,
            "intermediate_size": 24576,
            "hidden_act": "gelu",
            "rotary_pct": 0.25,
            "rotary_emb_base": 10_000,
            "layer_norm_eps": 1e-5,
            "use_parallel_residual": True,
            "tie_word_embeddings": False,
        },
        fixed={"attention_bias": True},
        # The initial weights; dropout, a choice of training; another architecture's head.
        # The initial weights; dropout, a choice of training, as old files and new ones call it.
        inert=(
            *("initializer_range", "attention_dropout", "hidden_dropout", "classifier_dropout"),
            *("attention_probs_dropout_prob", "hidden_dropout_prob"),
        ),
        prefix="gpt_neox.",
        # In older files: the causal mask, what it fills with, and the rotary frequencies.
        buffers=(r"layers\.\d+\.attention\.((masked_)?bias|rotary_emb\.inv_freq)",),
    ),
)
