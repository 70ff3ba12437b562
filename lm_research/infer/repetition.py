"""`Repetition`: what a text is kept from saying again, as Hugging Face's `generate` does it."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array


@struct.dataclass
class Past:
    """The tokens of each row so far, which end together.

    Attributes:
      tokens: [B, S], with room for those to come.
      begin: [B], where those of a row begin.
      end: [], where those to come begin.
    """

    tokens: Array
    begin: Array
    end: Array

    @classmethod
    def of(cls, tokens: Array, lengths: Array, room: int) -> "Past":
        """Of the last `lengths` [B] of tokens [B, T], with room for others."""
        T = tokens.shape[1]
        return cls(jnp.pad(tokens, ((0, 0), (0, room))), T - lengths, jnp.int32(T))

    def add(self, token: Array) -> "Past":  # [B]
        """With another token of each row."""
        return self.replace(tokens=self.tokens.at[:, self.end].set(token), end=self.end + 1)


@dataclasses.dataclass(frozen=True)
class Repetition:
    """What is held back of what was said, a decoder's prompt included.

    Attributes:
      penalty: divides the positive scores of tokens that occurred, and multiplies their negative
        ones (Keskar et al., 2019); 1 lets them be.
      no_repeat: no sequence of so many tokens occurs twice.

    Raises:
      ValueError: a value outside its range; names the field.
    """

    penalty: float = 1.0
    no_repeat: int | None = None

    def __post_init__(self):
        if not (math.isfinite(self.penalty) and self.penalty > 0):
            raise ValueError(f"repetition_penalty is {self.penalty}; it takes a number above 0")
        if self.no_repeat is not None and self.no_repeat < 1:
            raise ValueError(f"no_repeat is {self.no_repeat}; it takes a count of tokens from 1 on")

    def __bool__(self) -> bool:
        return self.penalty != 1 or self.no_repeat is not None

    def __call__(self, scores: Array, past: Past) -> Array:  # [B, V] -> [B, V]
        """Logits or log-probabilities of the next token, after those of the past."""
        place = jnp.arange(past.tokens.shape[1])
        there = (place >= past.begin[:, None]) & (place < past.end)  # [B, S]
        if self.penalty != 1:
            seen = _marked(scores, past.tokens, there)
            held = jnp.where(scores < 0, scores * self.penalty, scores / self.penalty)
            scores = jnp.where(seen, held, scores)
        if self.no_repeat is not None:
            repeats = _repeats(past, there, self.no_repeat - 1)
            scores = jnp.where(_marked(scores, past.tokens, repeats), -jnp.inf, scores)
        return scores


FREE = Repetition()


def _marked(scores: Array, tokens: Array, where: Array) -> Array:  # [B, V], [B, S], [B, S]
    """Which of the vocabulary stand where it is true: [B, V]."""
    rows = jnp.arange(tokens.shape[0])[:, None]
    return jnp.zeros(scores.shape, bool).at[rows, tokens].max(where)


def _repeats(past: Past, there: Array, before: int) -> Array:
    """Tokens before which the same stand as at the end, so many of them: [B, S]."""
    S = past.tokens.shape[1]
    same = there
    for back in range(1, before + 1):
        last = jnp.take(past.tokens, past.end - back, axis=1)[:, None]
        earlier = jnp.pad(past.tokens, ((0, 0), (back, 0)))[:, :S]
        inside = jnp.pad(there, ((0, 0), (back, 0)))[:, :S]
        same &= inside & (earlier == last)
    return same & (past.end - before >= past.begin)[:, None]
