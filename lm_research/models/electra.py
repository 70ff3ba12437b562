"""ELECTRA (Clark et al., 2020): a large encoder finds the tokens that a small one has replaced."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax

from lm_research.layers import Output
from lm_research.layers.kernels import Kernel
from lm_research.layers.mlp import Activation
from lm_research.layers.stack import Execution, Remat
from lm_research.models import encoder
from lm_research.models.family import Family, Row
from lm_research.models.heads import Detector
from lm_research.models.transformer import Table, Transformer

Array = jax.Array
Half = Literal["generator", "discriminator"]

SIZES = {  # width, layers, heads, embedding, and the generator's width and heads
    "small": (256, 12, 4, 128, 64, 1),
    "base": (768, 12, 12, 768, 256, 4),
    "large": (1024, 24, 16, 1024, 256, 4),
}


def ELECTRA(
    vocab: int,
    width: int = 256,
    layers: int = 12,
    heads: int = 4,
    hidden: int | None = None,
    embedding: int | None = None,
    context: int = 512,
    types: int = 2,
    activation: Activation = "gelu",
    head: bool = False,
    detector: bool = True,
    epsilon: float = 1e-12,
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
    deviation: float = 0.02,
    dtype: Literal["float32", "bfloat16"] = "float32",
    execution: Execution = "auto",
    remat: Remat = "none",
    kernel: Kernel = "auto",
) -> Transformer:
    """One half of an ELECTRA: by default the discriminator, which is the one to go on with.

    Args:
      vocab: V.
      width, layers, heads, hidden: D, L, N and F; the head size is D / N, and F None is 4 D.
      embedding: C, the width of embeddings; None is D.
      context: how many positions there are.
      types: how many types of tokens.
      head: whether there is a generator's vocabulary head.
      detector: whether there is a discriminator's head.
      epsilon: of the norms.
      dropout: rate on embeddings and on what blocks add to the stream.
      attention_dropout: rate on the weights that attention gives to keys.
      deviation: of the initial weights.
      dtype: of the products' operands.

    Raises:
      ValueError: the width is not a multiple of the heads.
    """
    detects = Detector(activation, nn.initializers.normal(deviation), dtype)
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
        embedding_width=None if embedding == width else embedding,
        head=head,
        head_activation="gelu",
        detector=detects if detector else None,
    )


class Halves(nn.Module):
    """Two encoders with the same embeddings.

    Attributes:
      generating, detecting: the halves, as they are by themselves.
    """

    generating: Transformer
    detecting: Transformer

    @nn.compact
    def __call__(self, tokens: Array, *, half: Half = "generator", **given: Any) -> Output:
        """What one half says of tokens [B, T]; by default the one that predicts them.

        Args:
          tokens: ids.
          half: which.
          **given: what a `Transformer` takes.
        """
        large = self.detecting
        width = large.embedding_width or large.width
        letter = "D" if large.embedding_width is None else "C"
        table = Table(large.vocab, width, large.deviation, ("V", letter), name="embedding")()
        kinds = Table(large.types, width, large.deviation, (None, letter), name="type_embedding")()
        shared = {
            "position": large.position.copy(name="position"),
            "embedding_norm": large.embedding_norm.copy(name="embedding_norm"),
        }
        read = {
            "generator": self.generating.copy(name="generator", **shared),
            "discriminator": large.copy(name="discriminator", **shared),
        }
        if self.is_initializing():
            for each in read.values():
                each(tokens, table=table, type_table=kinds)
        return read[half](tokens, table=table, type_table=kinds, **given)

    parts = ("generator", "discriminator")
    causal = continues = False

    @property
    def vocab(self) -> int:
        """V."""
        return self.detecting.vocab

    @property
    def context(self) -> int:
        """How many positions there are."""
        return self.detecting.context

    @property
    def dtype(self) -> Any:
        """Of the products' operands."""
        return self.detecting.dtype

    def part(self, half: Half, section: Mapping[str, Any], params: Mapping) -> tuple[dict, dict]:
        """The model section and the parameters of one half as a model by itself."""
        signature = inspect.signature(ELECTRAPair).parameters
        given = {name: p.default for name, p in signature.items()} | dict(section)
        small = {"width": given.pop("generator_width"), "heads": given.pop("generator_heads")}
        if half == "generator":
            given |= {**small, "head": True, "detector": False}
        shared = {name: p for name, p in params.items() if name not in self.parts}
        return {**given, "kind": "ELECTRA"}, {**shared, **params[half]}


