"""Masked language modelling: hand-computed examples, shares by count, and what pairs add."""

import dataclasses
import math
import types

import jax
import numpy as np
import pytest

from lm_research import tree
from lm_research.data import Bytes, Memory, pipeline
from lm_research.errors import UserError
from lm_research.models import BERT, GPT2
from lm_research.models.initial import initial
from lm_research.objectives import Masked, NextSentence, SentenceOrder

CLS, SEP, MASK, END = 90, 91, 92, 93
SPECIAL = {"cls": CLS, "sep": SEP, "mask": MASK, "eos": END, "bos": END, "pad": None, "unk": None}


def tokenizer(vocab=94, begins=None, **changes):
    begins = np.ones(vocab, bool) if begins is None else begins
    return types.SimpleNamespace(
        vocab=vocab, sentinels=(), begins_word=begins, **{**SPECIAL, **changes}
    )


def record(tokens, weights=None):
    weights = np.ones(len(tokens)) if weights is None else weights
    return {"tokens": np.array(tokens, np.int32), "weights": np.array(weights, np.float32)}


class Drawn:
    """Stands in for numpy's generator: what it draws is written in the test."""

    def __init__(self, **draws):
        self.draws = {name: iter(values) for name, values in draws.items()}

    def permutation(self, x):
        order = next(self.draws["permutation"])
        return np.asarray(order) if np.ndim(x) == 0 else np.asarray(x)[order]

    def random(self, size=None):
        drawn = next(self.draws["random"])
        return drawn if size is None else np.asarray(drawn)

    def integers(self, *arguments, size=None):
        return np.asarray(next(self.draws["integers"]))

    def geometric(self, _):
        return next(self.draws["geometric"])


def test_an_example_of_eight_tokens():
    """Half of the six that are no special token."""
    objective = Masked(8, rate=0.5).bound(tokenizer())
    draws = Drawn(
        permutation=[[3, 1, 2, 0, 4, 5]],  # of the places 1, 2, 3, 5, 6 and 7
        random=[[0.9, 0.05, 0.9, 0.15, 0.9, 0.5, 0.9, 0.9]],
        integers=[[40, 41, 42]],
    )
    given = record([END, 11, 12, 13, END, 15, 16, 17, 18], [1, 1, 1, 1, 1, 1, 1, 1, 1])
    example = objective.example(given, draws)
    # The permutation begins with 5, 2 and 3. 2 has 0.9: hidden; 3 has 0.15, over keep 0.1: another
    # token; 5 has 0.5: hidden.
    assert example["places"].tolist() == [2, 3, 5, 0]
    assert example["targets"].tolist() == [12, 13, 15, 0]
    assert example["weights"].tolist() == [1, 1, 1, 0]
    assert example["tokens"].tolist() == [END, 11, MASK, 41, END, MASK, 16, 17]


def test_kept_tokens_are_predicted():
    objective = Masked(4, rate=0.5).bound(tokenizer())
    draws = Drawn(permutation=[[0, 3, 1, 2]], random=[[0.02, 1, 1, 0.3]], integers=[[7, 8]])
    example = objective.example(record([11, 12, 13, 14, 15]), draws)
    assert example["tokens"].tolist() == [11, 12, 13, MASK]
    assert example["targets"].tolist() == [11, 14] and example["places"].tolist() == [0, 3]


def test_whole_words_of_eight_tokens():
    """Words (11 30) (12) END (13 30 30) (14): ids over 20 go on with a word."""
    objective = Masked(8, rate=0.5, unit="word").bound(tokenizer(begins=np.arange(94) < 20))
    draws = Drawn(permutation=[[2, 0, 1, 3]], random=[[0.9] * 8], integers=[[0, 0, 0, 0]])
    example = objective.example(record([11, 30, 12, END, 13, 30, 30, 14, 15]), draws)
    # Of 7 ordinary tokens round(3.5) = 4 may be hidden: the third word has 3, the first 2, which is
    # too many, and the second 1.
    assert example["places"].tolist() == [2, 4, 5, 6]
    assert example["tokens"].tolist() == [11, 30, MASK, END, MASK, MASK, MASK, 14]


def test_spans_of_eight_tokens():
    """Spans end at special tokens, and each is replaced alike."""
    objective = Masked(8, rate=0.5, unit="span").bound(tokenizer())
    draws = Drawn(
        permutation=[[2, 5, 0, 1, 3, 4]],
        # Spans of 4, 1 and 9 words: 1 + log(1 - r (1 - 0.8 ** 10)) / log(0.8), rounded down.
        random=[0.607, 0.118, 0.952, [0.95, 0.15, 0.95, 1, 1, 1, 1, 1]],
        integers=[[40, 41, 42]],
    )
    example = objective.example(record([11, 12, 13, END, END, 16, 17, 18, 19]), draws)
    # Words at 0, 1, 2, 5, 6, 7. Of 6 tokens 3: from the third word on 1, for there is an end; then
    # the last word, 1; then from the first on, of which one more fits.
    assert example["places"].tolist() == [0, 2, 7, 0]
    assert example["tokens"].tolist() == [MASK, 12, MASK, END, END, 16, 17, 42]


