"""Classification, and fastText beside PyTorch's EmbeddingBag."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from lm_research import tree
from lm_research.infer.classify import classify
from lm_research.models import BERT, Classifier, FastText
from lm_research.models.initial import initial
from lm_research.objectives import Causal, Classify, Masked, Regress
from lm_research.objectives.read import read

TEXTS = [([3, 1, 4, 1, 5], 2), ([9, 2], 0), ([6], 1)]


@pytest.fixture(scope="module")
def model():
    return FastText(11, ("a", "b", "c"), 6)


@pytest.fixture(scope="module")
def params(model):
    rng = np.random.default_rng(0)
    drawn = tree.unboxed(jax.jit(initial, static_argnums=0)(model, jax.random.key(0)))
    return jax.tree.map(lambda leaf: jnp.float32(rng.normal(size=leaf.shape)), drawn)


def batch(objective, texts=TEXTS):
    rows = [
        objective.example({"text": np.int32(text), "label": label}, None) for text, label in texts
    ]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def totalled(objective, model, params, rows):
    """What a batch measures, and the gradient of its total."""

    def total(params):
        measured = objective.measure(model, params, rows)
        return measured["loss"].total, measured

    (_, measured), gradients = jax.value_and_grad(total, has_aux=True)(params)
    return measured, gradients


def test_an_example_of_eight_tokens_by_hand():
    made = Classify(8).example({"text": np.int32([7, 2, 9]), "label": np.int32(1)}, None)
    assert made["tokens"].tolist() == [7, 2, 9, 0, 0, 0, 0, 0]
    assert made["segments"].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert made["label"] == 1 and made["weights"] == 1


def test_of_a_pair_the_model_is_told_which_text_is_which(model, params):
    pair = {"text": np.int32([7, 2, 9]), "types": np.int32([0, 0, 1]), "label": np.int32(1)}
    made = Classify(8).example(pair, None)
    assert made["types"].tolist() == [0, 0, 1, 0, 0, 0, 0, 0]
    rows = {name: np.stack([x]) for name, x in made.items()}
    other = {**rows, "types": 1 - rows["types"]}
    encoder = Classifier(BERT(11, 8, 1, 2, dropout=0.0), ("a", "b", "c"))
    make = jax.jit(lambda key: tree.unboxed(initial(encoder, key)))
    drawn = jax.tree.map(lambda leaf: 10 * leaf, make(jax.random.key(0)))
    told = jax.jit(read, static_argnums=0)
    short = {name: x[:, :4] if x.ndim > 1 else x for name, x in rows.items()}
    assert np.allclose(told(encoder, drawn, rows), told(encoder, drawn, short), rtol=1e-5)
    assert not np.allclose(told(encoder, drawn, rows), told(encoder, drawn, other), rtol=1e-3)
    assert np.array_equal(read(model, params, rows), read(model, params, other))


def test_squared_errors_by_hand(params):
    model, one = FastText(11, ("score",), 6), {**params, "kernel": params["kernel"][:, :1]}
    objective = Regress(8)
    rows = batch(objective, [(text, label + 0.5) for text, label in TEXTS])
    told = np.asarray(read(model, one, rows))[:, 0]
    measured, gradients = totalled(objective, model, one, rows)
    assert np.isclose(measured["loss"].value(), np.mean((told - [2.5, 0.5, 1.5]) ** 2))
    mean = np.stack([params["embedding"]["table"][np.array(text)].mean(0) for text, _ in TEXTS])
    by_hand = 2 * (told - np.array([2.5, 0.5, 1.5])) @ mean
    assert np.allclose(gradients["kernel"][:, 0], by_hand, rtol=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_fasttext_is_an_embedding_bag_and_a_linear_layer(model, params, smoothing):
    """Forward and gradient, in the way that PyTorch's users write fastText."""
    bag = torch.nn.EmbeddingBag(11, 6, mode="mean")
    bag.weight.data = torch.tensor(np.array(params["embedding"]["table"]))
    kernel = torch.tensor(np.array(params["kernel"]), requires_grad=True)
    flat = torch.tensor([token for text, _ in TEXTS for token in text])
    starts = torch.tensor(np.cumsum([0, *(len(text) for text, _ in TEXTS[:-1])]))
    scores = bag(flat, starts) @ kernel
    labels = torch.tensor([label for _, label in TEXTS])
    kind = dict(reduction="sum", label_smoothing=smoothing)
    loss = torch.nn.functional.cross_entropy(scores, labels, **kind)
    loss.backward()

    objective = Classify(8, smoothing=smoothing)
    measured, gradients = totalled(objective, model, params, batch(objective))
    assert np.allclose(measured["loss"].total, loss.item(), rtol=1e-5)
    assert np.allclose(gradients["embedding"]["table"], bag.weight.grad, rtol=1e-4, atol=1e-6)
    assert np.allclose(gradients["kernel"], kernel.grad, rtol=1e-4, atol=1e-6)
    right = (scores.argmax(1) == labels).float().mean().item()
    assert np.isclose(measured["accuracy"].value(), right)
    chances = classify(model, params, [text for text, _ in TEXTS])
    assert np.allclose(chances, torch.softmax(scores, 1).detach(), rtol=1e-5)


def test_padding_and_texts_of_no_weight_change_nothing(model, params):
    one = Classify(8).measure(model, params, batch(Classify(8)))
    other = Classify(32).measure(model, params, batch(Classify(32)))
    assert np.allclose(one["loss"].total, other["loss"].total, rtol=1e-6)
    rows = batch(Classify(8), [*TEXTS, ([8, 8, 8], 0)])
    rows["weights"][3] = 0
    less = Classify(8).measure(model, params, rows)
    assert np.allclose(one["loss"].total, less["loss"].total) and less["loss"].weight == 3
    assert np.allclose(one["accuracy"].value(), less["accuracy"].value())


def test_microbatches_add_up(model, params, adds_up):
    rows = batch(Classify(8), [*TEXTS, ([8, 8, 8], 0)])
    rows["weights"][1] = 0
    totals = lambda rows: totalled(Classify(8), model, params, rows)
    adds_up(totals, rows, 2)


def test_dropout_leaves_features_out(params):
    model = FastText(11, ("a", "b", "c"), 6, dropout=0.5)
    rows = batch(Classify(8))
    drawn = [
        Classify(8).measure(model, params, rows, {"dropout": jax.random.key(i)})["loss"].total
        for i in range(2)
    ]
    assert drawn[0] != drawn[1]
    still = Classify(8).measure(model, params, rows)["loss"].total
    plain = Classify(8).measure(FastText(11, ("a", "b", "c"), 6), params, rows)["loss"].total
    assert still == plain


def test_what_does_not_fit_is_refused(model):
    assert "tells no classes" in Classify(8).refusal(BERT(11, 8, 1, 2))
    assert Classify(8).refusal(model) == Regress(8).refusal(FastText(11, ("score",), 6)) == ""
    assert "one class; take the objective Regress" in Classify(8).refusal(FastText(11, ("x",), 6))
    assert "it has 3 classes, and a score is one" in Regress(8).refusal(model)
    assert Causal(8).refusal(model) and Masked(8).refusal(model)
