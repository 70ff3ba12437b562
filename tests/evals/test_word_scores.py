"""Accuracy of words and F1 of entities, cut words among them."""

import numpy as np
import pytest
from each_token import Each, drawn

from lm_research import mesh
from lm_research.data import Bytes, LabelledWords, Memory
from lm_research.errors import UserError
from lm_research.evals import WordScores
from lm_research.evals.word_scores import chunked, judged
from lm_research.infer.tag import tag
from lm_research.models import BERT, Classifier
from lm_research.objectives import Classify, Tag

CLASSES = ("B-A", "B-B", "I-A", "I-B", "O")


def test_entities_by_hand():
    """Of four entities, three are found; one is told of another kind, and one more."""
    labels = [["B-A", "I-A", "O", "B-B"], ["B-A", "B-A", "I-A", "O"]]
    told = [["B-A", "I-A", "O", "B-A"], ["B-A", "B-A", "I-A", "B-B"]]
    found = judged(told, labels, CLASSES)
    assert found == pytest.approx(
        {"accuracy": 6 / 8, "precision": 3 / 5, "recall": 3 / 4, "f1": 2 / 3}
    )
    # As conlleval: an I after another kind begins an entity; a word that was cut off ends one.
    found = judged([["O", "I-A"], ["B-A", ""]], [["O", "B-A"], ["B-A", "I-A"]], CLASSES)
    assert found == {"accuracy": 2 / 4, "precision": 1 / 2, "recall": 1 / 2, "f1": 1 / 2}
    assert judged([["O"]], [["O"]], CLASSES)["f1"] == 0
    assert judged([["N", ""]], [["N", "V"]], ("N", "V")) == {"accuracy": 1 / 2}
    assert chunked(("O", "B-X")) and chunked(("I-X",))
    assert not chunked(("O",)) and not chunked(("O", "NOUN")) and not chunked(("B-",))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    rng = np.random.default_rng(0)
    words = lambda: ["".join(rng.choice(list("ab"), n)) for n in rng.integers(1, 5, 5)]
    records = [
        {"words": own, "labels": [str(rng.choice(CLASSES)) for _ in own]}
        for own in (words() for _ in range(11))
    ]
    data = LabelledWords(Memory(records[:5]), Bytes(), Memory(records), classes=CLASSES)
    prepared = data.prepare(tmp_path_factory.mktemp("data"), 16)
    model = Each(CLASSES)
    return records, prepared, model, drawn(model)


def test_every_word_counts_once(run):
    """11 sentences in batches of 8, over eight devices, beside the labels that `tag` tells."""
    records, prepared, model, params = run
    assert 1 < sum(int((prepared.heldout.words(i)[0] < 0).sum()) for i in range(11)) < 20
    with mesh.Mesh().activate():
        found = WordScores(every=1, batch=8).bind(Tag(16), prepared, 8)(model, params)
        told = tag(model, params, prepared.tokenizer, [r["words"] for r in records], 16)
    told = [["" if one is None else one[0] for one in sentence] for sentence in told]
    by_hand = judged(told, [r["labels"] for r in records], CLASSES)
    assert all(found[name] == value for name, value in by_hand.items())
    assert 0 < found["accuracy"] < 1 and found["score"] == found["f1"]
    assert found["most_frequent"] == prepared.facts["heldout_most_frequent"]


def test_what_is_told_is_a_probability(run):
    _, prepared, model, params = run
    [[first, *_], _] = tag(model, params, prepared.tokenizer, [["a", "b"], ["ab"]])
    alone = tag(model, params, prepared.tokenizer, [["a", "b"]])[0]
    assert first[0] == alone[0][0] and np.isclose(first[1], alone[0][1], rtol=1e-5)
    assert 1 / len(CLASSES) <= first[1] <= 1
    with pytest.raises(UserError, match="sentence 1 has no words"):
        tag(model, params, prepared.tokenizer, [["a"], []])
    with pytest.raises(UserError, match="does not label words: its scores are of whole"):
        tag(Classifier(BERT(257, 8, 1, 2), CLASSES), params, prepared.tokenizer, [["a"]])


def test_what_it_cannot_judge_is_refused(run):
    with mesh.single(), pytest.raises(UserError, match="takes data=LabelledWords and objective"):
        WordScores(every=1).bind(Classify(16), run[1], 8)
    with mesh.single(), pytest.raises(UserError, match="no part of the data is called 'test'"):
        WordScores(every=1, part="test").bind(Tag(16), run[1], 8)
