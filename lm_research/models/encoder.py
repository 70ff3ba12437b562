"""`encoder`: BERT's blocks and head, and their Hugging Face names, which several families share."""

from typing import Literal

import flax.linen as nn

from lm_research.layers import MLP, Attention, Block, LayerNorm, Learned, Repeated, Stack
from lm_research.layers.attention import head_size
from lm_research.layers.einsum import normal_products
from lm_research.layers.kernels import Kernel
from lm_research.layers.mlp import Activation
from lm_research.layers.stack import Execution, Remat
from lm_research.models.family import Row
from lm_research.models.heads import Detector, HeadTransform, Pooler
from lm_research.models.transformer import Transformer


def encoder(
    vocab: int,
    width: int,
    layers: int,
    heads: int,
    *,
    hidden: int | None,
    context: int,
    types: int,
    activation: Activation,
    epsilon: float,
    dropout: float,
    attention_dropout: float,
    deviation: float,
    dtype: Literal["float32", "bfloat16"],
    execution: Execution,
    remat: Remat,
    kernel: Kernel,
    offset: int = 0,
    embedding_width: int | None = None,
    head: bool = True,
    head_activation: Activation | None = None,
    pooler: Pooler | None = None,
    detector: Detector | None = None,
    shared: int | None = None,
) -> Transformer:
    """A Transformer whose tokens see each other, with a norm after each part (Devlin et al., 2019).

    Args:
      vocab: V.
      width, layers, heads, hidden: D, L, N and F; the head size is D / N, and F None is 4 D.
      context: how many positions there are.
      types: how many types of tokens.
      activation: of the MLPs.
      epsilon: of the norms.
      dropout: rate on embeddings and on what blocks add to the stream.
      attention_dropout: rate on the weights that attention gives to keys.
      deviation: of the initial weights.
      dtype: of the products' operands.
      offset: rows of the table of positions before the first one.
      embedding_width: C, from which a product makes D; None is D itself.
      head: whether there is a vocabulary head, which transforms hidden states and has a bias.
      head_activation: of that transform; None is that of the MLPs.
      pooler: reads the first hidden state.
      detector: tells of each token whether it was replaced.
      shared: how many layers after one another share their parameters; None is that none do.

    Raises:
      ValueError: the width is not a multiple of the heads, or the layers are not one of `shared`.
    """
    if layers % (shared or 1):
        raise ValueError(f"{layers} layers do not divide into groups of {shared}")
    normal = nn.initializers.normal(deviation)
    products = normal_products(deviation, dtype)
    attention = Attention(
        heads,
        heads,
        head_size(width, heads),
        bias=True,
        out_bias=True,
        dropout=attention_dropout,
        kernel=kernel,
        **products,
    )
    mlp = MLP(hidden or 4 * width, activation, **products)
    block = Block(attention, mlp, LayerNorm(epsilon), wiring="post", dropout=dropout)
    if shared is not None:  # saves activations within what it repeats
        block, layers, remat = Repeated(block, shared, execution, remat), layers // shared, "none"
    letter = "D" if embedding_width is None else "C"
    transform = HeadTransform(
        head_activation or activation, epsilon, initializer=normal, dtype=dtype
    )
    return Transformer(
        vocab,
        width,
        Stack(layers, (block,), execution, remat),
        position=Learned(context, deviation, offset, letter),
        causal=False,
        dropout=dropout,
        deviation=deviation,
        dtype=dtype,
        types=types,
        embedding_norm=LayerNorm(epsilon, letter=letter),
        embedding_width=embedding_width,
        predicts=head,
        transform=transform if head else None,
        head_bias=head,
        pooler=pooler,
        detector=detector,
    )


