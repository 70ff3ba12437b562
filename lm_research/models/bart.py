"""BART (Lewis et al., 2020), mBART (Liu et al., 2020) and Marian (Junczys-Dowmunt et al., 2018)."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from lm_research.errors import UserError
from lm_research.layers import MLP, Attention, Block, LayerNorm, Learned, Sinusoidal, Stack
from lm_research.layers.attention import head_size
from lm_research.layers.einsum import normal_products
from lm_research.layers.kernels import Kernel
from lm_research.layers.mlp import Activation
from lm_research.layers.stack import Execution, Remat
from lm_research.models.encoder_decoder import EncoderDecoder
from lm_research.models.family import Family, Row
from lm_research.models.transformer import Transformer

SIZES = {  # width, layers of each stack, heads, hidden
    "base": (768, 6, 12, 3072),
    "large": (1024, 12, 16, 4096),  # mBART's, too
    "marian": (512, 6, 8, 2048),
}
OFFSET = 2  # rows of a position table before the first position's


def BART(
    vocab: int,
    width: int = 768,
    layers: int = 6,
    decoder_layers: int | None = None,
    heads: int = 12,
    hidden: int | None = None,
    context: int = 1024,
    activation: Activation = "gelu",
    norm_first: bool = False,
    embedding_norm: bool = True,
    embedding_scale: bool = False,
    sinusoidal: bool = False,
    head_bias: bool = False,
    start: int = 2,
    first: int | None = None,
    epsilon: float = 1e-5,
    dropout: float = 0.0,
    deviation: float = 0.02,
    dtype: Literal["float32", "bfloat16"] = "float32",
    execution: Execution = "auto",
    remat: Remat = "none",
    kernel: Kernel = "auto",
) -> EncoderDecoder:
    """A BART; with `norm_first` an mBART, with `sinusoidal` and no `embedding_norm` a Marian.

    Args:
      vocab: V.
      width, heads: D and N; the head size is D / N.
      layers, decoder_layers: L of the encoder and of the decoder; None is as many.
      hidden: F; None is 4 D.
      context: how many positions there are, where they are learned.
      norm_first: whether norms come before each part, and after the last one, instead of after
        each sum.
      embedding_norm: whether embeddings are normalised.
      embedding_scale: whether they are multiplied by sqrt(D).
      sinusoidal: whether positions are sines and cosines instead of learned.
      head_bias: whether logits have a bias.
      start: the token before the first one of a text.
      first: the first token of any text that is generated, such as its language; None is free.
      epsilon: of the norms.
      dropout: rate on embeddings and on what blocks add to the stream.
      deviation: of the initial weights.
      dtype: of the products' operands.

    Raises:
      ValueError: the width is not a multiple of the heads.
    """
    shared = normal_products(deviation, dtype)

    def attention() -> Attention:
        return Attention(heads, heads, head_size(width, heads), True, True, kernel=kernel, **shared)

    def stack(layers: int, causal: bool) -> Transformer:
        block = Block(
            attention(),
            MLP(hidden or 4 * width, activation, **shared),
            LayerNorm(epsilon),
            wiring="pre" if norm_first else "post",
            dropout=dropout,
            cross=attention() if causal else None,
        )
        return Transformer(
            vocab,
            width,
            Stack(layers, (block,), execution, remat),
            LayerNorm(epsilon) if norm_first else None,
            Sinusoidal(halves=True) if sinusoidal else Learned(context, deviation, OFFSET),
            causal=causal,
            embedding_scale=math.sqrt(width) if embedding_scale else 1.0,
            embedding_norm=LayerNorm(epsilon) if embedding_norm else None,
            head_bias=head_bias and causal,
            dropout=dropout,
            deviation=deviation,
            dtype=dtype,
        )

    stacks = stack(layers, causal=False), stack(decoder_layers or layers, causal=True)
    return EncoderDecoder(*stacks, start, first)


def _section(config: Mapping[str, Any]) -> dict[str, Any]:
    for name in ("attention_heads", "ffn_dim"):
        one, other = config[f"encoder_{name}"], config[f"decoder_{name}"]
        if one != other:
            raise UserError(
                f"config.json has encoder_{name} {one} and decoder_{name} {other}; "
                "it takes the same for both"
            )
    # Where a config has no start, as many of mBART's, a text's end stands for it.
    start, first = config["decoder_start_token_id"], config["forced_bos_token_id"]
    if first is None and config["force_bos_token_to_be_generated"]:
        first = config["bos_token_id"]
    return {"start": config["eos_token_id"] if start is None else start, "first": first}


def _marian_section(config: Mapping[str, Any]) -> dict[str, Any]:
    if config["decoder_vocab_size"] not in (None, config["vocab_size"]):
        raise UserError(
            f"config.json has decoder_vocab_size {config['decoder_vocab_size']} beside vocab_size "
            f"{config['vocab_size']}; it takes one vocabulary for both"
        )
    return _section(config)


NAMES = {
    "vocab": "vocab_size",
    "width": "d_model",
    "layers": "encoder_layers",
    "decoder_layers": "decoder_layers",
    "heads": "encoder_attention_heads",
    "hidden": "encoder_ffn_dim",
    "context": "max_position_embeddings",
    "activation": "activation_function",
    "embedding_scale": "scale_embedding",
}
RECORDED = {
    "decoder_attention_heads": "heads",
    "decoder_ffn_dim": "hidden",
    "decoder_start_token_id": "start",
    "forced_bos_token_id": "first",
    "dropout": "dropout",
    "init_std": "deviation",
}


def _norm(ours: str, theirs: str) -> tuple[Row, ...]:
    return Row(f"{ours}/scale", f"{theirs}.weight", "D"), Row(f"{ours}/bias", f"{theirs}.bias", "D")


def _layers(stack: str) -> tuple[Row, ...]:
    """The rows of one stack's blocks."""
    ours, theirs = f"{stack}/stack/blocks", f"model.{stack}.layers.{{L}}"
    parts = {"attention": "self_attn"}
    if stack == "decoder":
        parts["cross"] = "encoder_attn"
    rows = []
    for part, tensor in parts.items():
        for product, name, axes in (
            ("query", "q_proj", "(NH)"),
            ("key", "k_proj", "(KH)"),
            ("value", "v_proj", "(KH)"),
        ):
            path, module = f"{ours}/{part}/{product}", f"{theirs}.{tensor}.{name}"
            rows += [Row(f"{path}/kernel", f"{module}.weight", f"{axes}D")]
            rows += [Row(f"{path}/bias", f"{module}.bias", axes)]
        path, module = f"{ours}/{part}/out", f"{theirs}.{tensor}.out_proj"
        rows += [Row(f"{path}/kernel", f"{module}.weight", "D(NH)")]
        rows += [Row(f"{path}/bias", f"{module}.bias", "D")]
        rows += _norm(f"{ours}/{part}_norm", f"{theirs}.{tensor}_layer_norm")
    return (
        *rows,
        Row(f"{ours}/mlp/up/kernel", f"{theirs}.fc1.weight", "FD"),
        Row(f"{ours}/mlp/up/bias", f"{theirs}.fc1.bias", "F"),
        Row(f"{ours}/mlp/down/kernel", f"{theirs}.fc2.weight", "DF"),
        Row(f"{ours}/mlp/down/bias", f"{theirs}.fc2.bias", "D"),
        *_norm(f"{ours}/mlp_norm", f"{theirs}.final_layer_norm"),
    )


