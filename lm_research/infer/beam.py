"""`beam_search`: the likeliest texts after prompts, a few candidates of each followed at once."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from lm_research.errors import UserError
from lm_research.infer.decode import (
    Result,
    State,
    cache_length,
    check_requests,
    first_token,
    padded,
    past,
    prefilled,
    read,
    separate,
)
from lm_research.infer.repetition import FREE, Past, Repetition
from lm_research.layers import shard
from lm_research.layers.cache import Projected

Array = jax.Array

REQUESTS = 16  # prompts that are searched at once
NEVER = -1e9  # the score of what is no candidate; as in `transformers`, whose choices ours equal


@dataclasses.dataclass(frozen=True)
class Beam:
    """How wide to search, and what to prefer.

    A text's score is its log-probability, its end included, over tokens ** length_penalty.

    Attributes:
      beams: candidates that are followed at once.
      length_penalty: 0 compares plain log-probabilities, which shorter texts win.
      early_stopping: when a request is done. True: as soon as it has `beams` texts that ended.
        False: once the best candidate would not enter them if it ended now. "never": once it could
        not even with `length` tokens.
      repetition: what a candidate is not to say again.
    """

    beams: int = 5
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    repetition: Repetition = FREE

    def __post_init__(self):
        if self.beams < 1:
            raise UserError(f"beams is {self.beams}; it takes a number from 1 on")


@struct.dataclass
class Beams:
    """The candidates of a batch, best first, and the best texts that have ended."""

    tokens: Array  # [B, beams, T]
    logprobs: Array  # [B, beams, T], of each token
    score: Array  # [B, beams], their sum
    ended_tokens: Array  # [B, beams, T]
    ended_logprobs: Array  # [B, beams, T]
    ended_count: Array  # [B, beams], tokens
    ended_score: Array  # [B, beams], with the penalty
    ended: Array  # [B, beams], whether there is such a text
    open: Array  # [B], whether a better text may come


def beam_search(
    model: nn.Module,
    params: Any,
    prompts: Sequence[Sequence[int]],
    *,
    beam: Beam = Beam(),
    length: int,
    eos: Sequence[int] = (),
    samples: int = 1,
    prefix: bool = False,
) -> list[Result]:
    """The best texts found after each prompt: `samples` of the first one, then of the second, ...

    The same that `transformers` finds with the same settings. An encoder-decoder reads each prompt
    as a source. Runs on the current mesh, where there is one.

    Args:
      model: as it was trained, or as `separate` gives it, which spares later calls the work.
      params: its plain parameters.
      prompts: token ids, at least one in each.
      beam: how to search.
      length: new tokens at most; texts that come so far end there.
      eos: tokens any of which ends a text.
      samples: texts of each prompt, best first; fewer where so many were not found.
      prefix: whether all tokens of a prompt see each other.

    Raises:
      UserError: as `generate`, or more samples are asked for than there are beams.
    """
    prompts = [np.asarray(prompt, np.int32).reshape(-1) for prompt in prompts]
    check_requests(model, prompts, length, samples)
    if samples > beam.beams:
        raise UserError(f"{samples} samples are asked for, of {beam.beams} beams; take as many")
    decoder, weights = separate(model, params)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    ends = np.array(sorted(set(eos)), np.int32)
    results = []
    for start in range(0, len(order), REQUESTS):
        rows = order[start : start + REQUESTS]
        tokens, lengths, done = padded(decoder, [prompts[i] for i in rows])
        S = cache_length(decoder, tokens.shape[1], length)
        settings = decoder, beam, length, S, prefix
        found = jax.tree.map(np.asarray, _searched(*settings, weights, tokens, lengths, done, ends))
        for row, request in enumerate(rows):
            results += _results(request, [part[row] for part in found], ends, samples)
    return sorted(results, key=lambda result: (result.request, result.sample))


def _results(request: int, found: Sequence[np.ndarray], eos: np.ndarray, samples: int):
    """The texts of one request, of its row of what `_searched` returns."""
    tokens, logprobs, counts, scores = found
    for sample in range(samples):
        if scores[sample] <= NEVER / 2:  # a small vocabulary has no more texts
            return
        count = int(counts[sample])
        ended = bool(np.isin(tokens[sample, count - 1], eos))
        count -= ended
        text = tokens[sample, :count], logprobs[sample, :count]
        yield Result(request, sample, *text, ended, float(scores[sample]))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _searched(
    decoder, beam, length, S, prefix, weights, tokens, lengths, done, eos
) -> tuple[Array, Array, Array, Array]:
    """The texts of each request, best first: tokens, log-probabilities, counts and scores."""
    state, output = prefilled(decoder, S, prefix, weights, tokens, lengths, done)
    logits = output.head(output.hidden[:, -1:])[:, 0]
    logits = jnp.repeat(logits, beam.beams, 0)
    if beam.repetition:
        state = state.replace(past=past(decoder, tokens, lengths, length))
    state = _each_repeated(state, beam.beams)
    # A forced token costs nothing.
    forced = first_token(decoder)
    free = None if forced is None else jnp.arange(logits.shape[-1]) == forced
    choice = functools.partial(_chosen, beam, length, eos)
    beams, parents = choice(_empty(done, beam.beams, length), 0, logits, state.past, free)
    state = _followed(state, beams, parents, 0)

    def unfinished(carry):
        i, _, beams = carry
        full = (beam.early_stopping is True) & beams.ended.all()
        return (i < length) & beams.open.any() & ~full

    def step(carry):
        i, state, beams = carry
        state, output = read(decoder, weights, state)
        logits = output.head(output.hidden[:, -1:])[:, 0]
        beams, parents = choice(beams, i, logits, state.past)
        return i + 1, _followed(state, beams, parents, i), beams

    _, _, beams = jax.lax.while_loop(unfinished, step, (1, state, beams))
    found = beams.ended_tokens, beams.ended_logprobs, beams.ended_count, beams.ended_score
    return tuple(shard(part, (None,) * part.ndim) for part in found)


def _empty(done: Array, beams: int, length: int) -> Beams:
    """Before the first token there is one candidate, and the others are none."""
    B = done.shape[0]
    tokens, zeros = jnp.zeros((B, beams, length), jnp.int32), jnp.zeros((B, beams, length))
    score = jnp.full((B, beams), NEVER)
    return Beams(
        *(tokens, zeros, score.at[:, 0].set(0.0)),
        *(tokens, zeros, jnp.ones((B, beams), jnp.int32), score),
        ended=jnp.broadcast_to(done[:, None], (B, beams)),
        open=~done,
    )


def _chosen(
    beam: Beam,
    length: int,
    eos: Array,
    beams: Beams,
    i: Array,
    logits: Array,
    past: Past | None = None,
    free: Array | None = None,
) -> tuple[Beams, Array]:
    """The candidates with their token `i`, and which of the former each goes on with [B, beams].

    Args:
      logits: of the token, [B * beams, V].
      past: what the candidates said, where they are not to repeat it.
      free: bool [V], the tokens that may come, at no cost; None is all, at their own.
    """
    B, n, _ = beams.tokens.shape
    logprobs = jax.nn.log_softmax(logits.astype(jnp.float32))
    cost = logprobs if past is None else beam.repetition(logprobs, past)
    logprobs, cost = (scores.reshape(B, n, -1) for scores in (logprobs, cost))
    cost = cost if free is None else jnp.where(free, 0.0, -jnp.inf)
    V = logprobs.shape[-1]
    total = (beams.score[:, :, None] + cost).reshape(B, n * V)
    # As many as are sure to hold `beams` that go on.
    score, place = jax.lax.top_k(total, min(max(2, 1 + len(eos)) * n, n * V))
    parent, token = place // V, (place % V).astype(jnp.int32)
    each = jnp.take_along_axis(logprobs.reshape(B, n * V), place, 1)
    tokens = _of_rows(beams.tokens, parent).at[:, :, i].set(token)
    logprobs = _of_rows(beams.logprobs, parent).at[:, :, i].set(each)
    stops = (token[:, :, None] == eos).any(-1) | (i + 1 == length)

    running, best = jax.lax.top_k(jnp.where(stops, score + NEVER, score), n)
    going = [_of_rows(part, best) for part in (tokens, logprobs, parent)]

    penalty = jnp.asarray(np.arange(1, length + 1) ** float(beam.length_penalty), jnp.float32)
    full = (beam.early_stopping is True) & beams.ended.all(1)
    stopped = stops & (jnp.arange(stops.shape[1]) < n)
    counted = stopped & (beams.open & ~full)[:, None]
    merged = (
        jnp.concatenate([beams.ended_tokens, tokens], 1),
        jnp.concatenate([beams.ended_logprobs, logprobs], 1),
        jnp.concatenate([beams.ended_count, jnp.full_like(token, i + 1)], 1),
        jnp.concatenate([beams.ended, counted], 1),
    )
    scores = jnp.where(counted, score / penalty[i], NEVER)
    ended_score, best = jax.lax.top_k(jnp.concatenate([beams.ended_score, scores], 1), n)
    ended_tokens, ended_logprobs, ended_count, ended = (_of_rows(part, best) for part in merged)

    longest = beam.early_stopping == "never" and beam.length_penalty > 0
    possible = running[:, 0] / (penalty[-1] if longest else penalty[i])
    worst = jnp.where(ended, ended_score.min(1, keepdims=True), NEVER).min(1)
    ahead = Beams(
        *(going[0], going[1], running),
        *(ended_tokens, ended_logprobs, ended_count, ended_score, ended),
        open=beams.open & (possible > worst),
    )
    return ahead, going[2]


def _followed(state: State, beams: Beams, parents: Array, i: Array) -> State:
    """The state of the candidates, each with the cache of the one that it goes on with."""
    B, n = parents.shape

    def kept(leaf: Array) -> Array:
        if not leaf.ndim:
            return leaf
        rows = leaf.reshape(B, n, *leaf.shape[1:])
        return _of_rows(rows, parents).reshape(leaf.shape)

    # All candidates of a request read the same source.
    given = lambda node: isinstance(node, Projected)
    follow = lambda node: node if given(node) else kept(node)
    state = state.replace(
        cache=jax.tree.map(follow, state.cache, is_leaf=given), before=kept(state.before)
    )
    token = beams.tokens[:, :, i].reshape(-1)
    if state.past is not None:
        state = state.replace(past=jax.tree.map(kept, state.past).add(token))
    return state.replace(token=token, position=state.position + 1)


def _each_repeated(state: State, beams: int) -> State:
    """Every row so many times, one after the other."""
    return jax.tree.map(lambda x: jnp.repeat(x, beams, 0) if x.ndim else x, state)


def _of_rows(array: Array, places: Array) -> Array:  # [B, n, ...], [B, m] -> [B, m, ...]
    return jax.vmap(lambda row, place: row[place])(array, places)
