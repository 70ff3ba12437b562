"""ALBERT (Lan et al., 2020): BERT with shared layers, a factorised embedding and sentence order."""

import dataclasses
from typing import Literal

import flax.linen as nn

from lm_research.layers.kernels import Kernel
from lm_research.layers.mlp import Activation
from lm_research.layers.stack import Execution, Remat
from lm_research.models import encoder
from lm_research.models.family import Family, Row
from lm_research.models.heads import Pooler
from lm_research.models.transformer import Transformer

SIZES = {  # width, layers, heads
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "xlarge": (2048, 24, 16),
    "xxlarge": (4096, 12, 64),
}


def ALBERT(
    vocab: int,
    width: int = 768,
    layers: int = 12,
    heads: int = 12,
    hidden: int | None = None,
    embedding: int = 128,
    groups: int = 1,
    context: int = 512,
    types: int = 2,
    activation: Activation = "gelu_tanh",
    head: bool = True,
    pooler: bool = False,
    pair: bool = False,
    epsilon: float = 1e-12,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    pair_dropout: float = 0.1,
    deviation: float = 0.02,
    dtype: Literal["float32", "bfloat16"] = "float32",
    execution: Execution = "auto",
    remat: Remat = "none",
    kernel: Kernel = "auto",
) -> Transformer:
    """An ALBERT.

    Args:
      vocab: V.
      width, layers, heads, hidden: D, L, N and F; the head size is D / N, and F None is 4 D.
      embedding: C, the width of embeddings.
      groups: layers after one another that share their parameters are one.
      context: how many positions there are.
      types: how many types of tokens: the two texts of a pair.
      head: whether there is a vocabulary head.
      pooler: whether the first hidden state is pooled.
      pair: whether there is a classifier of pairs, and a pooler for it.
      epsilon: of the norms.
      dropout: rate on embeddings and on what blocks add to the stream.
      attention_dropout: rate on the weights that attention gives to keys.
      pair_dropout: rate on what the classifier of pairs reads.
      deviation: of the initial weights.
      dtype: of the products' operands.

    Raises:
      ValueError: the width is not a multiple of the heads, or the layers are not one of the groups.
    """
    if layers % groups:
        raise ValueError(f"layers {layers} is not a multiple of groups {groups}")
    normal = nn.initializers.normal(deviation)
    pooling = Pooler(pair, pair_dropout, normal, dtype)
    return encoder.encoder(
        vocab,
        width,
        layers,
        heads,
        hidden=hidden,
        context=context,
        types=types,
        activation=activation,
        epsilon=epsilon,
        dropout=dropout,
        attention_dropout=attention_dropout,
        deviation=deviation,
        dtype=dtype,
        execution=execution,
        remat=remat,
        kernel=kernel,
        embedding_width=embedding,
        head=head,
        pooler=pooling if pooler or pair else None,
        shared=layers // groups,
    )