def ELECTRAPair(
    vocab: int,
    width: int = 256,
    layers: int = 12,
    heads: int = 4,
    embedding: int = 128,
    generator_width: int = 64,
    generator_heads: int = 1,
    context: int = 512,
    types: int = 2,
    epsilon: float = 1e-12,
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
    deviation: float = 0.02,
    dtype: Literal["float32", "bfloat16"] = "float32",
    execution: Execution = "auto",
    remat: Remat = "none",
    kernel: Kernel = "auto",
) -> Halves:
    """Generator and discriminator, to be trained together by `ReplacedTokens`.

    Args:
      vocab: V.
      width, layers, heads: D, L and N of the discriminator.
      embedding: C, the width of the embeddings that both have.
      generator_width, generator_heads: D and N of the generator, which has as many layers.
      context, types, epsilon, dropout, attention_dropout, deviation, dtype: of both; see `ELECTRA`.

    Raises:
      ValueError: a width is not a multiple of its heads.
    """
    both = dict(
        layers=layers,
        embedding=embedding,
        context=context,
        types=types,
        epsilon=epsilon,
        dropout=dropout,
        attention_dropout=attention_dropout,
        deviation=deviation,
        dtype=dtype,
        execution=execution,
        remat=remat,
        kernel=kernel,
    )
    small = ELECTRA(
        vocab, generator_width, heads=generator_heads, head=True, detector=False, **both
    )
    return Halves(small, ELECTRA(vocab, width, heads=heads, **both))


WIDENING = (
    Row("widening/kernel", "electra.embeddings_project.weight", "DC"),
    Row("widening/bias", "electra.embeddings_project.bias", "D"),
)
HEAD = encoder.prediction(
    dense="generator_predictions.dense",
    norm="generator_predictions.LayerNorm",
    decoder="generator_lm_head",
    bias="generator_lm_head.bias",
)
DETECTOR = (
    Row("detector/dense/kernel", "discriminator_predictions.dense.weight", "CD"),
    Row("detector/dense/bias", "discriminator_predictions.dense.bias", "C"),
    Row("detector/kernel", "discriminator_predictions.dense_prediction.weight", "_C"),
    Row("detector/bias", "discriminator_predictions.dense_prediction.bias", "_"),
)

BARE = Family(
    kind="ELECTRA",
    model_type="electra",
    architecture="ElectraModel",
    rows=encoder.trunk("electra."),
    names={**encoder.NAMES, "embedding": "embedding_size"},
    options={"head": False, "detector": False},
    recorded=encoder.RECORDED,
    defaults={
        **encoder.DEFAULTS,
        "embedding_size": 128,
        "hidden_size": 256,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
    },
    fixed=encoder.FIXED,
    inert=(
        *(*encoder.INERT, "summary_type", "summary_use_proj", "summary_activation"),
        "summary_last_dropout",
    ),
    prefix="electra.",
    buffers=encoder.BUFFERS,
)
GENERATOR = dataclasses.replace(
    BARE,
    architecture="ElectraForMaskedLM",
    rows=(*BARE.rows, *HEAD),
    options={"head": True, "detector": False},
)
DISCRIMINATOR = dataclasses.replace(
    BARE,
    architecture="ElectraForPreTraining",
    rows=(*BARE.rows, *DETECTOR),
    options={"head": False, "detector": True},
)


def _narrow(family: Family) -> Family:
    """With embeddings that are not as wide as the model."""
    rows = (*encoder.trunk("electra.", "C"), *WIDENING, *family.rows[len(BARE.rows) :])
    return dataclasses.replace(family, rows=rows)


WIDE = (GENERATOR, DISCRIMINATOR, BARE)
FAMILIES = (*WIDE, *map(_narrow, WIDE))
