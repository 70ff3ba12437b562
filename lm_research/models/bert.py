"""BERT (Devlin et al., 2019): an encoder with learned positions and a norm after each part."""

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

SIZES = {  # width, layers, heads: the first four are Turc et al.'s (2019)
    "tiny": (128, 2, 2),
    "mini": (256, 4, 4),
    "small": (512, 4, 8),
    "medium": (512, 8, 8),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}


def BERT(
    vocab: int,
    width: int = 768,
    layers: int = 12,
    heads: int = 12,
    hidden: int | None = None,
    context: int = 512,
    types: int = 2,
    activation: Activation = "gelu",
    head: bool = True,
    pooler: bool = False,
    pair: bool = False,
    epsilon: float = 1e-12,
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
    deviation: float = 0.02,
    dtype: Literal["float32", "bfloat16"] = "float32",
    execution: Execution = "auto",
    remat: Remat = "none",
    kernel: Kernel = "auto",
) -> Transformer:
    """A BERT.

    Args:
      vocab: V.
      width, layers, heads, hidden: D, L, N and F; the head size is D / N, and F None is 4 D.
      context: how many positions there are.
      types: how many types of tokens: the two texts of a pair.
      head: whether there is a vocabulary head.
      pooler: whether the first hidden state is pooled.
      pair: whether there is a classifier of pairs, and a pooler for it.
      epsilon: of the norms.
      dropout: rate on embeddings and on what blocks add to the stream.
      attention_dropout: rate on the weights that attention gives to keys.
      deviation: of the initial weights.
      dtype: of the products' operands.

    Raises:
      ValueError: the width is not a multiple of the heads.
    """
    pooling = Pooler(pair, initializer=nn.initializers.normal(deviation), dtype=dtype)
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
        head=head,
        pooler=pooling if pooler or pair else None,
    )


TRUNK = encoder.trunk("bert.")
POOLER = encoder.pooling("bert.")
HEAD = encoder.prediction(
    dense="cls.predictions.transform.dense",
    norm="cls.predictions.transform.LayerNorm",
    decoder="cls.predictions.decoder",
    bias="cls.predictions.bias",
)
PAIR = (
    Row("pooler/kernel", "cls.seq_relationship.weight", "_C"),
    Row("pooler/bias", "cls.seq_relationship.bias", "_"),
)

MASKED = Family(
    kind="BERT",
    model_type="bert",
    architecture="BertForMaskedLM",
    rows=(*TRUNK, *HEAD),
    names=encoder.NAMES,
    recorded=encoder.RECORDED,
    defaults=encoder.DEFAULTS,
    fixed=encoder.FIXED,
    # What the pooler of a multilingual BERT in another library took.
    inert=(
        *(*encoder.INERT, "directionality", "pooler_fc_size", "pooler_num_attention_heads"),
        *("pooler_num_fc_layers", "pooler_size_per_head", "pooler_type"),
    ),
    prefix="bert.",
    buffers=encoder.BUFFERS,
    spellings=encoder.SPELLINGS,
    doubles={"cls.predictions.decoder.bias": "cls.predictions.bias"},
)
PRETRAINING = dataclasses.replace(
    MASKED,
    architecture="BertForPreTraining",
    rows=(*TRUNK, *HEAD, *POOLER, *PAIR),
    options={"pair": True},
)
POOLED = dataclasses.replace(
    MASKED,
    architecture="BertModel",
    rows=(*TRUNK, *POOLER),
    options={"head": False, "pooler": True},
)
BARE = dataclasses.replace(POOLED, rows=TRUNK, options={"head": False})

FAMILIES = (MASKED, PRETRAINING, POOLED, BARE)
