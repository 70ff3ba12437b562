"""The right one of several choices, beside `transformers`."""

import jax
import numpy as np
import pytest
import torch
import transformers

from lm_research import config, mesh, tree
from lm_research.hub import load
from lm_research.models import BERT, T5, Classifier
from lm_research.objectives import Choose
from lm_research.train.experiment import CONTENTS

LENGTH, MOST = 12, 3


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A model of theirs with weights large enough to tell variants apart, and its directory."""
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    given = transformers.BertConfig(vocab_size=96, max_position_embeddings=64, **sizes)
    model = transformers.BertForMultipleChoice(given).eval()
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.4)
    directory = tmp_path_factory.mktemp("theirs")
    model.save_pretrained(directory)
    return model, directory


@pytest.fixture(scope="module")
def ours(theirs):
    with mesh.single():
        model = config.build(load.section(theirs[1]), CONTENTS, "model")
        return model, load.load(theirs[1], model)


def batch(counts, most=MOST):
    """Questions of so many choices each, among those that have `most`."""
    rng, rows = np.random.default_rng(0), []
    for i, count in enumerate(counts):
        sizes = rng.integers(4, LENGTH + 1, count)
        texts = [rng.integers(3, 96, n).astype(np.int32) for n in sizes]
        types = [(np.arange(n) >= n // 2).astype(np.int32) for n in sizes]
        none = [np.zeros(0, np.int32)] * (most - count)
        record = {"texts": texts + none, "types": types + none, "label": i % count}
        rows.append(Choose(LENGTH).example(record, None))
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def test_loss_scores_and_gradient_are_theirs(theirs, ours):
    rows, (model, params) = batch([3, 3, 3, 3]), ours
    given = dict(
        input_ids="tokens", attention_mask="segments", token_type_ids="types", labels="label"
    )
    want = theirs[0](**{name: torch.tensor(rows[own]).long() for name, own in given.items()})
    want.loss.backward()
    assert want.logits.detach().numpy().std() > 0.01

    @jax.jit
    def total(params):
        measured = Choose(LENGTH).measure(model, params, rows)
        return measured["loss"].total, (measured, Choose.scores(model, params, rows))

    (_, (measured, scores)), slopes = jax.value_and_grad(total, has_aux=True)(params)
    assert np.allclose(scores, want.logits.detach().numpy(), atol=1e-5)
    assert np.isclose(measured["loss"].value(), want.loss.item(), atol=1e-5)
    right = want.logits.argmax(1).numpy() == rows["label"]
    assert measured["accuracy"].value() == right.mean()
    slope = theirs[0].classifier.weight.grad.numpy() * 4  # theirs is of the mean
    assert np.allclose(slopes["kernel"].T, slope, atol=1e-4 * abs(slope).max())


@pytest.mark.parametrize("most", [3, 5])
def test_absent_choices_are_none(ours, most):
    """They are as if the question had been asked without them, in the gradient too."""
    model, params = ours
    rows = batch([2, 2], most)
    fewer = {name: x[:, :2] if x.ndim == 3 else x for name, x in rows.items()}

    def total(params, rows):
        measured = Choose(LENGTH).measure(model, params, rows)
        return measured["loss"].total, measured["accuracy"].total

    graded = jax.jit(jax.value_and_grad(total, has_aux=True))
    (loss, right), slopes = graded(params, rows)
    (same, also), expected = graded(params, fewer)
    assert np.isclose(loss, same, rtol=1e-6) and right == also
    slopes, expected = tree.named_leaves(slopes), tree.named_leaves(expected)
    for name, other in expected.items():
        if name == "bias" or name.endswith("key/bias"):
            # What all choices share, or all keys, has no slope but rounding.
            assert np.allclose([slopes[name], other], 0, atol=5e-7), name
        else:
            bound = 1e-5 * max(1e-3, abs(other).max())
            assert np.allclose(slopes[name], other, atol=bound), name


def test_what_has_no_one_score_is_refused():
    trunk = BERT(20, 8, 1, 2)
    assert Choose(8).refusal(Classifier(trunk)) == ""
    assert "it has 2 classes" in Choose(8).refusal(Classifier(trunk, ("a", "b")))
    assert "tells no classes" in Choose(8).refusal(trunk)
    writer = Classifier(T5(20, 8, 1, heads=2, head=4))
    assert "has no head for scores" in Choose(8).refusal(writer)
