"""An encoder-decoder that writes names of classes, beside its own log-likelihoods of them."""

import jax
import numpy as np
import pytest

from lm_research import config, mesh
from lm_research.data import Bytes
from lm_research.errors import UserError
from lm_research.infer.classify import classify
from lm_research.infer.conditional import score_given
from lm_research.models import BERT, Classifier
from lm_research.objectives import Classify, Regress, Seq2Seq
from lm_research.train.experiment import CONTENTS
from lm_research.train.loop import written

SIZES = dict(vocab=20, width=16, layers=2, heads=2, dropout=0.0)
TRUNKS = {
    "T5": dict(kind="T5", head=8, hidden=32, **SIZES),  # relative positions
    "BART": dict(kind="BART", hidden=32, context=16, **SIZES),  # learned ones
}
NAMES = ((7, 1), (3, 4, 5, 1), (7, 8, 1))
TEXTS = [[5, 6, 7, 9, 1], [11, 1], [3, 3, 3, 12, 13, 14, 1]]


@pytest.fixture(scope="module", params=TRUNKS)
def made(request, large):
    section = dict(
        kind="Classifier", trunk=TRUNKS[request.param], classes=("a", "b", "c"), written=NAMES
    )
    model = config.build(section, CONTENTS, "model")
    return model, large(model)


def test_probabilities_are_those_of_the_names(made):
    """All names in one row: none sees another, and each sees the text."""
    model, params = made
    with mesh.single():
        pairs = [(name, text) for text in TEXTS for name in NAMES]
        each = score_given(model.trunk, params["trunk"], *zip(*pairs))
        found = classify(model, params, TEXTS)
    sums = np.array([one["sum"] for one in each]).reshape(len(TEXTS), len(NAMES))
    odds = np.exp(sums - sums.max(1, keepdims=True))
    want = odds / odds.sum(1, keepdims=True)
    assert np.ptp(sums, 1).min() > 0.1 and np.allclose(found, want, atol=1e-4)


def test_it_learns_to_write_the_name(made):
    """The loss is that of Seq2Seq on pairs of texts and names, and so is the gradient."""
    model, params = made
    labels = [2, 0, 1]
    rows = [Classify(8).example({"text": t, "label": y}, None) for t, y in zip(TEXTS, labels)]
    pairs = [{"source": t, "target": np.array(NAMES[y])} for t, y in zip(TEXTS, labels)]
    other = [Seq2Seq(8, smoothing=0.1).example(pair, None) for pair in pairs]
    stack = lambda rows: {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def total(objective, model, params, rows):
        return objective.measure(model, params, rows)["loss"].total

    graded = jax.jit(jax.value_and_grad(total, argnums=2), static_argnums=(0, 1))
    loss, slopes = graded(Classify(8, 0.1), model, params, stack(rows))
    want, expected = graded(Seq2Seq(8, smoothing=0.1), model.trunk, params["trunk"], stack(other))
    assert np.isclose(loss, want, rtol=1e-5)
    for one, two in zip(jax.tree.leaves(slopes["trunk"]), jax.tree.leaves(expected)):
        assert np.allclose(one, two, atol=1e-4 * max(1e-2, np.abs(two).max()))


def test_names_that_cannot_be_told_apart_are_refused(made):
    tokenizer = Bytes().train(())
    assert written(tokenizer, ("a", "bc")) == [[97, 256], [98, 99, 256]]
    for classes, words in ((("a", ""), "'' .* are none"), (("a", "a"), "are those of 'a'")):
        with pytest.raises(UserError, match=words):
            written(tokenizer, classes)
    assert Classify(8).refusal(made[0]) == ""
    assert "has no head for scores" in Regress(8).refusal(made[0])
    with pytest.raises(ValueError, match="written is of an encoder-decoder"):
        Classifier(BERT(20, 8, 1, 2), ("a", "b"), written=NAMES[:2])
