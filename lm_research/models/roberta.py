"""RoBERTa (Liu et al., 2019): BERT without pairs, whose positions begin after that of padding."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn

from lm_research.layers.kernels import Kernel
from lm_research.layers.mlp import Activation
from lm_research.layers.stack import Execution, Remat
from lm_research.models import encoder
from lm_research.models.family import Family
from lm_research.models.heads import Pooler
from lm_research.models.transformer import Transformer

SIZES = {"base": (768, 12, 12), "large": (1024, 24, 16)}  # width, layers, heads


def RoBERTa(
    vocab: int,
    width: int = 768,
    layers: int = 12,
    heads: int = 12,
    hidden: int | None = None,
    context: int = 512,
    offset: int = 2,
    types: int = 1,
    activation: Activation = "gelu",
    head: bool = True,
    pooler: bool = False,
    epsilon: float = 1e-5,
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
    deviation: float = 0.02,
    dtype: Literal["float32", "bfloat16"] = "float32",
    execution: Execution = "auto",
    remat: Remat = "none",
    kernel: Kernel = "auto",
) -> Transformer:
    """A RoBERTa.

    Args:
      vocab: V.
      width, layers, heads, hidden: D, L, N and F; the head size is D / N, and F None is 4 D.
      context: how many positions there are.
      offset: rows of the table of positions before the first one: the id of padding, plus 1.
      types: how many types of tokens.
      head: whether there is a vocabulary head.
      pooler: whether the first hidden state is pooled.
      epsilon: of the norms.
      dropout: rate on embeddings and on what blocks add to the stream.
      attention_dropout: rate on the weights that attention gives to keys.
      deviation: of the initial weights.
      dtype: of the products' operands.

    Raises:
      ValueError: the width is not a multiple of the heads.
    """
    pooling = Pooler(initializer=nn.initializers.normal(deviation), dtype=dtype)
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
        offset=offset,
        head=head,
        head_activation="gelu",
        pooler=pooling if pooler else None,
    )


def _section(config: Mapping[str, Any]) -> dict[str, Any]:
    offset = config["pad_token_id"] + 1
    return {"context": config["max_position_embeddings"] - offset, "offset": offset}


def _config(section: Mapping[str, Any]) -> dict[str, Any]:
    rows = section["context"] + section["offset"]
    return {"max_position_embeddings": rows, "pad_token_id": section["offset"] - 1}


TRUNK = encoder.trunk("roberta.")
POOLER = encoder.pooling("roberta.")
HEAD = encoder.prediction(
    dense="lm_head.dense", norm="lm_head.layer_norm", decoder="lm_head.decoder", bias="lm_head.bias"
)

MASKED = Family(
    kind="RoBERTa",
    model_type="roberta",
    architecture="RobertaForMaskedLM",
    rows=(*TRUNK, *HEAD),
    names=encoder.NAMES,
    recorded=encoder.RECORDED,
    section=_section,
    config=_config,
    defaults={**encoder.DEFAULTS, "vocab_size": 50265, "pad_token_id": 1},
    fixed=encoder.FIXED,
    inert=encoder.INERT,
    prefix="roberta.",
    buffers=encoder.BUFFERS,
    spellings=encoder.SPELLINGS,
    doubles={"lm_head.decoder.bias": "lm_head.bias"},
)
POOLED = dataclasses.replace(
    MASKED,
    architecture="RobertaModel",
    rows=(*TRUNK, *POOLER),
    options={"head": False, "pooler": True},
)
BARE = dataclasses.replace(POOLED, rows=TRUNK, options={"head": False})

FAMILIES = (MASKED, POOLED, BARE)
