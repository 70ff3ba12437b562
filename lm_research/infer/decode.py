"""`generate`: prompts of uneven length in, new tokens out, through a cache of keys and values."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from lm_research import tree
from lm_research.data.pipeline import padded_length
from lm_research.errors import UserError
from lm_research.infer.repetition import Past
from lm_research.infer.sample import Sampler, row_keys
from lm_research.infer.shapes import check, decoded_rows
from lm_research.layers import EMPTY, Mask, Output, separated, shard
from lm_research.models import EncoderDecoder, TwoStream

Array = jax.Array
Stream = Callable[[int, int, np.ndarray], None]
Stops = Callable[[int, np.ndarray], int | None]

DISPATCH = 32  # tokens per call from the host; a call costs about 0.3 ms
STREAMED = 4  # the same, where somebody watches
ROWS = 32  # sequences that are decoded at once
GREEDY = Sampler(0.0)


@dataclasses.dataclass(frozen=True)
class Result:
    """One continuation of one prompt.

    Attributes:
      request: which prompt.
      sample: which of its continuations.
      tokens: the new tokens, without the one that ends the text.
      logprobs: natural log-probability of each under the model itself, whatever the sampler did.
      ended: whether the model ended the text itself.
      score: what beam search ranks it by, its end included; None where tokens were drawn.
    """

    request: int
    sample: int
    tokens: np.ndarray
    logprobs: np.ndarray
    ended: bool
    score: float | None = None


@struct.dataclass
class State:
    """Rows in the middle of being decoded."""

    cache: Any
    token: Array  # [B], the newest, which is not in the cache yet
    before: Array  # [B, T], the newest in the cache: those that the model reads again
    position: Array  # [B], of the newest
    done: Array  # [B]
    past: Past | None = None  # where the sampler asks what was said


@struct.dataclass
class Draw:
    """What chooses the tokens of a batch, besides the sampler."""

    seed: Array  # []
    eos: Array  # [ids]
    request: Array  # [B]
    sample: Array  # [B]


def generate(
    model: nn.Module,
    params: Any,
    prompts: Sequence[Sequence[int]],
    *,
    sampler: Sampler = GREEDY,
    length: int,
    seed: int = 0,
    eos: Sequence[int] = (),
    samples: int = 1,
    prefix: bool = False,
    stream: Stream | None = None,
    stops: Stops | None = None,
) -> list[Result]:
    """Continuations of the prompts: `samples` of the first one, then of the second, ...

    An encoder-decoder reads each prompt as a source, and writes a text from its beginning.

    A continuation depends on its prompt, the seed, the prompt's place in the list and its own
    number; not on what else is in the list. Runs on the current mesh, where there is one.

    Args:
      model: as it was trained, or as `separate` gives it, which spares later calls the work.
      params: its plain parameters.
      prompts: token ids, at least one in each.
      sampler: how to choose tokens.
      length: new tokens at most.
      seed: of the draws.
      eos: tokens any of which ends a text.
      samples: continuations of each prompt.
      prefix: whether all tokens of a prompt see each other, as where a decoder was trained with
        `Prefix`.
      stream: called with (request, sample, new tokens) as tokens come.
      stops: called with (request, new tokens so far); after how many of them the text ends, such as
        with a word that it is to stop at, or None where it goes on.

    Raises:
      UserError: a prompt is empty, has tokens that the model does not know, or is too long for its
        context; or the model is an encoder.
    """
    prompts = [np.asarray(prompt, np.int32).reshape(-1) for prompt in prompts]
    check_requests(model, prompts, length, samples, seed)
    decoder, weights = separate(model, params)
    rows = [(request, sample) for request in range(len(prompts)) for sample in range(samples)]
    rows.sort(key=lambda row: len(prompts[row[0]]))
    results = []
    for start in range(0, len(rows), ROWS):
        batch = rows[start : start + ROWS]
        given = decoder, weights, prompts, batch, sampler, length, (seed, eos), prefix
        pieces = _decoded(*given, stream is not None)
        results += _collected(batch, pieces, eos, stream, stops)
    return sorted(results, key=lambda result: (result.request, result.sample))


def separate(model: nn.Module, params: Any) -> tuple[nn.Module, Any]:
    """The model and its parameters as a loop over tokens wants them.

    Layers lie apart, because the loop would slice stacked ones at every token; and in 16 bits, what
    products read is converted once and not at every call, for which a tied head becomes its own.
    What is separate already stays as it is. Of an encoder-decoder only the decoder is a loop.
    """
    if isinstance(model, EncoderDecoder):
        whole = {**params["decoder"], "embedding": params["embedding"]}
        decoder, weights = separate(model.decoder, whole)
        weights = {name: part for name, part in weights.items() if name != "embedding"}
        return model.clone(decoder=decoder), {**params, "decoder": weights}
    if model.stack.execution == "separate":
        return model, params
    stack = model.stack.clone(execution="separate")
    tied = model.tied and jnp.dtype(model.dtype) == jnp.float32
    return model.clone(stack=stack, tied=tied), _separated(model, params)


@functools.partial(jax.jit, static_argnums=0)
def _separated(model: nn.Module, params: Any) -> Any:
    params = {**params, "stack": separated(params["stack"], model.stack.layers)}
    if jnp.dtype(model.dtype) == jnp.float32:
        return params
    if model.tied:
        params["head"] = params["embedding"]
    multiplied = tree.matching(r"/kernel$|^head/table$", params)
    return jax.tree.map(lambda p, m: p.astype(model.dtype) if m else p, params, multiplied)


def check_requests(
    model: nn.Module, prompts: Sequence[np.ndarray], length: int, samples: int = 1, seed: int = 0
) -> None:
    """Refuses what cannot be continued.

    Raises:
      UserError: see `generate`.
    """
    if not getattr(model, "continues", True):
        raise UserError("an encoder does not continue texts: its tokens see those after them")
    if length < 1 or samples < 1:
        raise UserError(f"asked for {samples} samples of {length} new tokens; both are 1 or more")
    if not 0 <= seed < 2**32:
        raise UserError(f"seed is {seed}; it takes a number from 0 to 2**32 - 1")
    for i, prompt in enumerate(prompts):
        if not len(prompt):
            raise UserError(f"prompt {i} is empty; it takes at least one token")
        check(model, prompt, f"prompt {i}", length)


def _collected(
    rows, pieces: Iterator, eos: Sequence[int], stream: Stream | None, stops: Stops | None
) -> list[Result]:
    """The results of a batch, from pieces [B, n] of tokens and log-probabilities."""
    tokens: list[list] = [[] for _ in rows]
    logprobs: list[list] = [[] for _ in rows]
    ended = [False] * len(rows)
    for new, scores in pieces:
        for i, (request, sample) in enumerate(rows):
            if ended[i]:
                continue
            stop = np.flatnonzero(np.isin(new[i], eos))
            ended[i] = bool(len(stop))
            count = stop[0] if ended[i] else len(new[i])
            if stops is not None:
                so_far = np.concatenate([*tokens[i], new[i, :count]])
                if (whole := stops(request, so_far)) is not None:
                    ended[i], count = True, whole - len(so_far) + count
            tokens[i].append(new[i, :count])
            logprobs[i].append(scores[i, :count])
            if stream is not None and count:
                stream(request, sample, new[i, :count])
        if all(ended):
            break
    return [
        Result(*row, np.concatenate(tokens[i]), np.concatenate(logprobs[i]), ended[i])
        for i, row in enumerate(rows)
    ]


def _decoded(
    decoder, weights, prompts, rows, sampler, length, ends, prefix, streamed
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields new tokens and their log-probabilities, [B, n] each, until all rows are done."""
    (seed, eos), each = ends, STREAMED if streamed else DISPATCH
    tokens, lengths, done = padded(decoder, [prompts[request] for request, _ in rows])
    B, T = tokens.shape
    request, sample = np.resize(np.array(rows, np.int32), (B, 2)).T
    draw = Draw(np.uint32(seed), np.array(eos, np.int32), request, sample)
    S = cache_length(decoder, T, length)
    given = weights, draw, tokens, lengths, done
    state, scores = _prefilled(decoder, sampler, S, prefix, *given)
    yield np.asarray(state.token)[:, None], np.asarray(scores)[:, None]
    length -= 1
    while length and not np.asarray(state.done).all():
        count = min(each, length)
        state, new, scores = _continued(decoder, sampler, weights, draw, state, np.int32(count))
        yield np.asarray(new)[:, :count], np.asarray(scores)[:, :count]
        length -= count