def test_framed():
    objective = Masked(6, rate=0.2, framed=True).bound(tokenizer())
    given = record([11, 12, 13, 14, 15, 16, 17])
    given["segments"] = np.array([1, 1, 2, 2, 2, 2, 2])
    given["position"] = np.array([0, 1, 0, 1, 2, 3, 4])
    example = objective.example(given, np.random.default_rng(0))
    assert (example["tokens"] == [CLS, 11, 12, 13, 14, SEP]).sum() == 5
    assert example["segments"].tolist() == [1, 1, 1, 2, 2, 2]
    assert example["position"].tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("unit", ["token", "word", "span"])
def test_shares_are_those_asked_for(unit):
    objective = Masked(128, rate=0.25, random=0.2, keep=0.3, unit=unit).bound(
        tokenizer(begins=np.arange(94) % 3 > 0)
    )
    counts = np.zeros(4)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        given = record(rng.integers(0, 94, 129), np.arange(129) < 120)
        example = objective.example(given, rng)
        tokens, hidden = given["tokens"][:128], example["tokens"]
        chosen = example["places"][example["weights"] > 0]
        assert len(chosen) == len(set(chosen)) and (tokens[chosen] < CLS).all()
        assert (chosen < 120).all()
        assert (np.delete(hidden, chosen) == np.delete(tokens, chosen)).all()
        assert (example["targets"][: len(chosen)] == tokens[chosen]).all()
        free = (tokens[:120] < CLS).sum()
        assert round(0.25 * free) - 2 * (unit != "token") <= len(chosen) <= round(0.25 * free)
        now = hidden[chosen]
        counts += [
            len(chosen),
            (now == MASK).sum(),
            (now == tokens[chosen]).sum(),
            ((now < CLS) & (now != tokens[chosen])).sum(),
        ]
    # 1 in 90 replacements is the token itself.
    expected = np.array([0.5, 0.3 + 0.2 / 90, 0.2 * 89 / 90])
    error = np.sqrt(expected * (1 - expected) / counts[0]) * (3 if unit == "span" else 1)
    assert (np.abs(counts[1:] / counts[0] - expected) < 4 * error).all()


def test_dynamic_masks_differ_and_static_ones_do_not():
    given = record(np.arange(33))
    draw = lambda objective, seed: objective.example(given, np.random.default_rng(seed))["places"]
    dynamic = Masked(32, rate=0.3).bound(tokenizer())
    static = dataclasses.replace(dynamic, masks="static")
    assert (draw(dynamic, 1) == draw(dynamic, 1)).all()
    assert (draw(dynamic, 1) != draw(dynamic, 2)).any()
    assert (draw(static, 1) == draw(static, 2)).all()


def test_a_missing_token_and_a_causal_model_are_refused():
    with pytest.raises(UserError, match=r"Masked needs a mask token.*roles=\['mask'\]"):
        Masked(8).bound(Bytes().train(()))
    with pytest.raises(UserError, match=r"needs a sep token"):
        Masked(8, framed=True).bound(tokenizer(sep=None))
    assert Masked(8).bound(Bytes(roles=("mask",)).train(())).words.mask == 257
    sizes = dict(vocab=94, width=16, layers=1, heads=2, context=16)
    assert "do not see those after" in Masked(8).refusal(GPT2(**sizes))
    assert "model.pair=True" in SentenceOrder(8).refusal(BERT(**sizes))
    assert not SentenceOrder(8).refusal(BERT(**sizes, pair=True))
    assert not Masked(8).refusal(BERT(**sizes))
    assert "no head" in Masked(8).refusal(BERT(**sizes, head=False))


def test_a_pair_of_eight_tokens():
    """[cls] 11 12 [sep] 13 14 15 [sep], or the other way round."""
    objective = SentenceOrder(8, rate=0.2).bound(tokenizer())
    for swapped, want in (
        (0.7, [CLS, 11, 12, SEP, MASK, 14, 15, SEP]),
        (0.2, [CLS, 13, 14, 15, SEP, MASK, 12, SEP]),
    ):
        draws = Drawn(
            integers=[2, [50]],
            random=[swapped, [0.9] * 8],
            permutation=[[2, 0, 1, 3, 4] if swapped > 0.5 else [3, 0, 1, 2, 4]],
        )
        example = objective.example(record([11, 12, 13, 14, 15, 16, 17, 18, 19]), draws)
        assert example["tokens"].tolist() == want
        assert example["pair"] == (swapped < 0.5)
        cut = 4 if swapped > 0.5 else 5
        assert example["types"].tolist() == [0] * cut + [1] * (8 - cut)
        assert example["segments"].tolist() == [1] * 8


