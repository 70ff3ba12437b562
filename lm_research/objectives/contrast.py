"""Bring the vectors of texts that belong together near to one another, and those of others away."""

import dataclasses
import zlib
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm_research.layers import shard
from lm_research.metrics import Mean
from lm_research.models.embedder import TextEmbedder, unit
from lm_research.objectives.classify import filled
from lm_research.objectives.read import output

Array = jax.Array

TEXTS = ("text", "pair", "negative")  # of a record, in this order


@dataclasses.dataclass(frozen=True)
class Contrast:
    """InfoNCE (van den Oord et al., 2018, equation 4) over the texts of a batch, in nats.

    Each text is to find its pair among the pairs of all texts of the batch, by cosine over
    temperature. A `negative` of a record is one more text that is wrong for every row. A record
    without a pair is its own, under another dropout (SimCSE; Gao et al., 2021). Texts of other rows
    that are equal to a row's pair are not held against it.

    It is no sum over examples: the batch is that of a step over all devices and hosts, and in
    evaluation that of the evaluator. So it refuses microbatches.

    Attributes:
      length: T, the tokens that a text has at most; `Related` cuts longer ones.
      temperature: that cosines are divided by.
      symmetric: whether each pair is to find its text, too, which is then half of the loss.
      ragged: what batches are cut in, where all of their texts are shorter than `length`.
      likelihood: the loss is not the negative log-probability of the text.
      indivisible: why a batch cannot be cut into microbatches.
    """

    length: int
    temperature: float = 0.05
    symmetric: bool = False
    ragged: ClassVar[tuple[str, ...]] = tuple(
        f"{name}_{array}" for name in TEXTS for array in ("tokens", "segments")
    )
    likelihood: ClassVar[bool] = False
    indivisible: ClassVar[str] = "each text is compared with all others of its batch (Contrast)"

    def __post_init__(self):
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}; it takes a number above 0")

    def refusal(self, model: nn.Module) -> str:
        """Why this cannot train `model`; empty where it can."""
        return "" if isinstance(model, TextEmbedder) else "it makes no vectors; take Embedder"

    def bound(self, tokenizer: Any) -> "Contrast":
        """This objective, with what it needs to know of the tokenizer: nothing."""
        del tokenizer
        return self

    def example(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Of a record's `text`, `pair` and `negative`, no longer than `length`, and its `label`."""
        del rng
        texts = {"pair": record["text"], **record}
        texts = {name: texts[name] for name in TEXTS if name in texts}
        made: dict[str, Any] = {"weights": np.float32(1)}
        for name, text in texts.items():
            one = filled({"text": text}, self.length)
            made |= {f"{name}_{array}": one[array] for array in ("tokens", "segments")}
        # What tells equal texts, so that the device need not compare tokens.
        prints = [zlib.crc32(np.int32(text).tobytes()) for text in texts.values()]
        made["prints"] = np.array(prints, np.uint32).view(np.int32)
        return made | ({"label": np.float32(record["label"])} if "label" in record else {})

    def measure(
        self, model: nn.Module, params: Any, batch: dict[str, Array], rngs: dict | None = None
    ) -> dict[str, Mean]:
        """Total loss in nats and weight over the batch's texts, and how many find their pair."""
        return self.loss(self.scores(model, params, batch, rngs), batch)

    @staticmethod
    def scores(
        model: nn.Module, params: Any, batch: dict[str, Array], rngs: dict | None = None
    ) -> Array:
        """Vectors [B, texts, D] of the texts of each record, of which a model reads all at once."""
        names = [name for name in TEXTS if f"{name}_tokens" in batch]

        def rows(array: str) -> Array:
            several = jnp.stack([batch[f"{name}_{array}"] for name in names], 1)
            return several.reshape(-1, several.shape[-1])

        read = {array: rows(array) for array in ("tokens", "segments")}
        found = output(model, params, read, rngs).pooled
        return found.reshape(-1, len(names), found.shape[-1])

    def loss(self, found: Array, batch: dict[str, Array]) -> dict[str, Mean]:
        """What `measure` says of vectors [B, texts, D]."""
        weights, prints = batch["weights"], batch["prints"]
        told = (weights > 0, self.temperature)
        ways = [contrasted(found[:, 0], found[:, 1:], prints[:, 1:], *told)]
        if self.symmetric:
            ways.append(contrasted(found[:, 1], found[:, :1], prints[:, :1], *told))
        named = dict(zip(("loss", "accuracy"), (sum(of) / len(ways) for of in zip(*ways))))
        return {name: Mean((each * weights).sum(), weights.sum()) for name, each in named.items()}


def contrasted(
    queries: Array,  # [B, D]
    candidates: Array,
    prints: Array,
    present: Array,
    temperature: float,
) -> tuple[Array, Array]:
    """The loss of each row, and whether it finds its own: float32 [B] both.

    Args:
      queries: vectors.
      candidates: of each row [B, texts, D], its own first.
      prints: of the candidates' texts; equal ones are of equal texts.
      present: rows that are there; the others are no row's candidates.
      temperature: see `Contrast`.
    """
    B, count, D = candidates.shape
    # Every device compares its rows with those of all.
    whole = shard(unit(candidates).reshape(B * count, D), (None, None))
    logits = (unit(queries) @ whole.T).reshape(B, B, count) / temperature
    own = jnp.zeros((B, B, count), bool).at[:, :, 0].set(jnp.eye(B, dtype=bool))
    same = prints[None] == prints[:, 0][:, None, None]
    wrong = ~own & ~same & present[None, :, None]
    right = jnp.where(own, logits, 0).sum((1, 2))
    others = jnp.where(wrong, logits, -jnp.inf)
    partition = jax.nn.logsumexp(jnp.where(own, logits, others), (1, 2))
    return partition - right, jnp.float32(right > others.max((1, 2)))
