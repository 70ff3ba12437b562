"""Pseudo-log-likelihood: each token masked by itself, and what encoders are not asked for."""

import types

import jax
import numpy as np
import pytest

from lm_research import tree
from lm_research.errors import UserError
from lm_research.infer import generate, score
from lm_research.models import BERT
from lm_research.models.initial import initial

MODEL = BERT(32, 16, 2, 2, context=48, deviation=0.4)
CLS, SEP, MASK = 29, 30, 31
TOKENIZER = types.SimpleNamespace(cls=CLS, sep=SEP, mask=MASK, pad=None, bos=None, eos=SEP)


@pytest.fixture(scope="module")
def params():
    return tree.unboxed(jax.jit(initial, static_argnums=0)(MODEL, jax.random.key(0)))


def test_scores_are_those_of_one_row_at_a_time(params):
    given = [np.array([CLS, 3, 4, 5, SEP]), np.arange(1, 21), np.array([CLS, SEP])]
    found = score(MODEL, params, given, tokenizer=TOKENIZER)
    for tokens, scores in zip(given, found, strict=True):
        assert scores["tokens"] == tokens.tolist() and len(scores["logprobs"]) == len(tokens)
        total = 0.0
        for at, token in enumerate(tokens):
            if token in (CLS, SEP):
                assert scores["logprobs"][at] is None
                continue
            masked = tokens.copy()
            masked[at] = MASK
            logits = MODEL.apply({"params": params}, masked[None]).logits[0, at]
            want = float(jax.nn.log_softmax(logits)[token])
            np.testing.assert_allclose(scores["logprobs"][at], want, atol=2e-5)
            total += want
        np.testing.assert_allclose(scores["sum"], total, atol=1e-4)


def test_what_an_encoder_cannot_do_is_refused(params):
    with pytest.raises(UserError, match="no mask token"):
        score(MODEL, params, [[1, 2]])
    headless = MODEL.clone(predicts=False)
    with pytest.raises(UserError, match="this one has none"):
        score(headless, params, [[1, 2]], tokenizer=TOKENIZER)
    with pytest.raises(UserError, match="does not continue texts"):
        generate(MODEL, params, [[1, 2]], length=3)