def test_a_foreign_second_text():
    objective = NextSentence(8, rate=0.2).bound(tokenizer())
    draws = Drawn(integers=[2, [50]], random=[0.1, [0.9] * 8], permutation=[[0, 1, 2, 3]])
    given = record([11, 12, 13, 14, 15, 16, 17, 18, 19])
    given["others"] = [record([21, 22, 23, 24, 25, 26, 27, 28, 29], [1, 1, 0, 0, 0, 0, 0, 0, 0])]
    example = objective.example(given, draws)
    assert example["tokens"].tolist() == [CLS, MASK, 12, SEP, 21, 22, 23, SEP]
    assert example["segments"].tolist() == [1, 1, 1, 1, 1, 1, 0, 1] and example["pair"] == 1
    with pytest.raises(UserError, match="takes two windows"):
        objective.example(record(range(9)), draws)


def test_the_pipeline_gives_other_windows():
    objective = NextSentence(8).bound(tokenizer())
    rows = Memory([record(10 * i + np.arange(9)) for i in range(5)])
    plan = pipeline.Plan(rows, objective, seed=3, size=40)
    batch = plan.batch(0)
    tens = np.where(batch["tokens"] < CLS, batch["tokens"] // 10, -1)
    # A replaced token may be any: where both texts are whole, look at the most frequent window.
    of = lambda row, kind: np.bincount(row[(kind) & (row >= 0)], minlength=9).argmax()
    pairs = [(of(row, kind == 0), of(row, kind == 1)) for row, kind in zip(tens, batch["types"])]
    same = np.array([a == b for a, b in pairs])
    assert np.mean(same == (batch["pair"] == 0)) > 0.8 and 5 < batch["pair"].sum() < 35
    again = plan.batch(0)
    assert all((again[name] == batch[name]).all() for name in batch)


SIZES = dict(vocab=94, width=16, layers=1, heads=2, context=16, deviation=0.4)
MODELS = {"Masked": BERT(**SIZES), "NextSentence": BERT(**SIZES, pair=True)}
KINDS = {"Masked": Masked, "NextSentence": NextSentence}


@pytest.fixture(params=KINDS)
def prepared(request):
    """A model, its parameters, an objective, and a batch of rows with uneven numbers of targets."""
    objective = KINDS[request.param](16, rate=0.3).bound(tokenizer())
    rng = np.random.default_rng(2)
    rows = [record(rng.integers(0, 90, 17), np.arange(17) < n) for n in (16, 3, 9, 16, 5, 12, 7, 1)]
    plan = pipeline.Plan(Memory(rows), objective, seed=1, size=8, shuffle=False)
    model = MODELS[request.param]
    params = tree.unboxed(jax.jit(initial, static_argnums=0)(model, jax.random.key(0)))
    return model, params, objective, plan.batch(0)


def totals(model, params, objective, batch):
    measured = lambda p: objective.measure(model, p, batch)
    value, gradient = jax.jit(
        jax.value_and_grad(lambda p: (lambda m: (m["loss"].total, m))(measured(p)), has_aux=True)
    )(params)
    return value[1], gradient


def test_microbatches_change_nothing(prepared, adds_up):
    model, params, objective, batch = prepared
    assert len(set(batch["weights"].sum(1))) > 2
    adds_up(lambda rows: totals(model, params, objective, rows), batch, 4)


def test_the_loss_is_that_of_all_logits(prepared):
    """Without gathering: the hidden ones' cross-entropy, and the pairs' beside it."""
    model, params, objective, batch = prepared
    measured, _ = totals(model, params, objective, batch)
    output = objective.read(model, params, batch, None)
    logprobs = np.asarray(jax.nn.log_softmax(output.logits), np.float64)
    total = weight = pair = 0.0
    for row in range(8):
        chosen = batch["weights"][row] > 0
        places, targets = batch["places"][row][chosen], batch["targets"][row][chosen]
        total -= logprobs[row, places, targets].sum()
        weight += chosen.sum()
        if "pair" in batch:
            right = jax.nn.log_softmax(output.pair[row])[batch["pair"][row]]
            pair -= float(right) * chosen.sum()
    assert measured["loss"].weight == weight
    assert math.isclose(measured["loss"].value(), (total + pair) / weight, rel_tol=1e-5)
    if "pair" in batch:
        assert math.isclose(measured["cross_entropy"].value(), total / weight, rel_tol=1e-5)
        assert math.isclose(measured["pair_loss"].value(), pair / weight, rel_tol=1e-4)
