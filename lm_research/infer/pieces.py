"""Log-probabilities of given tokens, without ever holding the logits of a whole batch."""

import jax
import jax.numpy as jnp

from lm_research.layers import Head

Array = jax.Array

LOGITS = 2**25  # held at once: 128 MiB in float32


def in_pieces(head: Head, hidden: Array, targets: Array) -> Array:  # [B, T]
    """Of targets [B, T] at hidden states [B, T, D]; the head goes over pieces of T."""
    B, T, _ = hidden.shape
    size = max(1, LOGITS // (B * head.kernel.shape[0]))
    size = next(n for n in range(min(T, size), 0, -1) if T % n == 0)

    def piece(given):
        hidden, targets = given
        logprobs = jax.nn.log_softmax(head(hidden))
        return jnp.take_along_axis(logprobs, targets[..., None], -1)[..., 0]

    if size == T:
        return piece((hidden, targets))
    cut = lambda x: jnp.moveaxis(x.reshape(B, T // size, size, *x.shape[2:]), 1, 0)
    return jnp.moveaxis(jax.lax.map(piece, (cut(hidden), cut(targets))), 0, 1).reshape(B, T)
