"""The inputs on which a model is compared with its reference: its own, and adversarial ones."""

import dataclasses
import inspect
import zlib
from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import numpy as np

from lm_research.errors import UserError
from lm_research.layers import Mask

LONGER = 3  # tokens that a source has more than the text that belongs to it
LONGEST = 1024  # tokens of the longest sequence that is read only to reach its last position


@dataclasses.dataclass(frozen=True)
class Case:
    """Rows of tokens and how they are given to a model.

    Attributes:
      name: for the table.
      tokens: ids.
      present: 1 where a token is no padding.
      targets: what the loss asks for at each token.
      weights: of the targets.
      types: of the tokens, for models that have them.
      source, source_present: what an encoder reads, for models that have one.
      last: the last token's position, where tokens stand apart so that it is reached; 0 where they
        stand side by side.
      order: of a factorisation, in which each token is predicted from those before it.
      packed: whether our model reads all rows in one, a segment each.
      bare: whether nothing but tokens is given, neither positions nor a mask.
    """

    name: str
    tokens: np.ndarray  # [B, T]
    present: np.ndarray  # [B, T]
    targets: np.ndarray  # [B, T]
    weights: np.ndarray  # [B, T]
    types: np.ndarray | None = None  # [B, T]
    source: np.ndarray | None = None  # [B, S]
    source_present: np.ndarray | None = None  # [B, S]
    last: int = 0
    order: np.ndarray | None = None  # [B, T]
    packed: bool = False
    bare: bool = False

    @property
    def allowed(self) -> np.ndarray:  # [B, T, T]
        """From which tokens each is predicted, by its order."""
        return self.order[:, :, None] > self.order[:, None, :]

    @property
    def position(self) -> np.ndarray:  # [B, T]
        """Of each token in its row; padding is at the row's first position."""
        if self.last:
            apart = np.linspace(0, self.last, self.tokens.shape[1]).astype(int)
            return np.broadcast_to(apart, self.tokens.shape)
        return np.maximum(np.cumsum(self.present, 1) - 1, 0)

    @property
    def pairs(self) -> bool:
        """Whether what a model says of a row, from its first token, is of a token."""
        return not self.packed and bool(self.present[:, 0].all())

    def given(self, positions: bool) -> tuple[np.ndarray, dict[str, Any]]:
        """Tokens and keywords of our model's call.

        Args:
          positions: whether the reference is told positions; if not, they are slots.
        """
        if self.packed:
            return self._in_one_row()
        keywords: dict[str, Any] = {}
        if self.types is not None:
            keywords["types"] = self.types
        if self.source is not None:
            keywords["source"] = self.source
        if self.order is not None:
            slots = np.broadcast_to(np.arange(self.tokens.shape[1]), self.tokens.shape)
            keywords |= {"mask": Mask(allowed=self.allowed), "targets": slots}
        elif not self.bare:
            keywords["mask"] = _separate(self.present)
            keywords |= {"position": self.position} if positions else {}
            if self.source is not None:
                keywords["source_mask"] = _separate(self.source_present)
        return self.tokens, keywords

    def _in_one_row(self) -> tuple[np.ndarray, dict[str, Any]]:
        row = lambda values: values[self.present == 1][None]
        segments = row(np.arange(1, len(self.tokens) + 1)[:, None] * self.present)
        tokens, keywords = row(self.tokens), {"position": row(self.position)}
        keywords["mask"] = _separate(segments)
        if self.types is not None:
            keywords["types"] = row(self.types)
        if self.source is not None:
            there = self.source_present
            joined = lambda values: values[there == 1][None]
            segments = joined(np.arange(1, len(there) + 1)[:, None] * there)
            position = joined(np.maximum(np.cumsum(there, 1) - 1, 0))
            keywords |= {"source": joined(self.source), "source_mask": _separate(segments)}
            keywords["source_position"] = position
        return tokens, keywords

    def flat(self, values: Any) -> np.ndarray:  # [B, T, ...] -> [tokens, ...]
        """What belongs to the tokens that are no padding, whether they were packed or not."""
        values = np.asarray(values)
        in_one_row = self.packed and values.shape[:2] != self.present.shape
        return values[0] if in_one_row else values[self.present == 1]


