"""Prefix, fill-in-the-middle and multi-token prediction: eight tokens by hand, and microbatches."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from variants import tried

from lm_research import tree
from lm_research.errors import UserError
from lm_research.layers import Mask
from lm_research.models import BERT, Llama
from lm_research.models.initial import initial
from lm_research.objectives import Causal, FillInTheMiddle, MultiToken, Prefix

END, P, S, M = 90, 91, 92, 93
TOKENIZER = types.SimpleNamespace(eos=END, sentinels=(P, S, M))
SIZES = dict(vocab=94, width=16, layers=2, heads=2, hidden=24, deviation=0.4)


class Drawn:
    """Stands in for numpy's generator: what it draws is written in the test."""

    def __init__(self, integers=(), random=()):
        self._integers, self._random = iter(integers), iter(random)

    def integers(self, low, high, size=None, endpoint=False):
        return np.asarray(next(self._integers))

    def random(self):
        return next(self._random)


def record(tokens, weights=None, segments=None):
    weights = np.ones(len(tokens)) if weights is None else weights
    given = {"tokens": np.array(tokens, np.int32), "weights": np.array(weights, np.float32)}
    if segments is not None:
        given["segments"] = segments = np.array(segments, np.int32)
        starts = np.flatnonzero(np.diff(segments, prepend=0))
        given["position"] = np.int32(
            np.arange(len(tokens))
            - starts[np.searchsorted(starts, np.arange(len(tokens)), side="right") - 1]
        )
    return given


def test_a_prefix_of_eight_tokens():
    example = Prefix(8).example(record([1, 2, 3, 4, 5, 6, 7, 8, 9]), Drawn([3]))
    assert example["tokens"].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert example["targets"].tolist() == [2, 3, 4, 5, 6, 7, 8, 9]
    assert example["prefix"].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert example["weights"].tolist() == [0, 0, 1, 1, 1, 1, 1, 1]  # 3 predicts 4


def test_a_prefix_for_each_document_and_none_for_padding():
    given = record([1, 2, 3, END, 4, 5, 6, 0, 0], [1] * 7 + [0, 0], [1, 1, 1, 2, 2, 2, 2, 0, 0])
    example = Prefix(8).example(given, Drawn([3, 2]))
    assert example["prefix"].tolist() == [1, 1, 1, 1, 1, 0, 0, 0]
    # 3 predicts the end of its document; what begins the next one predicts 4, which is a prefix.
    assert example["weights"].tolist() == [0, 0, 1, 0, 1, 1, 0, 0]
    assert example["position"].tolist() == [0, 1, 2, 0, 1, 2, 3, 0]


def test_every_token_sees_the_whole_prefix_and_no_later_one():
    model = Llama(**SIZES)
    params = jax.jit(initial, static_argnums=0)(model, jax.random.key(0))
    tokens = np.arange(1, 9)[None]
    mask = Mask(prefix=np.arange(8)[None] < 3)
    logits = jax.jit(lambda tokens: model.apply({"params": params}, tokens, mask=mask).logits[0])
    for changed in range(8):
        other = tokens.copy()
        other[0, changed] = 50
        moved = np.abs(np.asarray(logits(tokens) - logits(other))).max(-1) > 0
        expected = np.ones(8) if changed < 3 else np.arange(8) >= changed
        assert moved.tolist() == expected.tolist()


@pytest.mark.parametrize(
    "spm, expected",
    [
        # Cut after 2 and after 4: the prefix is 1 2, the middle 3 4, the suffix 5.
        (False, [P, 1, 2, S, 5, M, 3, 4]),
        (True, [P, S, 5, M, 1, 2, 3, 4]),
    ],
)
def test_the_middle_of_eight_tokens(spm, expected):
    objective = FillInTheMiddle(7, spm=float(spm)).bound(TOKENIZER)
    given = record([1, 2, 3, 4, 5, 0, 0, 0], [1] * 5 + [0] * 3)
    example = objective.example(given, Drawn([[4, 2]], [0.1, 0.5]))
    assert [*example["tokens"].tolist(), example["targets"][-1]] == expected
    assert example["weights"].tolist() == [1] * 7


@pytest.mark.parametrize("separate", [True, False])
def test_documents_are_transformed_one_by_one(separate):
    """The second is not; the third begins with the end of it, and is cut off by the window."""
    tokens, segments = [1, 2, END, 3, END, 4, 5, 6, 7], [1, 1, 2, 2, 3, 3, 3, 3, 3]
    objective = FillInTheMiddle(8).bound(TOKENIZER)
    given = record(tokens, segments=segments if separate else None)
    draws = Drawn([[1, 1], [0, 2]], [0.1, 0.9, 0.7, 0.2, 0.9])
    example = objective.example(given, draws)
    assert example["tokens"].tolist() == [P, 1, S, 2, M, END, 3, END]
    assert example["targets"].tolist() == [1, S, 2, M, END, 3, END, P]
    assert ("segments" in example) == separate
    if separate:
        assert example["segments"].tolist() == [1, 1, 1, 1, 1, 2, 2, 3]
        assert example["position"].tolist() == [0, 1, 2, 3, 4, 0, 1, 0]


