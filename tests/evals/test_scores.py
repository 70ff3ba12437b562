"""Metrics of a task beside scikit-learn and SciPy, and their evaluator."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn

from lm_research import mesh, tree
from lm_research.data import Bytes, Labelled, Memory
from lm_research.errors import UserError
from lm_research.evals import HeldOut, Scores, agreement
from lm_research.models import FastText
from lm_research.models.initial import initial
from lm_research.objectives import Classify, Regress
from lm_research.objectives.read import read


@pytest.mark.parametrize("classes", [2, 4])
def test_metrics_of_classes(classes):
    rng = np.random.default_rng(classes)
    for _ in range(20):
        labels, told = rng.integers(0, rng.integers(1, classes + 1), (2, 30))
        table = agreement.confusion(told, labels, classes)
        assert np.isclose(agreement.accuracy(table), sklearn.accuracy_score(labels, told))
        own = (agreement.macro_f1(table), agreement.matthews(table))
        f1 = sklearn.f1_score(labels, told, average="macro")
        assert np.allclose(own, (f1, sklearn.matthews_corrcoef(labels, told)))
        one = sklearn.f1_score(labels == 1, told == 1, zero_division=0)
        assert np.isclose(agreement.f1(table, 1), one)


def test_metrics_of_numbers():
    rng = np.random.default_rng(0)
    for _ in range(20):
        predicted = rng.normal(size=40).astype(np.float32).round(1)  # some are equal
        labels = np.float32(predicted + rng.normal(size=40)).round(0)
        theirs = stats.pearsonr(predicted, labels).statistic
        assert np.isclose(agreement.pearson(predicted, labels), theirs, atol=1e-6)
        theirs = stats.spearmanr(predicted, labels).statistic
        assert np.isclose(agreement.spearman(predicted, labels), theirs)
    assert agreement.pearson(np.ones(3), np.arange(3)) == 0


def records(label):
    rng = np.random.default_rng(0)
    texts = ("".join(rng.choice(list("abcd"), n)) for n in rng.integers(1, 9, 21))
    return [{"text": text, "label": label(text)} for text in texts]


def predictions(objective, model, params, source):
    rows = [objective.example(record, None) for record in source]
    return read(model, params, {name: np.stack([r[name] for r in rows]) for name in rows[0]})


def test_every_record_counts_once(tmp_path):
    """21 records in batches of 8, over eight devices, in a part of their own."""
    made = records(lambda text: max("abc", key=text.count))
    given = Memory(made), Bytes(), Memory(made[:2])
    data = Labelled(*given, others={"all": Memory(made)}).prepare(tmp_path, 8)
    model, objective = FastText(257, data.classes, 4, deviation=1.0), Classify(8)
    params = tree.unboxed(initial(model, jax.random.key(0)))
    params["kernel"] = jax.random.normal(jax.random.key(1), params["kernel"].shape)
    metrics = ("accuracy", "f1", "macro_f1", "matthews")
    settings = Scores(every=1, metrics=metrics, part="all", batch=8, positive="b")
    with mesh.Mesh().activate():
        found = settings.bind(objective, data, 8)(model, params)
        alone = dataclasses.replace(data, heldout=data.part("all"))
        means = HeldOut(1, batch=8).bind(objective, alone, 8)(model, params)
    told = np.asarray(predictions(objective, model, params, data.part("all"))).argmax(1)
    labels = data.part("all").labels
    theirs = {
        "accuracy": sklearn.accuracy_score(labels, told),
        "f1": sklearn.f1_score(labels == 1, told == 1),
        "macro_f1": sklearn.f1_score(labels, told, average="macro"),
        "matthews": sklearn.matthews_corrcoef(labels, told),
    }
    assert 0 < theirs["accuracy"] < 1
    theirs["score"] = np.mean(list(theirs.values()))
    assert all(np.isclose(found[name], theirs[name]) for name in theirs)
    assert np.isclose(found["loss"], means["loss"]) and set(found) == {*theirs, "loss"}


def test_numbers(tmp_path):
    made = records(lambda text: text.count("a") / 2)
    data = Labelled(Memory(made), Bytes(), Memory(made), numeric=True).prepare(tmp_path, 8)
    model, objective = FastText(257, data.classes, 4, deviation=1.0), Regress(8)
    params = tree.unboxed(initial(model, jax.random.key(0)))
    params["kernel"] = jax.random.normal(jax.random.key(1), params["kernel"].shape)
    with mesh.Mesh().activate():
        evaluate = Scores(1, ("pearson", "spearman"), batch=16).bind(objective, data, 8)
        found = evaluate(model, params)
    told = np.asarray(predictions(objective, model, params, data.heldout))[:, 0]
    labels = data.heldout.labels
    theirs = stats.pearsonr(told, labels).statistic, stats.spearmanr(told, labels).statistic
    assert np.allclose((found["pearson"], found["spearman"]), theirs, atol=1e-5)
    assert np.isclose(found["score"], np.mean(theirs), atol=1e-5)
    assert np.isclose(found["loss"], np.mean((told - labels) ** 2))


@pytest.mark.parametrize(
    "objective, settings, words",
    [
        (Regress(8), dict(metrics=("f1",)), "f1 is no metric of Regress; it takes pearson"),
        (Classify(8), dict(metrics=("pearson",)), "pearson is no metric of Classify"),
        (Classify(8), dict(metrics=("f1",)), "f1 is of the class None .positive.; they are 'a'"),
        (Classify(8), dict(part="test"), "no part of the data is called 'test'"),
    ],
)
def test_what_it_cannot_measure_is_refused(tmp_path, objective, settings, words):
    made = records(lambda text: max("abc", key=text.count))
    data = Labelled(Memory(made), Bytes(), Memory(made[:2])).prepare(tmp_path, 8)
    with mesh.single(), pytest.raises(UserError, match=words):
        Scores(every=1, **settings).bind(objective, data, 8)
