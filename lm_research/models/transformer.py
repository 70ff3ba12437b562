"""`Transformer`: tokens in, hidden states and logits out; decoder or encoder by its mask."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_research.layers import (
    ALiBi,
    Block,
    Dropout,
    Einsum,
    Head,
    Learned,
    Mask,
    Output,
    RelativeBias,
    Sinusoidal,
    Stack,
    parameter,
    shard,
    stream_dtype,
    tap,
)
from lm_research.layers.einsum import letters
from lm_research.models.heads import Detector, HeadTransform, Pooler

Array = jax.Array


class Table(nn.Module):
    """A row [D] for each token of the vocabulary: an embedding, or a head of its own.

    Attributes:
      axes: letters of the table; a type of token has none.
    """

    vocab: int
    width: int
    deviation: float = 0.02
    axes: tuple[str | None, str] = ("V", "D")

    @nn.compact
    def __call__(self) -> Array:  # [V, D]
        normal = nn.initializers.normal(self.deviation)
        return parameter(self, "table", normal, self.axes, (self.vocab, self.width))


class Transformer(nn.Module):
    """Embedding, a stack of blocks, a norm and a vocabulary head.

    Attributes:
      vocab: V.
      width: D.
      stack: the blocks.
      norm: after the last block; None where blocks normalise their own sums.
      position: tells where tokens stand; None where attention does it by rotation, or nothing does.
      causal: whether tokens see only those before them.
      tied: whether the head is the embedding table.
      embedding_scale: factor on the embedded tokens.
      head_scale: factor on the logits.
      soft_cap: c of c tanh(logits / c).
      dropout: rate on the embedded tokens.
      deviation: standard deviation of the embedding; `head_deviation`: of an untied head, where it
        is another.
      dtype: of the products' operands.
      types: how many types of tokens there are, each with an embedding; 0 is none.
      embedding_norm: of what the embeddings add up to.
      embedding_width: C, of a factorised embedding (Lan et al., 2020), which a product widens to D;
        None is D.
      narrows: whether another product makes C of D at the end; positions are then added after the
        first one, and neither has a bias (Zhang et al., 2022, of their 350 M parameters).
      predicts: whether there is a vocabulary head.
      transform: what the head does to hidden states before the product; `head_bias`: whether it has
        a bias.
      pooler: reads the first hidden state, for whole texts and pairs of them.
      detector: tells of each token whether it was replaced.
      ahead: blocks beside one another after the stack, each of which predicts another token: the
        next, the one after it, and so on (Gloeckle et al., 2024). Where there are none, the stack's
        last block predicts the next.
    """

    vocab: int
    width: int
    stack: Stack
    norm: nn.Module | None = None
    position: Learned | Sinusoidal | ALiBi | RelativeBias | None = None
    causal: bool = True
    tied: bool = True
    embedding_scale: float = 1.0
    head_scale: float = 1.0
    soft_cap: float | None = None
    dropout: float = 0.0
    deviation: float = 0.02
    head_deviation: float | None = None
    dtype: Any = jnp.float32
    types: int = 0
    embedding_norm: nn.Module | None = None
    embedding_width: int | None = None
    narrows: bool = False
    predicts: bool = True
    transform: HeadTransform | None = None
    head_bias: bool = False
    pooler: Pooler | None = None
    detector: Detector | None = None
    ahead: tuple[Block, ...] = ()

    @nn.compact
    def __call__(
        self,
        tokens: Array,  # [B, T]
        *,
        position: Array | None = None,  # [B, T]
        mask: Mask | None = None,
        cache: tuple | None = None,
        types: Array | None = None,  # [B, T]
        memory: Array | None = None,  # [B, S, D]
        memory_mask: Mask | None = None,
        table: Array | None = None,  # [V, D]
        type_table: Array | None = None,  # [types, D]
    ) -> Output:
        """Reads tokens, after those in `cache` where there is one.

        Args:
          tokens: ids.
          position: of each token; by default their slots. Without a cache, causality goes by slot,
            so positions must not fall within a segment; with one, it goes by position. `EMPTY`
            marks padding that nobody may see.
          mask: what to restrict besides causality.
          cache: from `init_cache` or an earlier `Output`.
          types: of each token, such as which of two texts it is from; by default 0.
          memory, memory_mask: an encoder's output, for blocks that attend to it.
          table, type_table: the embeddings, where they are another's, too.
        """
        if position is None:
            position = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        mask = (mask or Mask()).replace(causal=self.causal)
        table, x, bias = self._embedded(tokens, position, types, table, type_table)
        bias = bias if bias is None or cache else bias.of_slots(tokens.shape[1])
        x = tap(self, "embedded", shard(x, ("B", "T", "D")))
        given = position, mask, bias, memory, memory_mask
        x, states = self.stack(x, cache and cache[: self.stack.layers], *given)
        x, states, further = self._next(x, states, cache, given)
        if self.narrows:
            x = self._product("BTD,DC->BTC", "narrowing")(x)
        pooled, pair = (None, None) if self.pooler is None else self.pooler(x)
        replaced = None if self.detector is None else self.detector(x)
        head = self._head(table, x) if self.predicts else None
        heads = dict(pooled=pooled, pair=pair, replaced=replaced, ahead=further)
        return Output(x, head, states, **heads)

    def _next(self, x, states, cache, given) -> tuple[Array, tuple | None, tuple[Array, ...]]:
        """The normalised stream that predicts the next token, states, and what predicts others."""
        norm = (lambda x: x) if self.norm is None else self.norm
        if not self.ahead:
            return norm(x), states, ()
        blocks = [block.copy(name=f"ahead_{i}") for i, block in enumerate(self.ahead)]
        if cache is not None:
            x, state = blocks[0](x, cache[-1], *given)
            return norm(x), (*states, state), ()
        found = [norm(block(x, None, *given)[0]) for block in blocks]
        return found[0], None, tuple(found[1:])

    def _embedded(self, tokens, position, types, table, type_table) -> tuple[Array, Array, Any]:
        """The embedding table, what the tokens are embedded as, and a bias for attention."""
        width = self.embedding_width or self.width
        letter = "D" if self.embedding_width is None else "C"
        if table is None:
            table = Table(self.vocab, width, self.deviation, ("V", letter), name="embedding")()
        # The lookup wants D whole: otherwise XLA rematerializes the table on every device.
        x = jnp.take(shard(table, ("V", None)), tokens, 0, mode="clip")  # [B, T, D]
        if self.embedding_scale != 1.0:
            x = x * self.embedding_scale
        if self.narrows:
            x = self._product("BTC,CD->BTD", "widening")(x)
        bias = None
        if isinstance(self.position, Learned | Sinusoidal):
            x = x + self.position(position, x.shape[-1])
        elif self.position is not None:
            bias = self.position()
        if self.types:
            if type_table is None:
                axes = None, letter
                kinds = Table(self.types, width, self.deviation, axes, name="type_embedding")
                type_table = kinds()
            types = jnp.zeros_like(tokens) if types is None else types
            x = x + jnp.take(shard(type_table, (None, None)), types, 0, mode="clip")
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        x = Dropout(self.dropout)(x.astype(stream_dtype(self.dtype)))
        if letter == "C" and not self.narrows:
            x = self._product("BTC,CD->BTD", "widening", bias=True)(x)
        return table, x, bias

    def _product(self, equation: str, name: str, bias: bool = False) -> Einsum:
        """Between the widths of the embedding, C, and of the stream."""
        sizes = {"C": self.embedding_width, "D": self.width}
        shape = tuple(sizes[letter] for letter in letters(equation)[1])
        normal = nn.initializers.normal(self.deviation)
        return Einsum(equation, shape, bias, normal, self.dtype, name=name)

    def _head(self, table: Array, x: Array) -> Head:
        if not self.tied:
            deviation = self.head_deviation or self.deviation
            axes = "V", "D" if self.embedding_width is None else "C"
            table = Table(self.vocab, table.shape[-1], deviation, axes, name="head")()
        transform = None if self.transform is None else self.transform(x.shape[-1], table.shape[-1])
        bias = None
        if self.head_bias:
            bias = parameter(self, "head_bias", nn.initializers.zeros, ("V",), (self.vocab,))
        return Head(table, bias, transform, self.head_scale, self.soft_cap, self.dtype)

    def init_cache(self, batch: int, length: int) -> tuple:
        """An empty cache for `batch` rows of `length` tokens: a state for each layer."""
        states = self.stack.init_cache(batch, length)
        return (*states, self.ahead[0].init_cache(batch, length)) if self.ahead else states

    @property
    def turn(self) -> int | None:
        """Tokens beyond which a text is read otherwise, so that a cache of it is of no use."""
        attentions = (getattr(block, "attention", None) for block in self.stack.period)
        rotary = (getattr(attention, "rotary", None) for attention in attentions)
        turns = (getattr(getattr(one, "scaling", None), "turn", None) for one in rotary)
        return next((turn for turn in turns if turn is not None), None)

    @property
    def continues(self) -> bool:
        """Whether it can continue a text."""
        return self.causal

    @property
    def context(self) -> int | None:
        """How many positions the model knows; None where there is no such limit."""
        return self.position.length if isinstance(self.position, Learned) else None
