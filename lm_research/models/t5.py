"""T5 (Raffel et al., 2020), its versions 1.0 and 1.1, and what came of it: Flan-T5 and mT5."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn

from lm_research.errors import UserError
from lm_research.layers import MLP, Attention, Block, GatedMLP, RelativeBias, RMSNorm, Stack
from lm_research.layers.kernels import Kernel
from lm_research.layers.mlp import Activation
from lm_research.layers.stack import Execution, Remat
from lm_research.models.encoder_decoder import EncoderDecoder
from lm_research.models.family import Family, Row, our_activation, their_activation
from lm_research.models.transformer import Transformer

SIZES = {  # width, layers of each stack, heads, head, hidden: of version 1.1, Flan-T5 and mT5
    "small": (512, 8, 6, 64, 1024),
    "base": (768, 12, 12, 64, 2048),
    "large": (1024, 24, 16, 64, 2816),
    "xl": (2048, 24, 32, 64, 5120),
    "xxl": (4096, 24, 64, 64, 10240),
}
FIRST_SIZES = {  # of version 1.0
    "small": (512, 6, 8, 64, 2048),
    "base": (768, 12, 12, 64, 3072),
    "large": (1024, 24, 16, 64, 4096),
    "3b": (1024, 24, 32, 128, 16384),
    "11b": (1024, 24, 128, 128, 65536),
}


def T5(
    vocab: int,
    width: int = 512,
    layers: int = 8,
    decoder_layers: int | None = None,
    heads: int = 6,
    head: int = 64,
    hidden: int = 1024,
    activation: Activation = "gelu_tanh",
    gated: bool = True,
    buckets: int = 32,
    distance: int = 128,
    tied: bool = False,
    scaled: bool | None = None,
    start: int = 0,
    epsilon: float = 1e-6,
    dropout: float = 0.0,
    dtype: Literal["float32", "bfloat16"] = "float32",
    execution: Execution = "auto",
    remat: Remat = "none",
    kernel: Kernel = "auto",
) -> EncoderDecoder:
    """A T5 of version 1.1; of version 1.0 with `relu`, not gated, and tied.

    Args:
      vocab: V.
      width, heads, head: D, N and H, which need not be D / N.
      layers, decoder_layers: L of the encoder and of the decoder; None is as many.
      hidden: F.
      gated: whether the MLP is.
      buckets, distance: see `RelativeBias`; each stack has one, which its layers share.
      tied: whether the head is the embedding table.
      scaled: whether logits are divided by sqrt(D); None is where it is tied.
      start: the token before the first one of a text.
      epsilon: of the norms.
      dropout: rate on embeddings and on what blocks add to the stream.
      dtype: of the products' operands.
    """
    normal = nn.initializers.normal

    def stack(layers: int, causal: bool) -> Transformer:
        # Scores are not scaled: the first queries are small instead.
        attention = dict(
            scale=1.0,
            kernel=kernel,
            initializer=normal(width**-0.5),
            query_initializer=normal((width * head) ** -0.5),
            out_initializer=normal((heads * head) ** -0.5),
            dtype=dtype,
        )
        mlp = dict(
            initializer=normal(width**-0.5), out_initializer=normal(hidden**-0.5), dtype=dtype
        )
        block = Block(
            Attention(heads, heads, head, **attention),
            (GatedMLP if gated else MLP)(hidden, activation, bias=False, **mlp),
            RMSNorm(epsilon),
            dropout=dropout,
            cross=Attention(heads, heads, head, **attention) if causal else None,
        )
        return Transformer(
            vocab,
            width,
            Stack(layers, (block,), execution, remat),
            RMSNorm(epsilon),
            RelativeBias(heads, buckets, distance, not causal, width**-0.5),
            causal=causal,
            tied=tied or not causal,
            head_scale=width**-0.5 if (tied if scaled is None else scaled) else 1.0,
            dropout=dropout,
            deviation=1.0,
            head_deviation=width**-0.5,
            dtype=dtype,
        )

    return EncoderDecoder(stack(layers, False), stack(decoder_layers or layers, True), start)


def _section(config: Mapping[str, Any]) -> dict[str, Any]:
    """Since transformers 5 a config says that weights are tied whether they are or not."""
    gate, _, activation = config["feed_forward_proj"].rpartition("-")
    if gate not in ("", "gated"):
        raise UserError(f"config.json has feed_forward_proj {config['feed_forward_proj']!r}")
    if config["feed_forward_proj"] == "gated-gelu":
        activation = "gelu_new"
    start, tied = config["decoder_start_token_id"], config["tie_word_embeddings"]
    first = tied if config["scale_decoder_outputs"] is None else config["scale_decoder_outputs"]
    return {
        "activation": our_activation(config["dense_act_fn"] or activation),
        "gated": gate == "gated",
        "tied": tied and (first or not config["untied"]),
        "scaled": first,
        "start": config["pad_token_id"] if start is None else start,
    }


def _mt5_section(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**_section(config), "tied": not config["untied"], "scaled": False}


def _config(section: Mapping[str, Any]) -> dict[str, Any]:
    scaled = section["tied"] if section["scaled"] is None else section["scaled"]
    gate, activation = "gated-" if section["gated"] else "", their_activation(section["activation"])
    return {
        "feed_forward_proj": gate + activation,
        "dense_act_fn": activation,  # for to them "gated-gelu" alone is gelu_new
        "scale_decoder_outputs": scaled,
    }


NAMES = {
    "vocab": "vocab_size",
    "width": "d_model",
    "layers": "num_layers",
    "decoder_layers": "num_decoder_layers",
    "heads": "num_heads",
    "head": "d_kv",
    "hidden": "d_ff",
    "buckets": "relative_attention_num_buckets",
    "distance": "relative_attention_max_distance",
    "tied": "tie_word_embeddings",
    "epsilon": "layer_norm_epsilon",
}


def _stack(ours: str, theirs: str, cross: bool) -> tuple[Row, ...]:
    """The rows of one stack."""
    block, name = f"{ours}/stack/blocks", f"{theirs}.block.{{L}}.layer"
    parts = [("attention", f"{name}.0.SelfAttention"), ("attention_norm", f"{name}.0.layer_norm")]
    if cross:
        parts += [("cross", f"{name}.1.EncDecAttention"), ("cross_norm", f"{name}.1.layer_norm")]
    rows = []
    for part, tensor in parts:
        if part.endswith("norm"):
            rows.append(Row(f"{block}/{part}/scale", f"{tensor}.weight", "D"))
            continue
        for product, axes in (("query", "(NH)D"), ("key", "(KH)D"), ("value", "(KH)D")):
            rows.append(
                Row(f"{block}/{part}/{product}/kernel", f"{tensor}.{product[0]}.weight", axes)
            )
        rows.append(Row(f"{block}/{part}/out/kernel", f"{tensor}.o.weight", "D(NH)"))
    mlp = f"{name}.{1 + cross}"
    return (
        *rows,
        Row(f"{block}/mlp_norm/scale", f"{mlp}.layer_norm.weight", "D"),
        Row(f"{block}/mlp/down/kernel", f"{mlp}.DenseReluDense.wo.weight", "DF"),
        Row(
            f"{ours}/position/table",
            f"{theirs}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            "TN",
        ),
        Row(f"{ours}/norm/scale", f"{theirs}.final_layer_norm.weight", "D"),
    )


ROWS = (
    Row("embedding/table", "shared.weight", "VD"),
    Row("encoder/embedding/table", "encoder.embed_tokens.weight", "VD", tied="embedding/table"),
    Row("decoder/embedding/table", "decoder.embed_tokens.weight", "VD", tied="embedding/table"),
    *_stack("encoder", "encoder", cross=False),
    *_stack("decoder", "decoder", cross=True),
    Row("decoder/head/table", "lm_head.weight", "VD", tied="embedding/table"),
)


def _up(**tensors: str) -> tuple[Row, ...]:
    """The rows of what comes before an activation."""
    return tuple(
        Row(
            f"{stack}/stack/blocks/mlp/{ours}/kernel",
            f"{stack}.block.{{L}}.layer.{place}.DenseReluDense.{theirs}.weight",
            "FD",
        )
        for stack, place in (("encoder", 1), ("decoder", 2))
        for ours, theirs in tensors.items()
    )


GATED = Family(
    kind="T5",
    model_type="t5",
    architecture="T5ForConditionalGeneration",
    rows=(*ROWS, *_up(gate="wi_0", up="wi_1")),
    names=NAMES,
    derived=("decoder_layers",),
    recorded={"decoder_start_token_id": "start", "dropout_rate": "dropout"},
    section=_section,
    config=_config,
    defaults={
        "vocab_size": 32128,
        "d_model": 512,
        "num_layers": 6,
        "num_decoder_layers": None,
        "num_heads": 8,
        "d_kv": 64,
        "d_ff": 2048,
        "feed_forward_proj": "relu",
        "dense_act_fn": None,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "tie_word_embeddings": True,
        "scale_decoder_outputs": None,
        "decoder_start_token_id": None,
        "pad_token_id": 0,
        "layer_norm_epsilon": 1e-6,
    },
    fixed={"is_encoder_decoder": True},
    # What feed_forward_proj says, too; the initial weights; dropout, a choice of training; other
    # architectures' heads; how long the texts of pretraining were.
    inert=(
        *("is_gated_act", "initializer_factor", "dropout_rate", "classifier_dropout"),
        *("n_positions", "output_past"),
    ),
    buffers=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
    present={"untied": "lm_head.weight"},
)
PLAIN = dataclasses.replace(GATED, rows=(*ROWS, *_up(up="wi")))
_MT5 = dict(
    model_type="mt5",
    architecture="MT5ForConditionalGeneration",
    section=_mt5_section,
    defaults={
        **GATED.defaults,
        "vocab_size": 250112,
        "num_layers": 8,
        "num_heads": 6,
        "d_ff": 1024,
        "feed_forward_proj": "gated-gelu",
        "decoder_start_token_id": 0,
    },
)
FAMILIES = (
    GATED,
    PLAIN,
    dataclasses.replace(GATED, **_MT5),
    dataclasses.replace(PLAIN, **_MT5),
)
