"""Cross-entropy over the vocabulary, without ever holding the logits of a whole batch."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from lm_research.layers import Head, Output
from lm_research.metrics import Mean
from lm_research.objectives.share import Share

Array = jax.Array

LOGITS = 2**25  # logits that one chunk may hold: 128 MiB in float32


def token_loss(
    output: Output,
    targets: Array,  # [B, T]
    weights: Array,  # [B, T]
    *,
    z_loss: float = 0.0,
    smoothing: float = 0.0,
    chunk: int | None = None,
) -> dict[str, Mean]:
    """Weighted cross-entropy of the targets, in nats.

    Positions go through the vocabulary head in chunks, and each chunk's gradient is made with its
    loss, so that logits [B, T, V] never exist at once. Each device goes through its own tokens by
    itself: it gathers the head once, and the gradients of all are added up once.

    Args:
      output: hidden states [B, T, D] and the head.
      targets: ids.
      weights: of each target; 0 leaves it out.
      z_loss: factor on the squared log-partition (Chowdhery et al., 2022, section 5), which keeps
        logits small.
      smoothing: of the targets, towards uniform (Szegedy et al., 2016).
      chunk: positions of T that are scored at once, a divisor of T; None is as many as 128 MiB of
        a device's logits hold.

    Returns:
      `loss`, what is minimised; where z-loss or smoothing is on also `cross_entropy`, without them.
    """
    B, T = targets.shape
    V = output.head.kernel.shape[0]
    share = Share.of(B, T)
    if chunk is None:
        chunk = largest_chunk(B // share.rows, T // share.positions, V)
    if T % chunk:
        raise ValueError(f"chunk {chunk} does not divide {T} positions")
    loss, cross_entropy = _totals(
        z_loss, smoothing, chunk, output.hidden, output.head, targets, weights
    )
    metrics = {"loss": Mean(loss, weights.sum())}
    if z_loss or smoothing:
        metrics["cross_entropy"] = Mean(cross_entropy, weights.sum())
    return metrics


def check_chunk(chunk: int | None, positions: int, what: str) -> None:
    """Refuses a chunk that does not divide the positions that a loss is taken at.

    Raises:
      ValueError: names both.
    """
    if chunk is not None and (chunk < 1 or positions % chunk):
        raise ValueError(f"chunk {chunk} does not divide {what}")


def largest_chunk(rows: int, length: int, vocab: int) -> int:
    """As many positions as `LOGITS` allows, and at least one, among the divisors of `length`."""
    divisors = (d for d in range(length, 0, -1) if length % d == 0)
    return next(d for d in divisors if d == 1 or d * rows * vocab <= LOGITS)


def over_pieces(function: Callable[..., Array], chunk: int, *arrays: Array) -> Array:
    """`function` of pieces [B, chunk, ...] of arrays [B, T, ...], one by one: [B, T, ...]."""
    pieces = _pieces(chunk, *arrays)
    if pieces[0].shape[0] == 1:
        return function(*arrays)
    made = jax.lax.map(lambda piece: function(*piece), pieces)
    made = jnp.moveaxis(made, 0, 1)
    return made.reshape(made.shape[0], -1, *made.shape[3:])


def _pieces(chunk: int, *arrays: Array) -> tuple[Array, ...]:
    """Arrays [B, T, ...] as [T / chunk, B, chunk, ...]."""
    cut = lambda x: x.reshape(x.shape[0], -1, chunk, *x.shape[2:])
    return tuple(jnp.moveaxis(cut(x), 1, 0) for x in arrays)


def in_pieces(head: Head, hidden: Array, targets: Array) -> Array:  # [B, T]
    """Log-probabilities of targets [B, T] at hidden states [B, T, D], by pieces of T."""

    def piece(hidden, targets):
        logprobs = jax.nn.log_softmax(head(hidden))
        return jnp.take_along_axis(logprobs, targets[..., None], -1)[..., 0]

    chunk = largest_chunk(*targets.shape, head.kernel.shape[0])
    return over_pieces(piece, chunk, hidden, targets)


def _chunk_totals(z_loss, smoothing, hidden, head: Head, targets, weights):
    """Totals of the loss and of the plain cross-entropy over positions [B, t]."""
    logits = head(hidden)  # [B, t, V]
    partition = jax.nn.logsumexp(logits, -1)
    right = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    plain = partition - right
    loss = plain
    if smoothing:
        loss = (1 - smoothing) * plain + smoothing * (partition - logits.mean(-1))
    if z_loss:
        loss = loss + z_loss * jnp.square(partition)
    return (loss * weights).sum(), (plain * weights).sum()


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _totals(z_loss, smoothing, chunk, hidden, head, targets, weights):
    share = Share.of(*targets.shape)
    whole = share.gathered(head)

    def own(hidden, targets, weights):
        def step(totals, piece):
            hidden, targets, weights = piece
            new = _chunk_totals(z_loss, smoothing, hidden, whole, targets, weights)
            return jax.tree.map(jnp.add, totals, new), None

        zero = jnp.zeros((), jnp.float32)
        return _over_chunks(step, (zero, zero), chunk, hidden, targets, weights)[0]

    return jax.tree.map(lambda total: total.sum(0), share.each(own, hidden, targets, weights))


def _forward(z_loss, smoothing, chunk, hidden, head, targets, weights):
    share = Share.of(*targets.shape)
    whole = share.gathered(head)

    def own(hidden, targets, weights):
        def step(carry, piece):
            totals, head_gradient = carry
            hidden, targets, weights = piece
            score = lambda hidden, head: _chunk_totals(
                z_loss, smoothing, hidden, head, targets, weights
            )
            (loss, plain), pullback = jax.vjp(score, hidden, whole)
            here, there = pullback((jnp.ones_like(loss), jnp.zeros_like(plain)))
            totals = (totals[0] + loss, totals[1] + plain)
            return (totals, jax.tree.map(jnp.add, head_gradient, there)), here

        zero = jnp.zeros((), jnp.float32)
        start = ((zero, zero), jax.tree.map(jnp.zeros_like, head))
        (totals, there), pieces = _over_chunks(step, start, chunk, hidden, targets, weights)
        return totals, there, jnp.moveaxis(pieces, 0, 1).reshape(hidden.shape)

    totals, there, here = share.each(own, hidden, targets, weights)
    totals, there = jax.tree.map(lambda x: x.sum(0), (totals, there))
    return totals, (share.joined(here), share.scattered(there))


def _backward(z_loss, smoothing, chunk, saved, cotangents):
    hidden_gradient, head_gradient = jax.tree.map(
        lambda g: g * cotangents[0].astype(g.dtype), saved
    )
    return hidden_gradient, head_gradient, None, None


_totals.defvjp(_forward, _backward)


def _over_chunks(step, start, chunk, hidden, targets, weights):
    """Scans `step` over pieces [B, chunk, ...] of a device's positions, or smaller ones."""
    chunk = math.gcd(chunk, targets.shape[1])
    pieces = _pieces(chunk, hidden, targets, weights)
    if pieces[1].shape[0] > 1:
        return jax.lax.scan(step, start, pieces)
    carry, out = step(start, jax.tree.map(lambda x: x[0], pieces))
    return carry, None if out is None else out[None]