def test_nothing_is_lost_but_what_the_sentinels_crowd_out():
    rng = np.random.default_rng(0)
    objective = FillInTheMiddle(64, rate=1.0).bound(TOKENIZER)
    for _ in range(20):
        tokens = rng.integers(1, 80, 65)
        example = objective.example(record(tokens), rng)
        seen = np.append(example["tokens"], example["targets"][-1])
        assert {P, S} <= set(seen) and len(seen) == 65
        kept = seen[~np.isin(seen, (P, S, M))]
        assert not set(kept) - set(tokens) and (example["weights"] == 1).all()


def test_a_tokenizer_without_sentinels_is_refused():
    bare = types.SimpleNamespace(eos=None, sentinels=(5,))
    with pytest.raises(UserError, match=r"needs 3 sentinel.*has 1.*tokenizer.sentinels=3"):
        FillInTheMiddle(8).bound(bare)


def test_several_targets_of_eight_tokens():
    given = record([1, 2, 3, END, 4, 5, 6, 7, 0], [1] * 8 + [0], [1, 1, 1, 2, 2, 2, 2, 2, 0])
    example = MultiToken(8, ahead=2).example(given, Drawn())
    assert example["tokens"].tolist() == [1, 2, 3, END, 4, 5, 6, 7]
    assert example["targets"].T.tolist() == [[2, 3, END, 4, 5, 6, 7, 0], [3, END, 4, 5, 6, 7, 0, 0]]
    # The first document ends with its END; 4 is none of it.
    assert example["weights"].T.tolist() == [[1, 1, 1, 1, 1, 1, 1, 0], [1, 1, 0, 1, 1, 1, 0, 0]]


def test_one_token_is_causal():
    """And a block beside the last one is what the last one would be."""
    rng = np.random.default_rng(2)
    given = [record(rng.integers(1, 90, 9)) for _ in range(3)]
    stacked = lambda o: jax.tree.map(lambda *a: np.stack(a), *(o.example(r, rng) for r in given))
    plain, double = Llama(**SIZES), Llama(**SIZES, ahead=2)
    params = tree.unboxed(jax.jit(initial, static_argnums=0)(double, jax.random.key(0)))
    join = lambda one, last: jnp.concatenate([one, last[None]])
    stack = {"blocks": jax.tree.map(join, params["stack"]["blocks"], params["ahead_0"])}
    same = {n: leaf for n, leaf in params.items() if not n.startswith("ahead")} | {"stack": stack}
    causal, two = Causal(8), MultiToken(8, ahead=2)
    measure = lambda o, model: jax.jit(lambda *given: o.measure(model, *given))
    expected = measure(causal, plain)(same, stacked(causal))["loss"].value()
    found = measure(two, double)(params, stacked(two))
    np.testing.assert_allclose(found["cross_entropy"].value(), expected, rtol=1e-6)
    both = found["cross_entropy"].total + found["cross_entropy_2"].total
    np.testing.assert_allclose(found["loss"].total, both, rtol=1e-6)
    assert found["loss"].weight == 24 and found["cross_entropy_2"].weight == 21


def test_what_they_refuse():
    llama, bert = Llama(**SIZES), BERT(94, 16, 1, 2, 24)
    for objective in (Prefix(8), FillInTheMiddle(8)):
        assert objective.refusal(llama) == "" and "encoder" in objective.refusal(bert)
    assert MultiToken(8, ahead=2).refusal(Llama(**SIZES, ahead=2)) == ""
    assert "has blocks for 0 tokens; take a Llama" in MultiToken(8, ahead=2).refusal(llama)
    assert not any(o.likelihood for o in (Prefix(8), FillInTheMiddle(8)))


@pytest.mark.parametrize(
    "objective",
    tried([Prefix(8), FillInTheMiddle(8), MultiToken(8, ahead=3)], [MultiToken(8, ahead=3)]),
)
def test_microbatches_change_nothing(objective):
    model = Llama(**SIZES, ahead=3 if isinstance(objective, MultiToken) else 1)
    if isinstance(objective, FillInTheMiddle):
        objective = objective.bound(TOKENIZER)
    params = jax.jit(initial, static_argnums=0)(model, jax.random.key(0))
    rng = np.random.default_rng(3)
    rows = [record(rng.integers(1, 90, 9), np.arange(9) < n) for n in (9, 3, 6, 2)]
    examples = [objective.example(row, rng) for row in rows]
    batch = jax.tree.map(lambda *a: np.stack(a), *examples)

    @jax.jit
    def gradient(batch):
        total = lambda p: objective.measure(model, p, batch)["loss"].total
        return jax.grad(total)(params), objective.measure(model, params, batch)

    whole = gradient(batch)
    for count in (2, 4):
        cut = lambda i, count=count: jax.tree.map(lambda a: a[i::count], batch)
        pieces = [gradient(cut(i)) for i in range(count)]
        summed = jax.tree.map(lambda *parts: sum(parts), *pieces)
        close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max() + 1e-6)
        jax.tree.map(close, summed, whole)
