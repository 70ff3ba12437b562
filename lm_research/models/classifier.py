"""`Classifier`: any trunk and a linear head for whole texts, or for each of their tokens."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_research.layers import Dropout, Einsum, Mask, Output, parameter
from lm_research.layers.mlp import ACTIVATIONS, Activation
from lm_research.models import (
    albert,
    bert,
    distilbert,
    electra,
    gemma,
    gpt2,
    gpt_neox,
    llama,
    mixtral,
    opt,
    phi3,
    roberta,
)
from lm_research.models.class_writer import ClassWriter
from lm_research.models.encoder_decoder import EncoderDecoder
from lm_research.models.family import Family, Row
from lm_research.models.trunk import OnTrunk, Pool, bare, pooled

Array = jax.Array


class TextClassifier(OnTrunk):
    """A trunk, what it says of a text as one vector, and a linear classifier.

    Attributes:
      classes: their names.
      pool: the vector is that of the first token, of the last one, or the mean of all; or `each`
        token has scores of its own.
      activation: of a product [D, D] between the vector and the classifier; None has neither.
      bias: whether the classifier has one.
      dropout: rate on what the classifier reads, and with `dense_dropout` on what the product
        before it does.
      deviation: of the initial products.
      dtype: of the operands of the product [D, D].
    """

    classes: tuple[str, ...]
    pool: Pool
    activation: Activation | None
    bias: bool
    dropout: float
    deviation: float
    dtype: Any
    dense_dropout: bool = False

    @nn.compact
    def __call__(
        self, tokens: Array, *, mask: Mask | None = None, cache: Any = None, **given: Any
    ) -> Output:
        """Reads texts [B, T]; `scores` of the output are logits [B, classes], or [B, T, classes].

        Args:
          tokens: ids.
          mask: of its segments, 0 is padding.
          cache: there is none to extend.
          **given: what else the trunk takes, such as `position` and `types`.
        """
        del cache
        x = self.trunk(tokens, mask=mask, **given).hidden  # [B, T, D]
        if self.pool != "each":
            x = pooled(x, None if mask is None else mask.segments[1] > 0, self.pool)  # [B, 1, D]
        D, normal = x.shape[-1], nn.initializers.normal(self.deviation)
        if self.activation is None or self.dense_dropout:
            x = Dropout(self.dropout)(x)
        if self.activation is not None:
            dense = Einsum("BTD,DC->BTC", (D, D), True, normal, self.dtype, name="dense")
            x = Dropout(self.dropout)(ACTIVATIONS[self.activation](dense(x)))
        C = len(self.classes)
        scores = x.astype(jnp.float32) @ parameter(self, "kernel", normal, ("D", None), (D, C))
        if self.bias:
            scores = scores + parameter(self, "bias", nn.initializers.zeros, (None,), (C,))
        if self.pool == "each":
            return Output(x, None, scores=scores)
        return Output(x, None, pooled=x[:, 0], scores=scores[:, 0])


def Classifier(
    trunk: nn.Module,
    classes: tuple[str, ...] | None = None,
    pool: Pool | None = None,
    activation: Activation | Literal["auto"] | None = "auto",
    bias: bool = True,
    dropout: float = 0.1,
    deviation: float = 0.02,
    dtype: Literal["float32", "bfloat16"] = "float32",
    written: tuple[tuple[int, ...], ...] | None = None,
    dense_dropout: bool = False,
) -> TextClassifier | ClassWriter:
    """A model that tells the classes of texts, or of their tokens.

    An encoder-decoder gets no head: it writes the name of the class. It takes `classes` and
    `written` alone, and what is said of the head means nothing to it.

    Args:
      trunk: a model section; heads that it has are left out.
      classes: their names; None where the data says them.
      pool: what a text is judged by; None is the last token where tokens see only those before
        them, and else the first.
      activation: of a product before the classifier, whatever it is called in the family; `auto` is
        tanh where the first token is judged, as BERT's pooler has it, and none elsewhere.
      bias: whether the classifier has one.
      dropout: rate on what the classifier reads.
      deviation: of their initial weights.
      dtype: of the operands of the product before the classifier.
      written: of an encoder-decoder, the tokens of each name; None where the data says them.
      dense_dropout: whether that rate also holds for what the product before it reads, as in
        RoBERTa's and ELECTRA's heads.

    Raises:
      ValueError: the trunk is a classifier already, or has no single stream of hidden states; or
        an encoder-decoder is to have a head.
    """
    if isinstance(trunk, EncoderDecoder):
        if pool is not None:
            raise ValueError(
                f"pool is {pool!r}, and an encoder-decoder has no head: it writes the name of a "
                "text's class; it takes no pool"
            )
        names = classes or ("", "")  # stand in for those that the data says
        return ClassWriter(trunk, names, written or ((0,),) * len(names))
    if written is not None:
        raise ValueError("written is of an encoder-decoder; another trunk writes nothing")
    trunk = bare(trunk, "a classifier")
    if pool is None:
        pool = "last" if trunk.causal else "first"
    if activation == "auto":
        activation = "tanh" if pool == "first" else None
    names = classes or ("", "")  # stand in for those that the data says
    head = pool, activation, bias, dropout, deviation, dtype, dense_dropout
    return TextClassifier(trunk, names, *head)


# A trunk's own heads, which a classifier's takes the place of.
HEADS = ("head", "transform", "pooler", "detector")


@dataclasses.dataclass(frozen=True)
class Classifying(Family):
    """A family with a classifier as its head.

    Attributes:
      head: options of the classifier that its models have.
      rates: their keys of the classifier's dropout; the first that is set counts.
    """

    head: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    rates: tuple[str, ...] = ()

    @property
    def task(self) -> str:
        """Which of the heads it is that a trunk can have."""
        return self.architecture

    def makes(self, section: Mapping[str, Any]) -> bool:
        """Whether a section may be one of this family's models."""
        own = {"activation": None, "bias": True, **self.head}
        own.pop("dense_dropout", None)  # a choice of training
        if section["kind"] != "Classifier" or section["trunk"]["kind"] != self.kind:
            return False
        pool = section.get("pool")
        if pool is None and own["pool"] != "each":
            pool = own["pool"]  # of a text the first token, or a decoder's last
        said = {**section, "pool": pool}
        return all(_resolved(said, name) == value for name, value in own.items())

    def ours(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Our model section, given their config completed by `defaults`."""
        given = [float(config[key]) for key in self.rates if config.get(key) is not None]
        named = {"dropout": given[0] if given else 0.0, "classes": labels(config), **self.head}
        return {"kind": "Classifier", "trunk": super().ours(config), **named}

    def theirs(self, section: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
        """Their config's own part."""
        named = dict(enumerate(section["classes"]))
        told = {self.rates[0]: section["dropout"]} if self.rates else {}
        if "classes" not in self.head:
            told["id2label"] = {str(i): name for i, name in named.items()}
            told["label2id"] = {name: i for i, name in named.items()}
        return {**super().theirs(section["trunk"], sizes), **told}


def _resolved(section: Mapping[str, Any], name: str) -> Any:
    """An option of a classifier, with what its default means for its trunk."""
    value = section.get(name)
    if name == "activation" and value == "auto":
        return "tanh" if section["pool"] == "first" else None
    return list(value) if isinstance(value, tuple) else value


def labels(config: Mapping[str, Any]) -> list[str]:
    """The names of classes in a config.json, by number; theirs where it has none."""
    found = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    return [found[key] for key in sorted(found, key=int)]


def classifying(
    family: Family, architecture: str, rows: tuple[Row, ...], *rates: str, **head: Any
) -> Classifying:
    """The family of a trunk with a classifier, whose tensors are `rows`."""
    under = lambda path: None if path is None else f"trunk/{path}"
    kept = [row for row in family.rows if not row.ours.startswith(HEADS)]
    trunk = [dataclasses.replace(row, ours=under(row.ours), tied=under(row.tied)) for row in kept]
    given = {f.name: getattr(family, f.name) for f in dataclasses.fields(Family)}
    own = dict(architecture=architecture, rows=(*trunk, *rows), doubles={}, options={}, saved=True)
    inert = (*family.inert, *rates)
    return Classifying(**{**given, **own, "inert": inert}, head=head, rates=rates)


def linear(theirs: str, bias: bool = True) -> tuple[Row, ...]:
    """The tensors of the classifier itself."""
    found = Row("kernel", f"{theirs}.weight", "_D"), Row("bias", f"{theirs}.bias", "_")
    return found if bias else found[:1]


def dense(theirs: str) -> tuple[Row, ...]:
    """The tensors of the product before it."""
    return Row("dense/kernel", f"{theirs}.weight", "CD"), Row("dense/bias", f"{theirs}.bias", "C")


def encoders(
    family: Family,
    name: str,
    before: str,
    classifier: str,
    *rates: str,
    activation: Activation = "tanh",
    choices: str = "",
    dense_dropout: bool = False,
) -> tuple[Classifying, ...]:
    """An encoder's classifiers: of texts, of tokens, of answers in a text, and of choices.

    Args:
      family: the trunk's.
      name: what architectures begin with.
      before, classifier: tensors of the two products that judge a text.
      rates: keys of dropout.
      activation: between the products.
      choices: the classifier of choices, whose other product is the same; empty where it is not.
      dense_dropout: whether what the first product reads is dropped, too.
    """
    judged = dict(pool="first", activation=activation)
    if dense_dropout:
        judged["dense_dropout"] = True
    whole = dense(before)
    spans = classifying(
        family,
        f"{name}ForQuestionAnswering",
        linear("qa_outputs"),
        pool="each",
        classes=["start", "end"],
    )
    texts = classifying(
        family,
        f"{name}ForSequenceClassification",
        (*whole, *linear(classifier)),
        *rates,
        **judged,
    )
    tokens = classifying(
        family, f"{name}ForTokenClassification", linear("classifier"), *rates, pool="each"
    )
    if not choices:
        return spans, texts, tokens
    one = dict(classes=["choice"], **judged)
    rows = (*whole, *linear(choices))
    # Those of certain classes go first: a model is saved as the first that it may be.
    return (
        spans,
        classifying(family, f"{name}ForMultipleChoice", rows, *rates, **one),
        texts,
        tokens,
    )


def decoders(family: Family, name: str) -> Classifying:
    """A decoder's classifier of texts, which reads the last token."""
    rows = linear("score", bias=False)
    return classifying(family, f"{name}ForSequenceClassification", rows, pool="last", bias=False)


RATES = ("classifier_dropout", "hidden_dropout_prob")
FAMILIES = (
    *encoders(bert.MASKED, "Bert", "bert.pooler.dense", "classifier", *RATES, choices="classifier"),
    *encoders(
        roberta.MASKED,
        "Roberta",
        "classifier.dense",
        "classifier.out_proj",
        *RATES,
        dense_dropout=True,
    ),
    *encoders(
        distilbert.MASKED,
        "DistilBert",
        "pre_classifier",
        "classifier",
        "seq_classif_dropout",
        activation="relu",
        choices="classifier",
    ),
    *encoders(
        albert.MASKED,
        "Albert",
        "albert.pooler",
        "classifier",
        "classifier_dropout_prob",
        choices="classifier",
    ),
    *(
        one
        for family in electra.FAMILIES
        if family.architecture == "ElectraModel"
        for one in encoders(
            family,
            "Electra",
            "classifier.dense",
            "classifier.out_proj",
            *RATES,
            activation="gelu",
            dense_dropout=True,
        )
    ),
    decoders(gpt2.FAMILIES[0], "GPT2"),
    decoders(llama.LLAMA, "Llama"),
    decoders(llama.QWEN2, "Qwen2"),
    decoders(llama.QWEN3, "Qwen3"),
    decoders(llama.MISTRAL, "Mistral"),
    *(decoders(one, one.architecture.removesuffix("ForCausalLM")) for one in gemma.FAMILIES[:2]),
    *(
        decoders(one, one.architecture.removesuffix("ForCausalLM"))
        for module in (gpt_neox, mixtral, opt, phi3)
        for one in module.FAMILIES
    ),
)