def padded(
    decoder: nn.Module, prompts: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Prompts as one batch: tokens [B, T], how many each row has [B], which rows are none [B].

    They end together, so that the next token is at hand; rows that fill up the batch have one.
    """
    B = decoded_rows(len(prompts), decoder.dtype)
    T = padded_length(max(map(len, prompts)))
    tokens, lengths = np.zeros((B, T), np.int32), np.ones(B, np.int32)
    for i, prompt in enumerate(prompts):
        lengths[i] = len(prompt)
        tokens[i, T - lengths[i] :] = prompt
    return tokens, lengths, np.arange(B) >= len(prompts)


def cache_length(decoder: nn.Module, T: int, length: int) -> int:
    """Room for `length` new tokens after prompts [B, T], of which only a decoder's take some."""
    return padded_length((1 if isinstance(decoder, EncoderDecoder) else T) + length)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _prefilled(
    decoder, sampler, S, prefix, weights, draw, tokens, lengths, done
) -> tuple[State, Array]:
    """Reads the prompts [B, T] and draws a token after each."""
    state, output = prefilled(decoder, S, prefix, weights, tokens, lengths, done)
    if sampler.repetition:
        state = state.replace(past=past(decoder, tokens, lengths, S))
    state, scores = _drawn(sampler, draw, state, output, first_token(decoder))
    return _readable(state), shard(scores, (None,))


def prefilled(decoder, S, prefix, weights, tokens, lengths, done) -> tuple[State, Output]:
    """The state after the prompts [B, T], in a cache of S tokens, and what the model says there."""
    B, T = tokens.shape
    slot = jnp.arange(T) - (T - lengths[:, None])
    position = jnp.where(slot >= 0, slot, EMPTY)
    source = {"mask": Mask(prefix=lengths)} if prefix else {}
    if isinstance(decoder, EncoderDecoder):
        present = (slot >= 0).astype(jnp.int32)
        source = {"source": tokens, "source_mask": Mask(segments=(present, present))}
        source["source_position"] = jnp.maximum(slot, 0)
        tokens, lengths = jnp.full((B, 1), decoder.start), jnp.ones_like(lengths)
        position = jnp.zeros_like(tokens)
    output = _call(decoder, weights, tokens, position, decoder.init_cache(B, S), **source)
    before = tokens[:, tokens.shape[1] - again(decoder) :]
    return State(output.cache, tokens[:, -1], before, lengths - 1, done), output


def past(decoder: nn.Module, tokens: Array, lengths: Array, room: int) -> Past:
    """What was said after the prompts [B, T]: themselves, or by an encoder-decoder its start."""
    if isinstance(decoder, EncoderDecoder):
        tokens, lengths = jnp.full((len(tokens), 1), decoder.start), jnp.ones_like(lengths)
    return Past.of(jnp.asarray(tokens, jnp.int32), lengths, room)


def read(decoder: nn.Module, weights: Any, state: State) -> tuple[State, Output]:
    """The state with its newest token in the cache, and what the model says after it."""
    tokens = jnp.concatenate([state.before, state.token[:, None]], 1)
    position = state.position[:, None] + jnp.arange(-again(decoder), 1)
    output = _call(decoder, weights, tokens, position, _shortened(state.cache, again(decoder)))
    return state.replace(cache=output.cache, before=tokens[:, 1:]), output


def first_token(decoder: nn.Module) -> int | None:
    """The token that every text of the model begins with, whatever it says; None is free."""
    return decoder.first if isinstance(decoder, EncoderDecoder) else None


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=4)
def _continued(decoder, sampler, weights, draw, state, count) -> tuple[State, Array, Array]:
    """Up to `count` more tokens of each row, and their log-probabilities, [B, DISPATCH] each."""
    B = state.token.shape[0]

    def unfinished(carry):
        i, state, _, _ = carry
        return (i < count) & ~state.done.all()

    def step(carry):
        i, state, tokens, scores = carry
        state, output = read(decoder, weights, state)
        state, score = _drawn(sampler, draw, state, output)
        return i + 1, state, tokens.at[:, i].set(state.token), scores.at[:, i].set(score)

    empty = jnp.zeros((B, DISPATCH), jnp.int32), jnp.zeros((B, DISPATCH), jnp.float32)
    _, state, tokens, scores = jax.lax.while_loop(unfinished, step, (0, state, *empty))
    return _readable(state), shard(tokens, (None, None)), shard(scores, (None, None))