STACKS = ("encoder", "decoder")
SHARED = (
    Row("embedding/table", "model.shared.weight", "VD"),
    *(
        Row(
            f"{stack}/embedding/table",
            f"model.{stack}.embed_tokens.weight",
            "VD",
            "embedding/table",
        )
        for stack in STACKS
    ),
    *(row for stack in STACKS for row in _layers(stack)),
)
EMBEDDED = tuple(  # what Marian lacks
    row
    for stack in STACKS
    for row in (
        Row(f"{stack}/position/table", f"model.{stack}.embed_positions.weight", "TD"),
        *_norm(f"{stack}/embedding_norm", f"model.{stack}.layernorm_embedding"),
    )
)
LAST = tuple(row for stack in STACKS for row in _norm(f"{stack}/norm", f"model.{stack}.layer_norm"))
BIAS = Row("decoder/head_bias", "final_logits_bias", "1V")

_BART = Family(
    kind="BART",
    model_type="bart",
    architecture="BartForConditionalGeneration",
    rows=(*SHARED, *EMBEDDED, BIAS),
    names=NAMES,
    options={"head_bias": True},
    recorded=RECORDED,
    section=_section,
    config=lambda section: {"forced_eos_token_id": None, "attention_dropout": 0.0},
    defaults={
        "vocab_size": 50265,
        "d_model": 1024,
        "encoder_layers": 12,
        "decoder_layers": 12,
        "encoder_attention_heads": 16,
        "decoder_attention_heads": 16,
        "encoder_ffn_dim": 4096,
        "decoder_ffn_dim": 4096,
        "max_position_embeddings": 1024,
        "activation_function": "gelu",
        "scale_embedding": False,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_bos_token_id": None,
        "force_bos_token_to_be_generated": False,
    },
    # What older configs say of the architecture, and theirs of today do not ask.
    fixed={
        "is_encoder_decoder": True,
        "tie_word_embeddings": True,
        "normalize_before": False,
        "normalize_embedding": True,
        "add_final_layer_norm": False,
        "add_bias_logits": False,
        "static_position_embeddings": False,
    },
    inert=(
        # Dropout, a choice of training; the initial weights; other architectures' heads.
        *("dropout", "attention_dropout", "activation_dropout", "classifier_dropout"),
        *("classif_dropout", "encoder_layerdrop", "decoder_layerdrop", "init_std"),
        *("num_hidden_layers", "extra_pos_embeddings", "gradient_checkpointing", "output_past"),
        # How their `generate` searches, unless it is told otherwise.
        *("forced_eos_token_id", "num_beams", "early_stopping", "length_penalty", "max_length"),
        *("min_length", "no_repeat_ngram_size", "bad_words_ids"),
    ),
    prefix="model.",
    buffers=("(en|de)coder\\.version",),  # in older files
    doubles={"lm_head.weight": "model.shared.weight"},
)


