"""Predict tokens that were hidden from those around them."""

import dataclasses
import zlib
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm_research.errors import UserError
from lm_research.layers import Mask, Output
from lm_research.metrics import Mean
from lm_research.objectives.token_loss import check_chunk, token_loss

Array = jax.Array
Example = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Words:
    """What hiding tokens takes to know of a tokenizer.

    Attributes:
      mask, cls, sep: ids.
      ordinary: bool [V], whether an id is no special token.
      begins: bool [V], whether an id begins a word.
    """

    mask: int
    cls: int | None
    sep: int | None
    ordinary: np.ndarray
    begins: np.ndarray


@dataclasses.dataclass(frozen=True)
class Masked:
    """Masked language modelling (Devlin et al., 2019): a few tokens are hidden, and predicted.

    A row has `rate` of its tokens chosen, special ones never; most of them are replaced by the mask
    token, some by any other token, and some stay what they are. The head runs on them alone.

    Attributes:
      length: T, the tokens that a model reads at once.
      rate: the share of tokens to predict.
      random, keep: the shares of those that another token replaces, and that stay.
      unit: what is chosen: tokens; whole words (the authors' later code); or spans of words, which
        are replaced alike (Joshi et al., 2020).
      masks: "dynamic" ones are others whenever a window comes (Liu et al., 2019); "static" ones
        depend on its tokens alone.
      stop: the chance that a span ends after a word; `longest`: words that it has at most.
      framed: whether `cls` and `sep` stand around a window, whose last two tokens give way.
      z_loss, smoothing, chunk: see `token_loss`.
      likelihood: the loss is not the negative log-probability of the text.
      words: filled in by `bound`.
    """

    length: int
    rate: float = 0.15
    random: float = 0.1
    keep: float = 0.1
    unit: Literal["token", "word", "span"] = "token"
    masks: Literal["dynamic", "static"] = "dynamic"
    stop: float = 0.2
    longest: int = 10
    framed: bool = False
    z_loss: float = 0.0
    smoothing: float = 0.0
    chunk: int | None = None
    words: Words | None = dataclasses.field(default=None, repr=False)
    likelihood: ClassVar[bool] = False

    def __post_init__(self):
        if not 0 < self.rate < 1:
            raise ValueError(f"rate is {self.rate}; it takes a share between 0 and 1")
        if min(self.random, self.keep) < 0 or self.random + self.keep > 1:
            raise ValueError(
                f"random {self.random} and keep {self.keep} are no shares of what is chosen"
            )
        if not 0 < self.stop <= 1 or self.longest < 1:
            raise ValueError(f"no span has stop {self.stop} and longest {self.longest}")
        check_chunk(self.chunk, self.most, f"{self.most} predictions a row")

    @property
    def most(self) -> int:
        """Tokens of a row that are predicted: fewer only where fewer can be."""
        return max(1, round(self.rate * self.length))

    def refusal(self, model: nn.Module) -> str:
        """Why this cannot train `model`; empty where it can."""
        if getattr(model, "causal", True):
            return "its tokens do not see those after them; take an encoder"
        return "" if getattr(model, "predicts", True) else "it has no head that predicts tokens"

    def bound(self, tokenizer: Any) -> "Masked":
        """This objective, with the special tokens and the words of a tokenizer.

        Raises:
          UserError: it has no mask token, or none to frame a window with.
        """
        needed = ("mask", "cls", "sep") if self.framed else ("mask",)
        kind = type(self).__name__
        if lacking := [role for role in needed if getattr(tokenizer, role) is None]:
            raise UserError(
                f"objective {kind} needs a {lacking[0]} token, and the tokenizer has none; train "
                f"one that has it (data.tokenizer.roles={list(needed)!r}), or give one that has"
            )
        roles = ("eos", "bos", "pad", "mask", "cls", "sep", "unk")
        special = {getattr(tokenizer, role) for role in roles} | set(tokenizer.sentinels)
        ordinary = ~np.isin(np.arange(tokenizer.vocab), [i for i in special if i is not None])
        words = Words(tokenizer.mask, tokenizer.cls, tokenizer.sep, ordinary, tokenizer.begins_word)
        return dataclasses.replace(self, words=words)

    def example(self, record: Example, rng: np.random.Generator) -> Example:
        """T tokens of a window, some hidden: where, which, and with what weight, `most` of each."""
        cut = self.length - 2 * self.framed
        tokens, real = record["tokens"][:cut], record["weights"][:cut] > 0
        example = {}
        if "segments" in record:
            segments, position = record["segments"][:cut], record["position"][:cut]
            if self.framed:
                position = position + (segments == segments[0])
                position = np.concatenate([[0], position, [position[-1] + 1]])
                segments = np.pad(segments, 1, mode="edge")
            example = {"segments": segments, "position": position.astype(np.int32)}
        if self.framed:
            tokens = np.concatenate([[self.words.cls], tokens, [self.words.sep]])
            real = np.pad(real, 1, constant_values=True)
        return example | self.hidden(tokens.astype(np.int32), real, rng)

    def hidden(self, tokens: np.ndarray, real: np.ndarray, rng: np.random.Generator) -> Example:
        """Tokens [T] with some of the real ones hidden: `places`, `targets`, `weights`."""
        rng = self.generator(tokens, rng)
        chosen, units = self._chosen(tokens, real & self.words.ordinary[tokens], rng)
        fate = rng.random(len(tokens))[units if self.unit == "span" else chosen]
        ordinary = np.flatnonzero(self.words.ordinary)
        other = ordinary[rng.integers(len(ordinary), size=len(chosen))]
        new = np.where(fate < self.keep + self.random, other, self.words.mask)
        hidden = tokens.copy()
        hidden[chosen] = np.where(fate < self.keep, tokens[chosen], new)
        rest = (0, self.most - len(chosen))
        return {
            "tokens": hidden,
            "places": np.pad(chosen, rest).astype(np.int32),
            "targets": np.pad(tokens[chosen], rest),
            "weights": np.pad(np.ones(len(chosen), np.float32), rest),
        }

    def generator(self, tokens: np.ndarray, rng: np.random.Generator) -> np.random.Generator:
        """The random numbers of an example: its own, or those of its tokens."""
        if self.masks == "dynamic":
            return rng
        return np.random.default_rng(zlib.crc32(np.ascontiguousarray(tokens, np.int32).tobytes()))

    def _chosen(self, tokens, free, rng) -> tuple[np.ndarray, np.ndarray]:
        """Places to predict, in order, and a number for each that those of one span share."""
        places = np.flatnonzero(free)
        count = min(self.most, max(1, round(self.rate * len(places)))) if len(places) else 0
        if self.unit == "token":
            chosen = np.sort(rng.permutation(places)[:count])
            return chosen, chosen
        begins = self.words.begins[tokens[places]] | (np.diff(places, prepend=-2) > 1)
        words = np.split(places, np.flatnonzero(begins)[1:]) if len(places) else []
        units = np.full(len(tokens), -1)
        if self.unit == "word":
            self._choose_words(words, count, units, rng)
        else:
            self._choose_spans(words, count, units, rng)
        chosen = np.flatnonzero(units >= 0)
        return chosen, units[chosen]

    def _choose_words(self, words, count, units, rng) -> None:
        """Words in random order, but for those that would be too many tokens."""
        left = count
        for i in rng.permutation(len(words)):
            if len(words[i]) <= left:
                units[words[i]] = i
                left -= len(words[i])
            if not left:
                return

    def _choose_spans(self, words, count, units, rng) -> None:
        """Spans of neighbouring words, until there are enough tokens or no word more fits."""
        left = count
        for span, start in enumerate(rng.permutation(len(words))):
            length = self._words(rng)
            for i in range(start, min(start + length, len(words))):
                follows = i == start or words[i][0] == words[i - 1][-1] + 1
                if not follows or units[words[i][0]] >= 0 or len(words[i]) > left:
                    break
                units[words[i]] = span
                left -= len(words[i])
            if not left:
                return

    def _words(self, rng) -> int:
        """Of a span: geometric, among the lengths up to the longest (Joshi et al., 2020)."""
        goes_on = 1 - self.stop
        if not goes_on:
            return 1
        drawn = rng.random() * (1 - goes_on**self.longest)  # of what is not beyond the longest
        return 1 + int(np.log1p(-drawn) / np.log(goes_on))

    def measure(
        self, model: nn.Module, params: Any, batch: dict[str, Array], rngs: dict | None = None
    ) -> dict[str, Mean]:
        """Total loss in nats and weight over the hidden tokens of the batch."""
        return self.loss(self.read(model, params, batch, rngs), batch)

    def read(self, model, params, batch, rngs, **options) -> Output:
        """What the model says of all the tokens."""
        segments = batch.get("segments")
        return model.apply(
            {"params": params},
            batch["tokens"],
            position=batch.get("position"),
            mask=None if segments is None else Mask(segments=(segments, segments)),
            types=batch.get("types"),
            rngs=rngs,
            **options,
        )

    def loss(self, output: Output, batch: dict[str, Array]) -> dict[str, Mean]:
        """`token_loss` of the hidden ones."""
        hidden = jnp.take_along_axis(output.hidden, batch["places"][..., None], 1)  # [B, T, D]
        return token_loss(
            output.replace(hidden=hidden),
            batch["targets"],
            batch["weights"],
            z_loss=self.z_loss,
            smoothing=self.smoothing,
            chunk=self.chunk,
        )