def _readable(state: State) -> State:
    """With what the host reads whole on every device, so that every process can read it."""
    return state.replace(token=shard(state.token, (None,)), done=shard(state.done, (None,)))


def _call(decoder, weights, tokens, position, cache, **given) -> Output:
    """What the model says of the tokens; at the last of them it predicts the one after."""
    if isinstance(decoder, TwoStream):
        given["targets"] = position[:, -1:] + 1
    return decoder.apply({"params": weights}, tokens, position=position, cache=cache, **given)


def again(decoder: nn.Module) -> int:
    """How many of its newest tokens a model reads again with the next one: 0, mostly."""
    return decoder.again if isinstance(decoder, TwoStream) else 0


def _shortened(cache: tuple, tokens: int) -> tuple:
    """Without the newest tokens of all rows."""
    return tuple(state.replace(next=state.next - tokens) for state in cache) if tokens else cache


def _drawn(
    sampler: Sampler, draw: Draw, state: State, output: Output, forced: int | None = None
) -> tuple[State, Array]:
    """The state after a token drawn from the logits [B, 1, V], and the token's log-probability.

    A token that is `forced` comes whatever the logits are.
    """
    output = output.replace(hidden=output.hidden[:, -1:])
    logits, position = output.logits[:, 0], state.position + 1
    keys = row_keys(draw.seed, draw.request, draw.sample, position)
    token = sampler(logits, keys, state.past)
    if forced is not None:
        token = jnp.full_like(token, forced)
    score = jnp.take_along_axis(logits, token[:, None], -1)[:, 0] - jax.nn.logsumexp(logits, -1)
    done = state.done | (token[:, None] == draw.eos).any(-1)
    token = token.astype(jnp.int32)
    said = None if state.past is None else state.past.add(token)
    state = state.replace(token=token, position=position, done=done, past=said)
    return state, score
