"""Labels of words and ends of answers, by hand and beside PyTorch."""

import jax
import numpy as np
import pytest
import torch
from each_token import Each, drawn

from lm_research.models import BERT, Classifier, FastText
from lm_research.objectives import Classify, Span, Tag
from lm_research.objectives.read import read

WORDS = [([3, 1, 4, 1, 5], [-1, 2, -1, 0, -1]), ([9, 2], [1, 2]), ([6], [-1])]
SPANS = [([3, 1, 4, 1, 5], 2, 3), ([9, 2], 0, 0), ([6, 7, 8], 1, 2)]


@pytest.fixture(scope="module")
def models():
    kinds = {"Tag": Each(("a", "b", "c")), "Span": Each(("start", "end"))}
    return {name: (model, drawn(model)) for name, model in kinds.items()}


def batch(objective):
    if isinstance(objective, Tag):
        records = [{"text": np.int32(t), "labels": np.int32(own)} for t, own in WORDS]
    else:
        records = [{"text": np.int32(t), "start": a, "end": b} for t, a, b in SPANS]
    rows = [objective.example(record, None) for record in records]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


@jax.jit(static_argnums=(0, 1))
def totalled(objective, model, params, rows):
    """What a batch measures, and the gradient of its total."""

    def total(params):
        measured = objective.measure(model, params, rows)
        return measured["loss"].total, measured

    (_, measured), gradients = jax.value_and_grad(total, has_aux=True)(params)
    return measured, gradients


def test_examples_of_eight_tokens_by_hand():
    made = Tag(8).example({"text": np.int32([7, 2, 9]), "labels": np.int32([-1, 4, 0])}, None)
    assert made["tokens"].tolist() == [7, 2, 9, 0, 0, 0, 0, 0]
    assert made["segments"].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert made["labels"].tolist() == [0, 4, 0, 0, 0, 0, 0, 0]
    assert made["weights"].tolist() == [0, 1, 1, 0, 0, 0, 0, 0]
    record = {"text": np.int32([7, 2, 9]), "types": np.int32([0, 1, 1]), "start": 1, "end": 2}
    made = Span(8).example(record, None)
    assert made["types"].tolist() == [0, 1, 1, 0, 0, 0, 0, 0]
    assert (made["start"], made["end"], made["weights"]) == (1, 2, 1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_labels_of_words(models, smoothing):
    """As users of PyTorch write it: -100 where nothing is to be told."""
    objective, (model, params) = Tag(8, smoothing), models["Tag"]
    rows = batch(objective)
    measured, _ = totalled(objective, model, params, rows)
    scores = torch.tensor(np.array(read(model, params, rows)))
    labels = torch.tensor(np.where(rows["weights"] > 0, rows["labels"], -100)).long()
    given = dict(reduction="sum", label_smoothing=smoothing)
    loss = torch.nn.functional.cross_entropy(scores.flatten(0, 1), labels.flatten(), **given)
    assert np.isclose(measured["loss"].total, loss.item(), rtol=1e-5)
    assert measured["loss"].weight == 4
    right = (scores.argmax(-1) == labels)[labels >= 0].float().mean()
    assert np.isclose(measured["accuracy"].value(), right)


def test_ends_of_answers(models):
    """As `transformers` has it, but that padding is no place to begin or end."""
    objective, (model, params) = Span(8), models["Span"]
    rows = batch(objective)
    measured, _ = totalled(objective, model, params, rows)
    scores = torch.tensor(np.array(read(model, params, rows)))
    loss = 0
    for row, (tokens, *ends) in enumerate(SPANS):
        for i, end in enumerate(ends):
            own = scores[row : row + 1, : len(tokens), i]
            loss += torch.nn.functional.cross_entropy(own, torch.tensor([end])).item() / 2
    assert np.isclose(measured["loss"].total, loss, rtol=1e-5) and measured["loss"].weight == 3
    ends = [scores[row, : len(tokens)].argmax(0).tolist() for row, (tokens, *_) in enumerate(SPANS)]
    told = [found == own for found, (_, *own) in zip(ends, SPANS)]
    assert np.isclose(measured["accuracy"].value(), np.mean(told))


@pytest.mark.parametrize("objective", [Tag(8), Span(8)], ids=["Tag", "Span"])
def test_microbatches_add_up(models, adds_up, objective):
    model, params = models[type(objective).__name__]
    rows = {name: np.concatenate([x, x[:1]]) for name, x in batch(objective).items()}
    rows["weights"][2] = 0
    adds_up(lambda rows: totalled(objective, model, params, rows), rows, 2)


def test_what_does_not_fit_is_refused():
    bare, whole = BERT(11, 8, 1, 2), Classifier(BERT(11, 8, 1, 2), ("a", "b"))
    assert "tells no classes" in Tag(8).refusal(bare) and "tells no classes" in Span(8).refusal(
        bare
    )
    assert "give it model.pool='each'" in Tag(8).refusal(whole)
    assert "give it model.pool='each'" in Tag(8).refusal(FastText(11, ("a", "b"), 6))
    assert Tag(8).refusal(Each(("a", "b"))) == Span(8).refusal(Each(("start", "end"))) == ""
    assert "its classes are a, b; it takes start, end" in Span(8).refusal(Each(("a", "b")))
    assert "of each token" in Classify(8).refusal(Each(("a", "b")))
