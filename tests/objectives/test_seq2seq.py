"""Sequence to sequence: an example by hand, and microbatches of uneven weight."""

import functools

import jax
import numpy as np
import pytest
from variants import tried

from lm_research import tree
from lm_research.models import GPT2, T5, OriginalTransformer
from lm_research.models.initial import initial
from lm_research.objectives import Causal, Seq2Seq, SpanCorruption
from lm_research.objectives.seq2seq import filled
from lm_research.optimizers import AdamW
from lm_research.train.experiment import Batch, Experiment
from lm_research.train.step import State, accumulated

RNG = np.random.default_rng(0)
MODEL = T5(32, 16, 1, heads=2, head=8, hidden=24)


def test_an_example_of_eight_tokens():
    record = {"source": np.array([5, 6, 7, 1]), "target": np.array([9, 8, 7, 6, 1])}
    example = Seq2Seq(length=8).example(record, RNG)
    assert example["source"].tolist() == [5, 6, 7, 1, 0, 0, 0, 0]
    assert example["segments"].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert example["targets"].tolist() == [9, 8, 7, 6, 1, 0, 0, 0]
    assert example["weights"].tolist() == [1, 1, 1, 1, 1, 0, 0, 0]
    assert MODEL.clone(start=3).shifted(example["targets"][None]).tolist() == [
        [3, 9, 8, 7, 6, 1, 0, 0]
    ]


def test_models_that_cannot_read_a_source_are_refused():
    assert "no encoder" in Seq2Seq(8).refusal(GPT2(8, 8, 1, 1))
    assert not Seq2Seq(8).refusal(MODEL) and not SpanCorruption(8).refusal(MODEL)
    assert "reads a source" in Causal(8).refusal(MODEL)
    assert not Seq2Seq(8).refusal(OriginalTransformer(8, 8, 1, 1))


@pytest.mark.parametrize(
    "objective", tried([Seq2Seq(8), SpanCorruption(8)], [SpanCorruption(8)]), ids=str
)
def test_microbatches_change_nothing(objective):
    """Eight pairs of uneven length."""
    params = tree.unboxed(jax.jit(initial, static_argnums=0)(MODEL, jax.random.key(0)))
    pairs = [(RNG.integers(2, 32, RNG.integers(1, 9)), RNG.integers(2, 32, n)) for n in range(1, 9)]
    examples = [filled(source, target, 8, 8) for source, target in pairs]
    batch = {name: np.stack([e[name] for e in examples]) for name in examples[0]}

    def summed(count):
        x = Experiment(
            model=MODEL,
            objective=objective,
            optimizer=AdamW(1e-3),
            batch=Batch(8, count),
            steps=1,
        )
        state = State(np.zeros((), np.int32), params, {}, None)
        return jax.jit(lambda b: accumulated(x, state, b, jax.random.key(0)))(batch)

    found = [summed(count) for count in (1, 2, 4)]
    assert all(measured["loss"].weight == 36 for _, measured in found)
    for other in found[1:]:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), other, found[0]
        )


@pytest.mark.parametrize(
    "model", [MODEL, OriginalTransformer(32, 16, 1, 2, 24)], ids=["t5", "original"]
)
def test_pairs_that_share_a_row_are_scored_as_those_that_do_not(model):
    """Three pairs of uneven length, in one row and alone; one place of the row is padding."""
    drawn = jax.jit(functools.partial(initial, model))(jax.random.key(0))
    params = jax.tree.map(lambda p: 3 * p, tree.unboxed(drawn))
    sizes = [(3, 2), (1, 4), (4, 3)]
    records = [
        {"source": RNG.integers(2, 32, s), "target": RNG.integers(2, 32, t)} for s, t in sizes
    ]
    row = {name: np.concatenate([r[name] for r in records]) for name in ("source", "target")}
    row["counts"] = dict(zip(("source", "target"), np.array(sizes).T))
    objective = Seq2Seq(10)
    example = objective.example(row, RNG)
    assert example["segments"].tolist() == [1, 1, 1, 2, 3, 3, 3, 3, 0, 0]
    assert example["target_segments"].tolist() == [1, 1, 2, 2, 2, 2, 3, 3, 3, 0]
    assert example["target_position"].tolist() == [0, 1, 0, 1, 2, 3, 0, 1, 2, 0]

    def total(examples):
        batch = {name: np.stack([e[name] for e in examples]) for name in examples[0]}
        return jax.jit(lambda b: objective.measure(model, params, b)["loss"].total)(batch)

    alone = total([objective.example(record, RNG) for record in records])
    assert alone > 10
    np.testing.assert_allclose(total([example]), alone, rtol=1e-5)
    example["target_position"][1] += 1
    example["segments"][2] += 1
    assert abs(total([example]) - alone) > 0.01
