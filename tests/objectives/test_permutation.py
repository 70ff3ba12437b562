"""Permutation language modelling: an example by hand, orders, likelihoods, and what is refused."""

import dataclasses
import itertools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_research.errors import UserError
from lm_research.infer.order import score_in_order
from lm_research.infer.score import score
from lm_research.layers import Mask
from lm_research.models import GPT2, XLNet
from lm_research.models.initial import initial
from lm_research.objectives import Causal, Permutation
from lm_research.train.experiment import Batch
from lm_research.train.step import accumulated
from lm_research.weights import Full

V = 4
MODEL = XLNet(V, 16, 2, 2, 24, deviation=0.4)
RECORD = {
    "tokens": np.array([9, 10, 11, 12, 13, 14, 15, 16, 17]),
    "weights": np.array([1, 1, 1, 1, 1, 1, 1, 0, 0], np.float32),
}


@pytest.fixture(scope="module")
def params():
    return nn.unbox(jax.jit(initial, static_argnums=0)(MODEL, jax.random.key(0)))


class Script:
    """Draws that were written down beforehand."""

    def __init__(self, *draws):
        self.draws = iter(draws)

    def integers(self, bound):
        drawn = next(self.draws)
        assert 0 <= drawn < bound
        return drawn

    def choice(self, values, p):
        np.testing.assert_allclose(p * np.arange(1, 1 + len(p)), p[0])
        return values[next(self.draws) - 1]

    def permutation(self, count):
        drawn = next(self.draws)
        assert sorted(drawn) == list(range(count))
        return np.array(drawn)


def test_an_example_of_eight_tokens():
    # No room is left before the first stretch. Then for each span its length, and where it stands
    # in a stretch of twice its length: 2 of 0 to 3 at 1, 1 of 4 to 5 at 1, 2 (but one is left) of 6
    # to 7 at 0. At last the order of the four.
    rng = Script(0, 2, 1, 1, 1, 2, 0, [2, 0, 3, 1])
    example = Permutation(length=8, partial=2, span=2).example(RECORD, rng)
    assert example["tokens"].tolist() == [10, 11, 12, 13, 14, 15, 16, 17]
    assert example["slots"].tolist() == [1, 2, 5, 6]
    assert example["targets"].tolist() == [11, 12, 15, 16]
    assert example["order"].tolist() == [0, 3, 1, 0, 0, 4, 2, 0]
    assert example["weights"].tolist() == [1, 1, 1, 0]
    assert set(example) == {"tokens", "order", "slots", "targets", "weights"}
    allowed = np.array(Mask.factorised(example["order"][None]).allowed[0], int)
    assert allowed.tolist() == [
        [1, 0, 0, 1, 1, 0, 0, 1],
        [1, 0, 1, 1, 1, 0, 1, 1],  # the third in the order sees the first and the second
        [1, 0, 0, 1, 1, 0, 0, 1],  # the first sees what is given
        [1, 0, 0, 1, 1, 0, 0, 1],
        [1, 0, 0, 1, 1, 0, 0, 1],
        [1, 1, 1, 1, 1, 0, 1, 1],  # the last sees all but itself
        [1, 0, 1, 1, 1, 0, 0, 1],
        [1, 0, 0, 1, 1, 0, 0, 1],
    ]


def test_segments_are_those_of_the_tokens():
    segments = np.array([1, 1, 1, 2, 2, 2, 2, 0, 0])
    record = RECORD | {"segments": segments, "position": np.zeros(9, int)}
    example = Permutation(length=8).example(record, np.random.default_rng(0))
    assert example["segments"].tolist() == segments[1:].tolist()
    assert "position" not in example  # distances go by slot


def test_one_token_in_six_is_a_target_wherever_it_stands():
    objective, rng, counts = Permutation(length=100), np.random.default_rng(0), np.zeros(100)
    record = {"tokens": np.arange(101), "weights": np.ones(101, np.float32)}
    orders = []
    for _ in range(2000):
        example = objective.example(record, rng)
        slots = example["slots"]
        assert len(set(slots)) == 16 and (np.diff(slots) > 0).all()
        np.testing.assert_array_equal(example["targets"], slots + 1)
        orders.append(example["order"][slots])
        counts[slots] += 1
    assert (np.abs(counts[6:-6] / 2000 - 0.16) < 0.06).all()
    assert (np.abs(np.mean(orders, 0) - 8.5) < 0.5).all()