NAMES = {
    **encoder.NAMES,
    "embedding": "embedding_size",
    "groups": "num_hidden_groups",
    "pair_dropout": "classifier_dropout_prob",
}
EMBEDDINGS = "albert.embeddings."
LAYER = "albert.encoder.albert_layer_groups.{L}.albert_layers.0."
BLOCK = "stack/blocks/block/"
TRUNK = (
    Row("embedding/table", f"{EMBEDDINGS}word_embeddings.weight", "VC"),
    Row("position/table", f"{EMBEDDINGS}position_embeddings.weight", "TC"),
    Row("type_embedding/table", f"{EMBEDDINGS}token_type_embeddings.weight", "_C"),
    Row("embedding_norm/scale", f"{EMBEDDINGS}LayerNorm.weight", "C"),
    Row("embedding_norm/bias", f"{EMBEDDINGS}LayerNorm.bias", "C"),
    Row("widening/kernel", "albert.encoder.embedding_hidden_mapping_in.weight", "DC"),
    Row("widening/bias", "albert.encoder.embedding_hidden_mapping_in.bias", "D"),
    Row(f"{BLOCK}attention/query/kernel", f"{LAYER}attention.query.weight", "(NH)D"),
    Row(f"{BLOCK}attention/query/bias", f"{LAYER}attention.query.bias", "(NH)"),
    Row(f"{BLOCK}attention/key/kernel", f"{LAYER}attention.key.weight", "(KH)D"),
    Row(f"{BLOCK}attention/key/bias", f"{LAYER}attention.key.bias", "(KH)"),
    Row(f"{BLOCK}attention/value/kernel", f"{LAYER}attention.value.weight", "(KH)D"),
    Row(f"{BLOCK}attention/value/bias", f"{LAYER}attention.value.bias", "(KH)"),
    Row(f"{BLOCK}attention/out/kernel", f"{LAYER}attention.dense.weight", "D(NH)"),
    Row(f"{BLOCK}attention/out/bias", f"{LAYER}attention.dense.bias", "D"),
    Row(f"{BLOCK}attention_norm/scale", f"{LAYER}attention.LayerNorm.weight", "D"),
    Row(f"{BLOCK}attention_norm/bias", f"{LAYER}attention.LayerNorm.bias", "D"),
    Row(f"{BLOCK}mlp/up/kernel", f"{LAYER}ffn.weight", "FD"),
    Row(f"{BLOCK}mlp/up/bias", f"{LAYER}ffn.bias", "F"),
    Row(f"{BLOCK}mlp/down/kernel", f"{LAYER}ffn_output.weight", "DF"),
    Row(f"{BLOCK}mlp/down/bias", f"{LAYER}ffn_output.bias", "D"),
    Row(f"{BLOCK}mlp_norm/scale", f"{LAYER}full_layer_layer_norm.weight", "D"),
    Row(f"{BLOCK}mlp_norm/bias", f"{LAYER}full_layer_layer_norm.bias", "D"),
)
POOLER = (
    Row("pooler/dense/kernel", "albert.pooler.weight", "CD"),
    Row("pooler/dense/bias", "albert.pooler.bias", "C"),
)
HEAD = encoder.prediction(
    dense="predictions.dense",
    norm="predictions.LayerNorm",
    decoder="predictions.decoder",
    bias="predictions.bias",
)
PAIR = (
    Row("pooler/kernel", "sop_classifier.classifier.weight", "_C"),
    Row("pooler/bias", "sop_classifier.classifier.bias", "_"),
)

MASKED = Family(
    kind="ALBERT",
    model_type="albert",
    architecture="AlbertForMaskedLM",
    rows=(*TRUNK, *HEAD),
    names=NAMES,
    recorded=encoder.RECORDED,
    defaults={
        **encoder.DEFAULTS,
        "vocab_size": 30000,
        "embedding_size": 128,
        "hidden_size": 4096,
        "num_hidden_groups": 1,
        "num_attention_heads": 64,
        "intermediate_size": 16384,
        "hidden_act": "gelu_new",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "classifier_dropout_prob": 0.1,
    },
    fixed={**encoder.FIXED, "inner_group_num": 1},
    # What the authors' own library took.
    inert=(
        *("initializer_range", "down_scale_factor", "gap_size"),
        *("net_structure_type", "num_memory_blocks", "layers_to_keep"),
    ),
    prefix="albert.",
    buffers=encoder.BUFFERS,
    doubles={"predictions.decoder.bias": "predictions.bias"},
)
PRETRAINING = dataclasses.replace(
    MASKED,
    architecture="AlbertForPreTraining",
    rows=(*TRUNK, *HEAD, *POOLER, *PAIR),
    options={"pair": True},
)
POOLED = dataclasses.replace(
    MASKED,
    architecture="AlbertModel",
    rows=(*TRUNK, *POOLER),
    options={"head": False, "pooler": True},
)
BARE = dataclasses.replace(POOLED, rows=TRUNK, options={"head": False})

FAMILIES = (MASKED, PRETRAINING, POOLED, BARE)