def cases(
    model: nn.Module,
    *,
    batch: int,
    length: int,
    context: int | None,
    special: Iterable[int] = (),
    tokenizer: Any = None,
) -> list[Case]:
    """All that a model is compared on.

    Args:
      model: ours.
      batch: B.
      length: T, at most; the last position may need more.
      context: how many positions the model knows.
      special: ids that mean something of their own.
      tokenizer: makes the model's own inputs of English; without one they are random ids.
    """
    accepts = inspect.signature(type(model).__call__).parameters
    longer = LONGER if "source" in accepts else 0
    length = min(length, max(1, context - longer) if context else length)
    types = getattr(model, "types", 2) if "types" in accepts else 0
    make = _Maker(model, list(special), types, "source" in accepts)
    whole = np.ones((batch, length), int)
    shorter = [length * (batch - i) // batch for i in range(batch - 1)]
    lengths = np.array([*shorter, 1] if batch > 1 else [max(1, length // 2)])
    slots = np.arange(length)
    right = (slots < lengths[:, None]).astype(int)
    try:
        kind = "random ids" if tokenizer is None else "own text"
        own = make.random(whole) if tokenizer is None else make.text(whole, tokenizer)
    except UserError:  # a tokenizer of other characters than English has
        kind, own = "random ids", make.random(whole)
    unusual = np.resize([0, model.vocab - 1, *special, 0, 0], whole.shape)
    found = [
        make(kind, own, whole, bare=True),
        make("padding right", make.random(whole), right),
        make("padding left", make.random(whole), right[:, ::-1]),
        make("unusual ids", np.where(slots % 3 == 0, make.random(whole), unusual), whole),
        make("one token", make.random(whole[:, :1]), whole[:, :1]),
        make("packed", make.random(whole), right, packed=True),
    ]
    if "targets" in accepts and not model.causal:
        order = np.stack([np.random.default_rng(i).permutation(length) for i in range(batch)])
        # Who is predicted from nobody sees everybody in `transformers`.
        seen = (order > 0).astype(int)
        found.append(make("any order", make.random(whole), seen, order=order))
    if context is not None:
        found.append(make("last position", make.random(whole), whole, last=context - 1))
    return found


def until(case: Case, context: int) -> Case:
    """`case` from position 0 on, as long as it takes to reach the last position."""
    row = lambda values: np.resize(values[:1], (1, min(context, LONGEST)))
    arrays = {
        name: row(getattr(case, name)) for name in ("tokens", "present", "targets", "weights")
    }
    types = None if case.types is None else row(case.types)
    source = {
        name: value[:1]
        for name in ("source", "source_present")
        if (value := getattr(case, name)) is not None
    }
    return dataclasses.replace(case, **arrays, **source, types=types, last=0)


class _Maker:
    """Makes cases of one model: targets, types and an encoder's input for given tokens."""

    def __init__(self, model: nn.Module, special: list[int], types: int, source: bool):
        self.model, self.special, self.types, self.source = model, special, types, source
        self._rng = np.random.default_rng(0)

    def __call__(self, name: str, tokens: np.ndarray, present: np.ndarray, **how: Any) -> Case:
        B, T = tokens.shape
        if getattr(self.model, "causal", True):
            targets, weights = np.roll(tokens, -1, 1), present * np.roll(present, -1, 1)
            weights[:, -1] = T == 1  # a single token has no next one: any target does
        else:
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            targets, weights = rng.integers(0, self.model.vocab, (B, T)), present
        given = {}
        if self.types:
            given["types"] = (np.arange(T) >= T // 2) * (self.types > 1) * present
        if self.source:
            # Of another length than the target, so that the two cannot be taken for each other.
            read = np.ones((B, T + LONGER), int)
            if not present.all():
                read = (np.arange(T + LONGER) < present.sum(1)[:, None] + 2).astype(int)
                read = read if present[:, 0].all() else read[:, ::-1]
            given |= {"source": self.random(read), "source_present": read}
        return Case(name, tokens, present, targets, weights.astype(np.float32), **given, **how)

    def random(self, like: np.ndarray) -> np.ndarray:
        """Ids that are not special."""
        usual = np.setdiff1d(np.arange(self.model.vocab), self.special)
        return self._rng.choice(usual if len(usual) else np.arange(self.model.vocab), like.shape)

    def text(self, like: np.ndarray, tokenizer: Any) -> np.ndarray:
        """English that `help()` shows, some of it masked where the model reads both ways."""
        from pydoc_data.topics import topics

        text = " ".join(topics[name] for name in sorted(topics))[: 20 * like.size]
        tokens = np.resize(tokenizer.whole(text), like.shape).astype(np.int64)
        mask = getattr(tokenizer, "mask", None)
        if mask is not None and not getattr(self.model, "causal", True):
            tokens = np.where(np.arange(tokens.shape[1]) % 7 == 3, mask, tokens)
        return tokens


def _separate(segments: np.ndarray) -> Mask:
    return Mask(segments=(segments, segments))
