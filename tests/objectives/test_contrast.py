"""InfoNCE by hand, over a mesh, and what it leaves out; the embedder that it trains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_research import mesh, tree
from lm_research.models import BERT, Embedder
from lm_research.models.initial import initial
from lm_research.objectives import Contrast

RNG = np.random.default_rng(0)
RECORDS = [
    {name: RNG.integers(3, 30, RNG.integers(2, 9)).astype(np.int32) for name in ("text", "pair")}
    for _ in range(8)
]


def batch(records, length=8):
    rows = [Contrast(length).example(record, None) for record in records]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def made(dropout=0.0):
    model = Embedder(BERT(30, 16, 1, 2, dropout=dropout, attention_dropout=0.0))
    make = jax.jit(lambda key: tree.unboxed(initial(model, key)))
    return model, jax.tree.map(lambda leaf: 5 * leaf, make(jax.random.key(0)))


def totalled(objective, model, params, rows, rngs=None):
    """What a batch measures, and the gradient of its mean loss."""

    def total(params, rows):
        measured = objective.measure(model, params, rows, rngs)
        return measured["loss"].value(), measured

    return jax.jit(jax.value_and_grad(total, has_aux=True))(params, rows)


def test_an_example_by_hand():
    record = {"text": np.int32([7, 2, 9]), "pair": np.int32([4]), "label": 2.5}
    found = Contrast(4).example(record, None)
    assert found["text_tokens"].tolist() == [7, 2, 9, 0] and found["label"] == 2.5
    assert found["pair_tokens"].tolist() == [4, 0, 0, 0]
    assert found["pair_segments"].tolist() == [1, 0, 0, 0]
    alone = Contrast(4).example({"text": np.int32([7, 2, 9])}, None)
    assert np.array_equal(alone["pair_tokens"], found["text_tokens"])
    assert alone["prints"][0] == alone["prints"][1] == found["prints"][0] != found["prints"][1]


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_loss_by_hand(symmetric):
    """Rows of weight 0, and texts that are equal to a row's own, are held against none."""
    found = RNG.normal(size=(5, 3, 4)).astype(np.float32)
    prints = np.arange(15, dtype=np.int32).reshape(5, 3)
    prints[2, 1] = prints[0, 1]  # the pair of the third is that of the first
    weights = np.float32([1, 1, 1, 1, 0])
    norm = found / np.linalg.norm(found, axis=-1, keepdims=True)
    cosines = lambda query, other: np.exp(norm[:4, query] @ norm[:4, other].T / 0.1)
    forth = cosines(0, 1)
    forth[[0, 2], [2, 0]] = 0
    losses = [np.log((forth.sum(1) + cosines(0, 2).sum(1)) / np.diag(forth))]
    right = [np.diag(forth) >= np.concatenate([forth, cosines(0, 2)], 1).max(1)]
    if symmetric:
        back = cosines(1, 0)
        losses.append(np.log(back.sum(1) / np.diag(back)))
        right.append(np.diag(back) >= back.max(1))
    objective = Contrast(8, temperature=0.1, symmetric=symmetric)
    measured = objective.loss(jnp.array(found), {"prints": prints, "weights": weights})
    assert measured["loss"].weight == 4
    np.testing.assert_allclose(measured["loss"].value(), np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(measured["accuracy"].value(), np.mean(right), rtol=1e-6)


def test_a_mesh_changes_nothing():
    """Every device has the texts of all others against its own: no loss of a part of the batch."""
    model, params = made()
    objective = Contrast(8, temperature=0.5, symmetric=True)
    rows = batch(RECORDS)
    (loss, _), gradient = totalled(objective, model, params, rows)
    with mesh.Mesh(data=4, fsdp=2).activate():
        (other, _), sharded = totalled(objective, model, params, mesh.place(rows))
    np.testing.assert_allclose(loss, other, rtol=1e-5)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest), gradient, sharded
    )


def test_padding_changes_nothing_and_dropout_parts_a_text_from_itself():
    model, params = made(dropout=0.3)
    alone = [{"text": record["text"]} for record in RECORDS]
    still = Contrast(8).measure(model, params, batch(alone))
    wider = Contrast(16).measure(model, params, batch(alone, 16))
    assert still["accuracy"].value() == 1
    np.testing.assert_allclose(still["loss"].value(), wider["loss"].value(), rtol=1e-4)
    drawn = Contrast(8).measure(model, params, batch(alone), {"dropout": jax.random.key(0)})
    assert drawn["loss"].value() > still["loss"].value()


def test_what_does_not_fit_is_refused():
    assert "take Embedder" in Contrast(8).refusal(BERT(30, 16, 1, 2))
    assert (
        Contrast(8).refusal(made()[0]) == "" and "all others of its batch" in Contrast.indivisible
    )
    with pytest.raises(ValueError, match="temperature is 0"):
        Contrast(8, temperature=0)
    with pytest.raises(ValueError, match="a TextEmbedder cannot be the trunk of an embedder"):
        Embedder(made()[0])
