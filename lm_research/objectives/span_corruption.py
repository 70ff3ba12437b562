"""Write what was cut out of a text: T5's objective, and UL2's mixture of such."""

import dataclasses
from typing import Any, ClassVar, Protocol

import flax.linen as nn
import jax
import numpy as np

from lm_research.errors import UserError
from lm_research.metrics import Mean
from lm_research.objectives.seq2seq import filled, needs_source, target_loss
from lm_research.objectives.token_loss import check_chunk

Array = jax.Array
Example = dict[str, np.ndarray]


class Corruption(Protocol):
    """How much of a text is cut out."""

    rate: float
    span: float


@dataclasses.dataclass(frozen=True)
class Marks:
    """What cutting spans out takes to know of a tokenizer.

    Attributes:
      sentinels: ids, in order; each stands for one span.
      end: what ends sources and targets; None where there is no such token.
      modes: ids that name a kind of corruption to the model, by its letter.
    """

    sentinels: tuple[int, ...]
    end: int | None
    modes: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class SpanCorruption:
    """Raffel et al. (2020), section 3.3: spans become sentinels, and are to be written after them.

    As in their code a window begins with a span that stays and ends with one that does not, so
    that its length alone says how long sources and targets are. Documents are joined: a window is
    one text.

    Attributes:
      length: tokens of a window, before anything is cut out.
      rate: the share of tokens to cut out.
      span: tokens of a span, on average.
      z_loss, smoothing, chunk: see `token_loss`.
      likelihood: the loss is not the negative log-probability of the text.
      marks: filled in by `bound`.
    """

    length: int
    rate: float = 0.15
    span: float = 3.0
    z_loss: float = 0.0
    smoothing: float = 0.0
    chunk: int | None = None
    marks: Marks | None = dataclasses.field(default=None, repr=False)
    likelihood: ClassVar[bool] = False

    def __post_init__(self):
        check(self.rate, self.span)
        check_chunk(self.chunk, self.room[1], f"{self.room[1]} targets")

    @property
    def room(self) -> tuple[int, int]:
        """S and T of every example."""
        return lengths(self.length, self)

    def refusal(self, model: nn.Module) -> str:
        """Why this cannot train `model`; empty where it can."""
        return needs_source(model, *self.room)

    def bound(self, tokenizer: Any) -> "SpanCorruption":
        """This objective, with the sentinels of a tokenizer.

        Raises:
          UserError: it has too few.
        """
        return dataclasses.replace(self, marks=marks(self, tokenizer, [self]))

    def example(self, record: Example, rng: np.random.Generator) -> Example:
        """A window without its first token, which the window before it had, too."""
        pair = corrupted(text(record), self, self.marks, rng)
        return filled(*pair, *self.room)

    def measure(
        self, model: nn.Module, params: Any, batch: dict[str, Array], rngs: dict | None = None
    ) -> dict[str, Mean]:
        """Total loss in nats and weight over the batch's [B, T] targets."""
        return target_loss(self, model, params, batch, rngs)


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """One of `Denoisers`: its letter, R, S or X, and how much it cuts out."""

    letter: str
    rate: float
    span: float


@dataclasses.dataclass(frozen=True)
class Denoisers:
    """UL2 (Tay et al., 2022), table 1: a window is corrupted in one of seven ways, all as likely.

    R cuts out short spans, X long or many ones, and S the last quarter, which is a prefix language
    model. The model may be told which, by a few tokens before the source.

    Attributes:
      length: tokens of a window, before anything is cut out.
      modes: whether the source begins with [NLU] (R), [S2S] (S) or [NLG] (X), as text.
      z_loss, smoothing, chunk: see `token_loss`.
      likelihood: the loss is not the negative log-probability of the text.
      marks: filled in by `bound`.
    """

    length: int
    modes: bool = True
    z_loss: float = 0.0
    smoothing: float = 0.0
    chunk: int | None = None
    marks: Marks | None = dataclasses.field(default=None, repr=False)
    likelihood: ClassVar[bool] = False

    def __post_init__(self):
        check_chunk(self.chunk, self.longest[1], f"{self.longest[1]} targets")

    @property
    def denoisers(self) -> tuple[Denoiser, ...]:
        """The seven: their rate, and the mean length of their spans."""
        regular = [Denoiser("R", 0.15, span) for span in (3, 8)]
        extreme = [Denoiser("X", *pair) for pair in ((0.5, 3), (0.5, 8), (0.15, 64), (0.5, 64))]
        return (*regular, Denoiser("S", 0.25, self.length / 4), *extreme)

    @property
    def longest(self) -> tuple[int, int]:
        """Tokens of the longest source, without its mode, and of the longest target."""
        sizes = [lengths(self.length, denoiser) for denoiser in self.denoisers]
        return tuple(max(several) for several in zip(*sizes))

    @property
    def room(self) -> tuple[int, int]:
        """S and T of every example."""
        source, target = self.longest
        return source + max(map(len, self.marks.modes.values()), default=0), target

    def refusal(self, model: nn.Module) -> str:
        """Why this cannot train `model`; empty where it can."""
        return needs_source(model, *self.longest)

    def bound(self, tokenizer: Any) -> "Denoisers":
        """This objective, with the sentinels of a tokenizer, and how it spells the modes.

        Raises:
          UserError: it has too few sentinels.
        """
        found = marks(self, tokenizer, self.denoisers)
        if self.modes:
            spelled = {"R": "[NLU]", "S": "[S2S]", "X": "[NLG]"}
            modes = {letter: tuple(tokenizer.encode(mode)) for letter, mode in spelled.items()}
            found = dataclasses.replace(found, modes=modes)
        return dataclasses.replace(self, marks=found)

    def example(self, record: Example, rng: np.random.Generator) -> Example:
        """A window without its first token, which the window before it had, too."""
        denoiser = self.denoisers[rng.integers(len(self.denoisers))]
        source, target = corrupted(text(record), denoiser, self.marks, rng)
        mode = self.marks.modes.get(denoiser.letter, ())
        return filled(np.concatenate([mode, source]), target, *self.room)

    def measure(
        self, model: nn.Module, params: Any, batch: dict[str, Array], rngs: dict | None = None
    ) -> dict[str, Mean]:
        """Total loss in nats and weight over the batch's [B, T] targets."""
        return target_loss(self, model, params, batch, rngs)


