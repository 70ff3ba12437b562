"""Decoding equals the full forward pass, rows are independent, scores obey the chain rule."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_research import mesh
from lm_research.errors import UserError
from lm_research.infer.decode import generate
from lm_research.infer.sample import Sampler
from lm_research.infer.score import score
from lm_research.layers import Mask
from lm_research.models import GPT2, Llama

V = 32
MODELS = {
    "gpt2": GPT2(V, 32, 2, 4, context=48, deviation=0.4),
    "llama": Llama(V, 32, 2, 4, 2, hidden=48, deviation=0.4),
}
PROMPTS = [np.array([1, 2, 3, 4, 5]), np.array([7]), np.arange(11) + 3]


@functools.cache
def loaded(name):
    model = MODELS[name]
    init = jax.jit(model.init)
    return model, nn.unbox(init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32)))["params"]


@functools.partial(jax.jit, static_argnums=0)
def full_logits(model, params, tokens, prefix=0):  # [T] -> [T, V]
    mask = Mask(prefix=jnp.full(1, prefix))
    return model.apply({"params": params}, tokens[None], mask=mask).logits[0]


def greedy(model, params, prompt, length, prefix=0):
    tokens = list(prompt)
    for _ in range(length):
        padded = jnp.asarray(tokens + [0] * (48 - len(tokens)))
        tokens.append(int(full_logits(model, params, padded, prefix)[len(tokens) - 1].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("name", MODELS)
def test_greedy_is_the_full_forward_s(name):
    model, params = loaded(name)
    results = generate(model, params, PROMPTS, length=10)
    for prompt, result in zip(PROMPTS, results):
        assert result.tokens.tolist() == greedy(model, params, prompt.tolist(), 10)


@pytest.mark.parametrize("name", MODELS)
def test_the_tokens_of_a_prefix_see_each_other(name):
    model, params = loaded(name)
    results = generate(model, params, PROMPTS, length=10, prefix=True)
    for prompt, result in zip(PROMPTS, results):
        want = greedy(model, params, prompt.tolist(), 10, len(prompt))
        assert result.tokens.tolist() == want
    plain = generate(model, params, PROMPTS, length=10)
    assert any((a.tokens != b.tokens).any() for a, b in zip(results, plain))


def test_rows_do_not_depend_on_their_neighbours():
    model, params = loaded("llama")
    draw = dict(sampler=Sampler(1.0, top_k=8), length=9, seed=3, samples=2)
    together = generate(model, params, PROMPTS, **draw)
    alone = generate(model, params, PROMPTS[:1], **draw)
    others = generate(model, params, [PROMPTS[0], np.array([9, 9])], **draw)
    for left, middle, right in zip(alone, together, others):
        assert left.tokens.tolist() == middle.tokens.tolist() == right.tokens.tolist()
    assert together[0].tokens.tolist() != together[1].tokens.tolist()


def test_a_mesh_changes_nothing():
    model, params = loaded("llama")
    want = [r.tokens.tolist() for r in generate(model, params, PROMPTS, length=6)]
    with mesh.Mesh(2, 2, 2).activate():
        got = [r.tokens.tolist() for r in generate(model, params, PROMPTS, length=6)]
    assert got == want


def test_the_end_of_a_text_stops_its_row():
    model, params = loaded("gpt2")
    free = generate(model, params, PROMPTS, length=12)
    eos = int(free[0].tokens[4])
    stopped = generate(model, params, PROMPTS, length=12, eos=(V + 5, eos))
    at = free[0].tokens.tolist().index(eos)
    assert stopped[0].ended and stopped[0].tokens.tolist() == free[0].tokens[:at].tolist()


def test_streamed_tokens_are_the_result_s():
    model, params = loaded("gpt2")
    seen = []
    stream = lambda request, sample, tokens: seen.extend(tokens.tolist())
    [result] = generate(model, params, PROMPTS[:1], length=11, stream=stream)
    assert seen == result.tokens.tolist()


def test_what_is_too_long_or_unknown_is_refused():
    model, params = loaded("gpt2")
    with pytest.raises(UserError, match=r"5 tokens, and 44 new ones make 49; .* 48"):
        generate(model, params, PROMPTS[:1], length=44)
    with pytest.raises(UserError, match=r"token 32; .* 0 to 31"):
        generate(model, params, [[32]], length=1)
    with pytest.raises(UserError, match=r"49 tokens; .* 48"):
        score(model, params, [np.zeros(49, int)])


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_those_of_the_full_forward(name):
    model, params = loaded(name)
    found = score(model, params, PROMPTS)
    for prompt, scores in zip(PROMPTS, found):
        logits = full_logits(model, params, jnp.asarray(prompt))
        want = jax.nn.log_softmax(logits)[np.arange(len(prompt) - 1), prompt[1:]]
        assert scores["tokens"] == prompt.tolist() and scores["logprobs"][0] is None
        np.testing.assert_allclose(scores["logprobs"][1:], want, atol=2e-5)
        np.testing.assert_allclose(scores["sum"], want.sum(), atol=1e-4)


def test_generated_log_probabilities_are_scored_the_same():
    model, params = loaded("gpt2")
    [result] = generate(model, params, PROMPTS[:1], sampler=Sampler(1.3), length=12, seed=1)
    [scores] = score(model, params, [np.concatenate([PROMPTS[0], result.tokens])])
    found = scores["logprobs"][len(PROMPTS[0]) :]
    np.testing.assert_allclose(found, result.logprobs, atol=5e-5)