def trunk(prefix: str, letter: str = "D") -> tuple[Row, ...]:
    """The tensors of embeddings, as wide as `letter`, and blocks as BERT and its kind call them."""
    embeddings, layer = f"{prefix}embeddings.", f"{prefix}encoder.layer.{{L}}."
    return (
        Row("embedding/table", f"{embeddings}word_embeddings.weight", f"V{letter}"),
        Row("position/table", f"{embeddings}position_embeddings.weight", f"T{letter}"),
        Row("type_embedding/table", f"{embeddings}token_type_embeddings.weight", f"_{letter}"),
        Row("embedding_norm/scale", f"{embeddings}LayerNorm.weight", letter),
        Row("embedding_norm/bias", f"{embeddings}LayerNorm.bias", letter),
        Row("stack/blocks/attention/query/kernel", f"{layer}attention.self.query.weight", "(NH)D"),
        Row("stack/blocks/attention/query/bias", f"{layer}attention.self.query.bias", "(NH)"),
        Row("stack/blocks/attention/key/kernel", f"{layer}attention.self.key.weight", "(KH)D"),
        Row("stack/blocks/attention/key/bias", f"{layer}attention.self.key.bias", "(KH)"),
        Row("stack/blocks/attention/value/kernel", f"{layer}attention.self.value.weight", "(KH)D"),
        Row("stack/blocks/attention/value/bias", f"{layer}attention.self.value.bias", "(KH)"),
        Row("stack/blocks/attention/out/kernel", f"{layer}attention.output.dense.weight", "D(NH)"),
        Row("stack/blocks/attention/out/bias", f"{layer}attention.output.dense.bias", "D"),
        Row("stack/blocks/attention_norm/scale", f"{layer}attention.output.LayerNorm.weight", "D"),
        Row("stack/blocks/attention_norm/bias", f"{layer}attention.output.LayerNorm.bias", "D"),
        Row("stack/blocks/mlp/up/kernel", f"{layer}intermediate.dense.weight", "FD"),
        Row("stack/blocks/mlp/up/bias", f"{layer}intermediate.dense.bias", "F"),
        Row("stack/blocks/mlp/down/kernel", f"{layer}output.dense.weight", "DF"),
        Row("stack/blocks/mlp/down/bias", f"{layer}output.dense.bias", "D"),
        Row("stack/blocks/mlp_norm/scale", f"{layer}output.LayerNorm.weight", "D"),
        Row("stack/blocks/mlp_norm/bias", f"{layer}output.LayerNorm.bias", "D"),
    )


def pooling(prefix: str) -> tuple[Row, ...]:
    """The tensors of a pooler."""
    return (
        Row("pooler/dense/kernel", f"{prefix}pooler.dense.weight", "CD"),
        Row("pooler/dense/bias", f"{prefix}pooler.dense.bias", "C"),
    )


def prediction(dense: str, norm: str, decoder: str, bias: str) -> tuple[Row, ...]:
    """The tensors of a vocabulary head, given what theirs is called."""
    return (
        Row("transform/kernel", f"{dense}.weight", "CD"),
        Row("transform/bias", f"{dense}.bias", "C"),
        Row("transform/norm_scale", f"{norm}.weight", "C"),
        Row("transform/norm_bias", f"{norm}.bias", "C"),
        Row("head_bias", bias, "V"),
        Row("head/table", f"{decoder}.weight", "VD", tied="embedding/table"),
    )


# What configs call our options: BERT's, RoBERTa's, ALBERT's and ELECTRA's.
NAMES = {
    "vocab": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "hidden": "intermediate_size",
    "context": "max_position_embeddings",
    "types": "type_vocab_size",
    "activation": "hidden_act",
    "epsilon": "layer_norm_eps",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
}
RECORDED = {"initializer_range": "deviation"}
DEFAULTS = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}
FIXED = {
    "is_decoder": False,
    "add_cross_attention": False,
    "position_embedding_type": "absolute",
    "tie_word_embeddings": True,
}
# Initial weights, how memory is saved, and what heads of other architectures take.
INERT = ("initializer_range", "gradient_checkpointing", "classifier_dropout")
# Old files call a norm's parameters so, and hold a tied tensor twice, and the numbers of positions.
SPELLINGS = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
BUFFERS = (r"embeddings\.(position|token_type)_ids",)