def batch(rows, length):
    objective, rng = Permutation(length, partial=2, span=2), np.random.default_rng(1)
    examples = []
    for row in range(rows):
        weights = (np.arange(length + 1) < length + 1 - row % 5).astype(np.float32)
        record = {"tokens": rng.integers(0, V, length + 1), "weights": weights}
        examples.append(objective.example(record, rng))
    return objective, jax.tree.map(lambda *leaves: np.stack(leaves), *examples)


def test_the_loss_is_that_of_the_chain_rule(params):
    objective, given = batch(3, 8)
    loss = objective.measure(MODEL, params, given)["loss"]
    found = score_in_order(MODEL, params, given["tokens"], given["order"])
    wanted = [
        -result["logprobs"][slot] * weight
        for result, slots, weights in zip(found, given["slots"], given["weights"])
        for slot, weight in zip(slots, weights)
    ]
    np.testing.assert_allclose(loss.total, sum(wanted), rtol=1e-5)
    assert loss.weight == given["weights"].sum() < 12


@pytest.mark.parametrize("count", [2, 4])
def test_microbatches_change_nothing(params, count):
    objective, given = batch(8, 8)

    def run(count):
        x = types.SimpleNamespace(
            model=MODEL, objective=objective, weights=Full(), batch=Batch(8, count)
        )
        state = types.SimpleNamespace(trained=params, held={})
        gradients, measured = jax.jit(
            lambda params, rows: accumulated(
                x, types.SimpleNamespace(trained=params, held={}), rows, jax.random.key(0)
            )
        )(state.trained, given)
        return gradients, measured["loss"]

    (want, whole), (got, pieces) = run(1), run(count)
    np.testing.assert_allclose([pieces.total, pieces.weight], [whole.total, whole.weight], 1e-5)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(want))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5 * largest), got, want)


@pytest.mark.parametrize("order", [[1, 2, 3], [3, 1, 2], [2, 0, 1]])
def test_probabilities_of_all_strings_sum_to_one(params, order):
    """In every order; where a token is given, for each of its values."""
    strings = list(itertools.product(range(V), repeat=3))
    found = score_in_order(MODEL, params, strings, [order] * len(strings))
    assert all((x is None) == (place == 0) for x, place in zip(found[0]["logprobs"], order))
    total = sum(np.exp(result["sum"]) for result in found)
    np.testing.assert_allclose(total, V ** order.count(0), rtol=1e-5)


def test_scores_are_from_left_to_right_unless_told_otherwise(params):
    tokens = [[3, 1, 2, 0, 1], [2]]
    orders = [[1, 2, 3, 4, 5], [1]]
    assert score(MODEL, params, tokens) == score_in_order(MODEL, params, tokens, orders)
    [whole, _] = score(MODEL, params, tokens)
    for length in (1, 3):  # what comes later does not count
        [part] = score(MODEL, params, [tokens[0][:length]])
        np.testing.assert_allclose(part["logprobs"], whole["logprobs"][:length], atol=1e-5)
    with pytest.raises(UserError, match=r"sequence 0 has 2 tokens and the order \[1, 3\]"):
        score_in_order(MODEL, params, [[1, 2]], [[1, 3]])


def test_what_cannot_be_trained_is_refused():
    objective = Permutation(length=8)
    assert objective.refusal(MODEL) == ""
    assert "no second stream" in objective.refusal(GPT2(V, 16, 1, 2))
    assert "model.causal=False" in objective.refusal(XLNet(V, 16, 1, 2, causal=True))
    assert "use Permutation" in Causal(length=8).refusal(XLNet(V, 16, 1, 2, causal=True))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"partial": 9}, "partial 9 is not within 1 and length 8"),
        ({"span": 0}, "span is 0"),
        ({"partial": 2, "chunk": 3}, "chunk 3 does not divide 4 targets"),
    ],
)
def test_values_that_mean_nothing_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        Permutation(length=8, **changes)


def test_chunks_change_nothing(params):
    objective, given = batch(3, 8)
    one = objective.measure(MODEL, params, given)["loss"].total
    two = dataclasses.replace(objective, chunk=2).measure(MODEL, params, given)["loss"].total
    np.testing.assert_allclose(jnp.float32(two), one, rtol=1e-6)