def _trunk(family: Family, architecture: str) -> Family:
    """Without the head's bias, which files of a bare trunk lack; the head itself is tied."""
    return dataclasses.replace(
        family,
        architecture=architecture,
        saved=False,  # but with a bias of zeros
        rows=tuple(row for row in family.rows if row is not BIAS),
        options={**family.options, "head_bias": False},
    )


_MBART = dataclasses.replace(
    _BART,
    model_type="mbart",
    architecture="MBartForConditionalGeneration",
    rows=(*SHARED, *EMBEDDED, *LAST, BIAS),
    options={"head_bias": True, "norm_first": True},
    defaults={**_BART.defaults, "decoder_start_token_id": None},
    fixed={**_BART.fixed, "normalize_before": True, "add_final_layer_norm": True},
)
_MARIAN = dataclasses.replace(
    _BART,
    model_type="marian",
    architecture="MarianMTModel",
    rows=(*SHARED, BIAS),
    options={"head_bias": True, "embedding_norm": False, "sinusoidal": True},
    section=_marian_section,
    defaults={
        **_BART.defaults,
        "vocab_size": 58101,
        "decoder_vocab_size": None,
        "bos_token_id": None,
        "eos_token_id": 0,
        "decoder_start_token_id": 58100,
    },
    fixed={
        **_BART.fixed,
        "normalize_embedding": False,
        "static_position_embeddings": True,
        "share_encoder_decoder_embeddings": True,
    },
    buffers=(*_BART.buffers, r"(en|de)coder\.embed_positions\.weight"),
)
FAMILIES = (
    _BART,
    _trunk(_BART, "BartModel"),
    _MBART,
    _trunk(_MBART, "MBartModel"),
    _MARIAN,
    _trunk(_MARIAN, "MarianModel"),
)
