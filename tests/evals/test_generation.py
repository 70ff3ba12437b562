"""Texts are written from held-out sources and compared with the targets as they were written."""

import numpy as np
import pytest

from lm_research import log
from lm_research.data import Bytes, Memory, Parallel
from lm_research.errors import UserError
from lm_research.evals import Generation, generation
from lm_research.evals.generation import compared
from lm_research.infer import Result
from lm_research.models import T5
from lm_research.objectives import Seq2Seq

sacrebleu = pytest.importorskip("sacrebleu", reason="it is the metric: install the extra `tasks`")

OUTPUTS = ["The cat sat on the mat .", "A dog runs through the old grass"]
REFERENCES = [
    ["The cat sat on a mat."],
    ["A black dog runs.", "a dog is running through the grass", "Dogs run through old grass"],
]


def test_numbers_are_those_of_sacrebleu_and_rouge_score():
    from rouge_score import rouge_scorer

    numbers, signatures = compared(OUTPUTS, REFERENCES, ("bleu", "chrf", "rouge"))
    streams = [
        [REFERENCES[0][0], REFERENCES[1][0]],
        [None, REFERENCES[1][1]],
        [None, REFERENCES[1][2]],
    ]
    bleu = sacrebleu.corpus_bleu(OUTPUTS, streams).score
    assert numbers["bleu"] == pytest.approx(bleu) and 10 < bleu < 90
    assert numbers["chrf"] == pytest.approx(sacrebleu.corpus_chrf(OUTPUTS, streams).score)
    alone = compared(OUTPUTS, [r[:1] for r in REFERENCES], ("bleu",))[0]["bleu"]
    assert alone < bleu  # the other references count
    scorer = rouge_scorer.RougeScorer(["rouge2", "rougeL"], use_stemmer=True)
    for name in ("rouge2", "rougeL"):
        best = [
            max(scorer.score(reference, output)[name].fmeasure for reference in references)
            for output, references in zip(OUTPUTS, REFERENCES)
        ]
        assert numbers[name] == pytest.approx(100 * np.mean(best))
    assert "case:mixed" in signatures["bleu"] and "tok:13a" in signatures["bleu"]
    assert "nrefs:var" in signatures["bleu"] and "best of" in signatures["rouge"]


def prepared(directory):
    held_out = [
        {"source": "zwei", "target": "two  words", "targets": ("two  words", "Two words")},
        {"source": "eine lange Zeile", "target": "three"},
        {"source": "mehr", "target": "more"},
    ]
    train = Memory([{"source": "ein Wort", "target": "a word"}] * 3)
    return Parallel(train, Bytes(), heldout=Memory(held_out)).prepare(directory, 8)


@pytest.mark.parametrize("beams", [1, 4])
def test_held_out_sources_are_read_and_originals_compared(tmp_path, monkeypatch, beams):
    """The model is replaced: it writes what it read, in capitals, and a special token."""
    asked = []

    def write(model, params, prompts, *, length, eos, prefix, beam=None):
        asked.append((length, eos, None if beam is None else (beam.beams, beam.length_penalty)))
        for i, prompt in enumerate(prompts):
            text = bytes(prompt.tolist()[:-1]).upper()
            yield Result(i, 0, np.array([*text, 256]), np.zeros(1), True)

    monkeypatch.setattr(generation, "generate", write)
    monkeypatch.setattr(generation, "beam_search", write)
    data = prepared(tmp_path)
    settings = Generation(1, limit=2, beams=beams, length=5, length_penalty=0.5)
    evaluate = settings.bind(Seq2Seq(8), data, 2)
    model = T5(257, 16, 1, 2, 8, 32)
    numbers = evaluate(model, None)
    assert asked == [(5, (256,), (4, 0.5) if beams > 1 else None)]
    assert evaluate.outputs == ["ZWEI", "EINE LA"]  # cut to 8 tokens, the last of which ends it
    want, signatures = compared(
        evaluate.outputs, [["two  words", "Two words"], ["three"]], ("bleu", "chrf")
    )
    assert numbers == want and log.facts()["metrics"] == signatures
    own = Memory([{"source": "a b", "target": "A B"}])
    evaluate = Generation(1, beams=beams, source=own).bind(Seq2Seq(8), data, 2)
    assert evaluate(model, None)["chrf"] == pytest.approx(100) and asked[-1][0] == 8


def test_what_cannot_be_compared_is_refused(tmp_path):
    data = prepared(tmp_path)
    (tmp_path / "heldout.jsonl").unlink()
    data = Parallel(Memory([]), Bytes()).prepared(tmp_path, 8)
    with pytest.raises(UserError, match="this data keeps none"):
        Generation(1).bind(Seq2Seq(8), data, 2)
    for wrong in ({"limit": 0}, {"length": 0}, {"metrics": ()}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Generation(1, **wrong)