def check(rate: float, span: float) -> None:
    """Refuses what cuts out nothing or everything.

    Raises:
      ValueError: names the field.
    """
    if not 0 < rate < 1:
        raise ValueError(f"rate is {rate}; it takes a share between 0 and 1")
    if span < 1:
        raise ValueError(f"span is {span}; it takes a number of tokens from 1 on")


def counts(length: int, corruption: Corruption) -> tuple[int, int]:
    """How many tokens of a text are cut out, and in how many spans."""
    noise = min(max(round(length * corruption.rate), 1), length - 1)
    return noise, min(max(round(noise / corruption.span), 1), noise, length - noise)


def lengths(length: int, corruption: Corruption) -> tuple[int, int]:
    """S and T of a text, with room for the tokens that end both."""
    noise, spans = counts(length, corruption)
    return length - noise + spans + 1, noise + spans + 1


def marks(objective: Any, tokenizer: Any, corruptions: Any) -> Marks:
    """What an objective needs to know of a tokenizer.

    Raises:
      UserError: there are too few sentinels.
    """
    most = max(counts(objective.length, corruption)[1] for corruption in corruptions)
    if (held := len(tokenizer.sentinels)) < most:
        raise UserError(
            f"objective {type(objective).__name__} of length {objective.length} needs {most} "
            f"sentinel tokens, <extra_id_0> and so on, and the tokenizer has {held or 'none'}; "
            f"train one that has them (data.tokenizer.sentinels={most}), or give one that has"
        )
    return Marks(tokenizer.sentinels, tokenizer.eos)


def text(record: Example) -> np.ndarray:
    """The tokens of a window, without its first one and without padding.

    Raises:
      UserError: documents are to be read apart.
    """
    if "segments" in record:
        raise UserError(
            "data.documents is 'separate', and spans are cut out of a window as one text; "
            "use 'joined'"
        )
    real = np.flatnonzero(record["weights"][1:])
    return record["tokens"][1:][: real[-1] + 1 if len(real) else 0]


def corrupted(
    tokens: np.ndarray, corruption: Corruption, marks: Marks, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Source and target of a text; nothing of one that is too short to cut anything out."""
    if len(tokens) < 2:
        return tokens[:0], tokens[:0]
    noise, spans = counts(len(tokens), corruption)
    stay, go = (_cut(total, spans, rng) for total in (len(tokens) - noise, noise))
    gone = np.repeat(np.arange(2 * spans) % 2 == 1, np.stack([stay, go], 1).reshape(-1))
    return tuple(_replaced(tokens, hidden, marks) for hidden in (gone, ~gone))


def _cut(total: int, pieces: int, rng: np.random.Generator) -> np.ndarray:
    """Lengths of pieces that add up to `total`; every way to cut it is as likely."""
    places = 1 + np.sort(rng.choice(total - 1, pieces - 1, replace=False))
    return np.diff(np.concatenate([[0], places, [total]]))


def _replaced(tokens: np.ndarray, hidden: np.ndarray, marks: Marks) -> np.ndarray:
    """Each run of hidden tokens becomes a sentinel; then comes the end."""
    begins = hidden & ~np.concatenate([[False], hidden[:-1]])
    sentinels = np.array(marks.sentinels)[np.cumsum(begins) - 1]
    kept = np.where(begins, sentinels, tokens)[begins | ~hidden]
    return kept if marks.end is None else np.append(kept, marks.end)
