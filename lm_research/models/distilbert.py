"""DistilBERT (Sanh et al., 2019): every second layer of BERT, without types and pooler."""

import dataclasses
from typing import Literal

from lm_research.layers.kernels import Kernel
from lm_research.layers.mlp import Activation
from lm_research.layers.stack import Execution, Remat
from lm_research.models import encoder
from lm_research.models.family import Family, Row
from lm_research.models.transformer import Transformer

SIZES = {"base": (768, 6, 12)}  # width, layers, heads
EPSILON = 1e-12  # of all norms; no option of theirs


def DistilBERT(
    vocab: int,
    width: int = 768,
    layers: int = 6,
    heads: int = 12,
    hidden: int | None = None,
    context: int = 512,
    activation: Activation = "gelu",
    head: bool = True,
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
    deviation: float = 0.02,
    dtype: Literal["float32", "bfloat16"] = "float32",
    execution: Execution = "auto",
    remat: Remat = "none",
    kernel: Kernel = "auto",
) -> Transformer:
    """A DistilBERT.

    Args:
      vocab: V.
      width, layers, heads, hidden: D, L, N and F; the head size is D / N, and F None is 4 D.
      context: how many positions there are.
      head: whether there is a vocabulary head.
      dropout: rate on embeddings and on what blocks add to the stream.
      attention_dropout: rate on the weights that attention gives to keys.
      deviation: of the initial weights.
      dtype: of the products' operands.

    Raises:
      ValueError: the width is not a multiple of the heads.
    """
    return encoder.encoder(
        vocab,
        width,
        layers,
        heads,
        hidden=hidden,
        context=context,
        types=0,
        activation=activation,
        epsilon=EPSILON,
        dropout=dropout,
        attention_dropout=attention_dropout,
        deviation=deviation,
        dtype=dtype,
        execution=execution,
        remat=remat,
        kernel=kernel,
        head=head,
    )


NAMES = {
    "vocab": "vocab_size",
    "width": "dim",
    "layers": "n_layers",
    "heads": "n_heads",
    "hidden": "hidden_dim",
    "context": "max_position_embeddings",
    "activation": "activation",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
}
EMBEDDINGS, LAYER = "distilbert.embeddings.", "distilbert.transformer.layer.{L}."
TRUNK = (
    Row("embedding/table", f"{EMBEDDINGS}word_embeddings.weight", "VD"),
    Row("position/table", f"{EMBEDDINGS}position_embeddings.weight", "TD"),
    Row("embedding_norm/scale", f"{EMBEDDINGS}LayerNorm.weight", "D"),
    Row("embedding_norm/bias", f"{EMBEDDINGS}LayerNorm.bias", "D"),
    Row("stack/blocks/attention/query/kernel", f"{LAYER}attention.q_lin.weight", "(NH)D"),
    Row("stack/blocks/attention/query/bias", f"{LAYER}attention.q_lin.bias", "(NH)"),
    Row("stack/blocks/attention/key/kernel", f"{LAYER}attention.k_lin.weight", "(KH)D"),
    Row("stack/blocks/attention/key/bias", f"{LAYER}attention.k_lin.bias", "(KH)"),
    Row("stack/blocks/attention/value/kernel", f"{LAYER}attention.v_lin.weight", "(KH)D"),
    Row("stack/blocks/attention/value/bias", f"{LAYER}attention.v_lin.bias", "(KH)"),
    Row("stack/blocks/attention/out/kernel", f"{LAYER}attention.out_lin.weight", "D(NH)"),
    Row("stack/blocks/attention/out/bias", f"{LAYER}attention.out_lin.bias", "D"),
    Row("stack/blocks/attention_norm/scale", f"{LAYER}sa_layer_norm.weight", "D"),
    Row("stack/blocks/attention_norm/bias", f"{LAYER}sa_layer_norm.bias", "D"),
    Row("stack/blocks/mlp/up/kernel", f"{LAYER}ffn.lin1.weight", "FD"),
    Row("stack/blocks/mlp/up/bias", f"{LAYER}ffn.lin1.bias", "F"),
    Row("stack/blocks/mlp/down/kernel", f"{LAYER}ffn.lin2.weight", "DF"),
    Row("stack/blocks/mlp/down/bias", f"{LAYER}ffn.lin2.bias", "D"),
    Row("stack/blocks/mlp_norm/scale", f"{LAYER}output_layer_norm.weight", "D"),
    Row("stack/blocks/mlp_norm/bias", f"{LAYER}output_layer_norm.bias", "D"),
)
HEAD = encoder.prediction(
    dense="vocab_transform",
    norm="vocab_layer_norm",
    decoder="vocab_projector",
    bias="vocab_projector.bias",
)

MASKED = Family(
    kind="DistilBERT",
    model_type="distilbert",
    architecture="DistilBertForMaskedLM",
    rows=(*TRUNK, *HEAD),
    names=NAMES,
    recorded=encoder.RECORDED,
    defaults={
        "vocab_size": 30522,
        "dim": 768,
        "n_layers": 6,
        "n_heads": 12,
        "hidden_dim": 3072,
        "max_position_embeddings": 512,
        "activation": "gelu",
        "dropout": 0.1,
        "attention_dropout": 0.1,
    },
    fixed={"tie_word_embeddings": True},
    # What the positions began as, and what heads of other architectures take.
    inert=("initializer_range", "sinusoidal_pos_embds", "qa_dropout", "seq_classif_dropout")
    + ("tie_weights_",),
    prefix="distilbert.",
    buffers=encoder.BUFFERS,
)
BARE = dataclasses.replace(
    MASKED,
    architecture="DistilBertModel",
    rows=TRUNK,
    options={"head": False},
)

FAMILIES = (MASKED, BARE)
