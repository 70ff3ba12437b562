"""`Sampler`: draws tokens from logits, through the filters of Hugging Face's `generate`."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from lm_research.errors import UserError
from lm_research.infer.repetition import FREE, Past, Repetition

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Sampler:
    """What was said held back, then temperature, top-k, top-p, min-p, each on what is left.

    Attributes:
      temperature: divides the logits; 0 takes the likeliest token, the first of equals.
      top_k: keeps the k likeliest tokens.
      top_p: keeps the fewest likeliest tokens whose probabilities sum to p (Holtzman et al., 2020).
      min_p: keeps tokens at least p times as likely as the likeliest (Nguyen et al., 2024).
      repetition: what is not to be said again.

    Tokens exactly as likely as the last one that top-k or top-p keeps are kept too.

    Raises:
      ValueError: a value outside its range; names the field.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition: Repetition = FREE

    def __post_init__(self):
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature is {self.temperature}; it takes a number from 0 on")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; it takes a count of tokens from 1 on")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it takes a probability in (0, 1]")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p is {self.min_p}; it takes a ratio in [0, 1]")

    def transformed(self, logits: Array) -> Array:  # [B, V] -> [B, V]
        """The log-probabilities that tokens are drawn with, -inf for those filtered out."""
        if self.temperature == 0:
            best = jax.nn.one_hot(likeliest(logits), logits.shape[-1])
            return jnp.log(best)
        scores = jax.nn.log_softmax(logits.astype(jnp.float32) / self.temperature)
        if self.top_k is not None and self.top_k < scores.shape[-1]:
            scores = _kept(scores, _leading(scores, jnp.ones_like(scores), self.top_k))
        if self.top_p is not None and self.top_p < 1:
            scores = _kept(scores, _leading(scores, jnp.exp(scores), self.top_p))
        if self.min_p:
            best = scores.max(-1, keepdims=True)
            scores = _kept(scores, scores >= best + math.log(self.min_p))
        return scores

    def __call__(
        self, logits: Array, keys: Array, past: Past | None = None
    ) -> Array:  # [B, V], [B] -> [B]
        """A token for each row, drawn with the row's own key, after what it has said."""
        if past is not None:
            logits = self.repetition(logits, past)
        if self.temperature == 0:
            return likeliest(logits)
        # The default mode draws from 23-bit uniforms, which never reach the tail of a large
        # vocabulary.
        draw = lambda key, scores: jax.random.categorical(key, scores, mode="high")
        return jax.vmap(draw)(keys, self.transformed(logits))


def given_sampler(values: Any) -> Sampler:
    """Of a command's flags.

    Raises:
      UserError: a value is outside its range; names the flag.
    """
    try:
        repetition = Repetition(values.repetition_penalty, values.no_repeat)
        return Sampler(values.temperature, values.top_k, values.top_p, values.min_p, repetition)
    except ValueError as error:
        raise UserError(f"--{error}") from None


def likeliest(logits: Array) -> Array:  # [B, V] -> [B]
    """The first of the largest; `jnp.argmax` takes seven times as long on CPU."""
    index = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    largest = logits == logits.max(-1, keepdims=True)
    return jnp.where(largest, index, logits.shape[-1] - 1).min(-1)


def row_keys(seed: Array, request: Array, sample: Array, position: Array) -> Array:
    """A key for each row [B], from (seed, request, sample, position) alone.

    So a row's draws do not depend on the rows beside it.
    """

    def key(request, sample, position):
        key = jax.random.key(seed)
        for number in (request, sample, position):
            key = jax.random.fold_in(key, number)
        return key

    return jax.vmap(key)(request, sample, position)


def _kept(scores: Array, keep: Array) -> Array:
    """Log-probabilities of the tokens to keep, summing to one again."""
    return jax.nn.log_softmax(jnp.where(keep, scores, -jnp.inf))


def _leading(scores: Array, weights: Array, limit: float) -> Array:
    """Tokens for which all likelier ones together weigh less than `limit`: [B, V].

    Bisects the threshold over the bits of float32, which takes 32 sums; sorting 50,000 logits on
    CPU takes longer than the rest of a small model.
    """
    bits = jax.lax.bitcast_convert_type(scores, jnp.uint32)
    sign = jnp.uint32(1 << 31)
    rank = jnp.where(bits >= sign, ~bits, bits | sign)  # ordered as the scores are

    def halve(bounds, _):
        low, high = bounds
        middle = low + (high - low) // 2
        enough = jnp.where(rank > middle, weights, 0).sum(-1, keepdims=True) < limit
        return (jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)), None

    rows = (*scores.shape[:-1], 1)
    bounds = jnp.zeros(rows, jnp.uint32), jnp.full(rows, 2**32 - 1, jnp.uint32)
    (_, threshold), _ = jax.lax.scan(halve, bounds, length=32)
    return rank >= threshold
