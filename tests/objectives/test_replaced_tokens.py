"""Replaced-token detection: what is drawn, what counts as replaced, and the sum of both losses."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_research import tree
from lm_research.data import Memory, pipeline
from lm_research.layers import Head, Output
from lm_research.models import BERT, ELECTRAPair
from lm_research.models.initial import initial
from lm_research.objectives import ReplacedTokens

MASK = 9
ROLES = dict.fromkeys(("eos", "bos", "pad", "cls", "sep", "unk"))
TOKENIZER = types.SimpleNamespace(
    vocab=10, mask=MASK, sentinels=(), begins_word=np.ones(10, bool), **ROLES
)


class Scripted:
    """A pair that says what is written: which token stands at each place, and what it detects."""

    def __init__(self, likely, detected):
        self.likely, self.detected, self.seen = likely, detected, {}

    def apply(self, _, tokens, *, half, **__):
        self.seen[half] = np.asarray(tokens)
        hidden = 40.0 * jax.nn.one_hot(jnp.asarray(self.likely), 10)
        replaced = jnp.asarray(self.detected, jnp.float32)
        return Output(hidden, Head(jnp.eye(10)), replaced=replaced)


def test_a_row_of_eight_tokens():
    """Places 1, 4 and 6 are hidden; the generator says 5, the text's own 4 and 2 there."""
    objective = ReplacedTokens(8, rate=0.5).bound(TOKENIZER)
    batch = {
        "tokens": np.array([[0, MASK, 2, 3, MASK, 5, 6, 0]]),  # 6 is hidden, and kept
        "places": np.array([[1, 4, 6, 0]]),
        "targets": np.array([[1, 4, 6, 0]]),
        "weights": np.array([[1, 1, 1, 0]], np.float32),
        "real": np.array([[1, 1, 1, 1, 1, 1, 1, 0]], np.float32),
        "noise": np.array([7], np.uint32),
    }
    model = Scripted([[0, 5, 0, 0, 4, 0, 2, 0]], [[-2, 3, -1, 1, -2, -2, -2, 9]])
    measured = objective.measure(model, {}, batch)
    assert model.seen["generator"].tolist() == [[0, MASK, 2, 3, MASK, 5, 6, 0]]
    assert model.seen["discriminator"].tolist() == [[0, 5, 2, 3, 4, 5, 2, 0]]
    # The generator's logits are 40 where it is sure, so of 1 and 6 it says 40 nats, of 4 none.
    np.testing.assert_allclose(measured["masked_loss"].value(), 80 / 3, rtol=1e-5)
    # 1 and 6 are replaced: found with 3 and missed with -2; 3 is called so with 1.
    sure = lambda x: np.log1p(np.exp(-x))
    nats = [sure(2), sure(3), sure(1), sure(-1), sure(2), sure(2), sure(-2)]
    np.testing.assert_allclose(measured["detection_loss"].value(), np.mean(nats), rtol=1e-5)
    want = 80 / 3 + 50 * np.mean(nats)
    np.testing.assert_allclose(measured["loss"].value(), want, rtol=1e-5)
    np.testing.assert_allclose(measured["detection_accuracy"].value(), 5 / 7, rtol=1e-5)
    np.testing.assert_allclose(measured["replaced"].value(), 2 / 7, rtol=1e-5)


def test_draws_are_those_of_the_distribution():
    """By count, against the generator's probabilities; other noise, other draws."""
    objective = ReplacedTokens(8, rate=0.5)
    logits = jnp.array([0.0, 1.0, 2.0, -1.0])
    rows = 4000
    output = Output(jnp.ones((rows, 8, 1)), Head(logits[:, None]))
    batch = {
        "places": np.zeros((rows, 4), np.int32),
        "noise": np.arange(rows, dtype=np.uint32),
    }
    drawn = np.asarray(jax.jit(objective._drawn)(output, batch))
    shares = np.bincount(drawn.ravel(), minlength=4) / drawn.size
    expected = np.asarray(jax.nn.softmax(logits))
    assert (np.abs(shares - expected) < 4 * np.sqrt(expected / drawn.size)).all()
    assert len({tuple(row) for row in drawn}) > 100


MODEL = ELECTRAPair(10, 16, 2, 2, 8, 8, 1, context=16, deviation=0.4)


@pytest.fixture(scope="module")
def prepared():
    objective = ReplacedTokens(16, rate=0.3, framed=False).bound(TOKENIZER)
    rng = np.random.default_rng(2)
    rows = [
        {
            "tokens": rng.integers(0, 9, 17).astype(np.int32),
            "weights": (np.arange(17) < n).astype(np.float32),
            "segments": (np.arange(17) < n).astype(np.int32),
            "position": np.arange(17, dtype=np.int32),
        }
        for n in (16, 3, 9, 16, 5, 12, 7, 1)
    ]
    plan = pipeline.Plan(Memory(rows), objective, seed=1, size=8, shuffle=False)
    return (
        objective,
        tree.unboxed(jax.jit(initial, static_argnums=0)(MODEL, jax.random.key(0))),
        plan.batch(0),
    )


def totals(objective, params, batch):
    def measured(params):
        found = objective.measure(MODEL, params, batch)
        return found["loss"].total, found

    gradient, found = jax.jit(jax.grad(measured, has_aux=True))(params)
    return found, gradient


def test_microbatches_change_nothing(prepared, adds_up):
    objective, params, batch = prepared
    adds_up(lambda rows: totals(objective, params, rows), batch, 4)


def test_detection_teaches_the_generator_nothing_but_embeddings(prepared):
    objective, params, batch = prepared
    _, gradient = totals(objective, params, batch)
    _, other = totals(dataclasses.replace(objective, detection=500.0), params, batch)
    same = lambda a, b: bool(jnp.allclose(a, b, rtol=1e-5, atol=1e-6))
    assert all(jax.tree.leaves(jax.tree.map(same, gradient["generator"], other["generator"])))
    assert not same(gradient["embedding"]["table"], other["embedding"]["table"])
    head = gradient["discriminator"]["detector"]["kernel"], other["discriminator"]["detector"]
    np.testing.assert_allclose(10 * head[0], head[1]["kernel"], rtol=1e-4)


def test_one_encoder_is_refused():
    assert "ELECTRAPair" in ReplacedTokens(8).refusal(BERT(10, 16, 1, 2))
    assert not ReplacedTokens(8).refusal(MODEL)
