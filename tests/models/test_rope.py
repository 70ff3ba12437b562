"""Rotary positions whose frequencies go by how long a text is, beside `transformers`."""

import functools

import jax
import numpy as np
import pytest

from lm_research import config, mesh
from lm_research.errors import UserError
from lm_research.hub import load, save
from lm_research.infer import generate
from lm_research.infer.shapes import check
from lm_research.layers import LongRoPE, Rotary
from lm_research.models import Phi3
from lm_research.models.rope import DEFAULTS, rotary

torch = pytest.importorskip("torch", reason="the reference is torch's: install the extra `verify`")
transformers = pytest.importorskip("transformers", reason="it is the reference: extra `verify`")

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_theta": 100.0,
    "pad_token_id": None,
}
FACTORS = {"short_factor": [1.0, 1.25, 1.5, 2.0], "long_factor": [1.0, 2.0, 4.0, 8.0]}
LONG = {"rope_scaling": {"type": "longrope", **FACTORS}, "max_position_embeddings": 40}
LONG["original_max_position_embeddings"] = 12
HALF = {"short_factor": [1.0, 1.5], "long_factor": [2.0, 6.0], "attention_factor": 1.2}
CASES = {  # in all of them a text of more than 12 tokens is a long one
    "dynamic": (
        "LlamaConfig",
        {"rope_scaling": {"type": "dynamic", "factor": 3.0}, "max_position_embeddings": 12},
    ),
    "longrope": ("Phi3Config", LONG),
    "longrope_partial": (
        "Phi3Config",
        LONG | {"rope_scaling": {"type": "longrope", **HALF}, "partial_rotary_factor": 0.5},
    ),
}


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory):
    """Theirs, with large random weights, and ours."""
    kind, values = CASES[request.param]
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(
        getattr(transformers, kind)(**SIZES, **values), attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.normal_(0, 0.4).add_(float((weight == 1).all()))
    directory = tmp_path_factory.mktemp(request.param) / "theirs"
    theirs.save_pretrained(directory)
    section = load.section(directory)
    ours = config.build(section, save.CONTENTS, "model")
    with mesh.single():
        return theirs, ours, load.load(directory, ours), section


@functools.partial(jax.jit, static_argnums=0)
def measured(model, params, tokens, weights):
    """Logits, and the gradient of their weighted sum."""

    def total(params):
        logits = model.apply({"params": params}, tokens).logits
        return (logits * weights).sum(), logits

    return jax.grad(total, has_aux=True)(params)[::-1]


@functools.partial(jax.jit, static_argnums=0)
def plain_logits(model, params, tokens, **given):
    return model.apply({"params": params}, tokens, **given).logits


def forgotten(theirs):
    """Theirs, which remembers the longest text that it has read until it reads a short one."""
    theirs(torch.tensor([[0]]))
    return theirs


@pytest.mark.parametrize("length", [12, 24])
def test_logits_and_gradients(pair, length):
    theirs, ours, params, _ = pair
    rng = np.random.default_rng(length)
    tokens = rng.integers(0, 61, (2, length))
    weights = rng.normal(size=(2, length, 61)).astype(np.float32)

    logits, gradients = measured(ours, params, tokens, weights)
    theirs.zero_grad()
    want = forgotten(theirs)(torch.tensor(tokens)).logits
    (want * torch.tensor(weights)).sum().backward()
    expected = want.detach().numpy()
    assert np.abs(logits - expected).max() <= 2e-5 * np.abs(expected).max()
    found = gradients["embedding"]["table"]
    expected = theirs.model.embed_tokens.weight.grad.numpy()
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_greedy_continuations_beyond_the_length_are_theirs(pair):
    """From a short prompt and a long one; theirs of LongRoPE read all of a text again at 13."""
    theirs, ours, params, _ = pair
    for prompt in (np.arange(3, 9), np.arange(40, 56)):
        want = (
            forgotten(theirs)
            .generate(
                torch.tensor(prompt)[None],
                do_sample=False,
                max_new_tokens=12,
                eos_token_id=None,
                pad_token_id=0,
            )[0]
            .tolist()
        )
        text = prompt
        for new in (12,) if ours.turn is None or len(prompt) > 12 else (7, 5):
            with mesh.single():
                [found] = generate(ours, params, [text], length=new)
            text = np.concatenate([text, found.tokens])
        assert text.tolist() == want


def test_a_cache_does_not_go_over_the_turn():
    model = Phi3(61, 32, 2, 4, scaling=LongRoPE((1.0,) * 4, (2.0,) * 4, 12))
    check(model, np.arange(6), "a", 7)
    check(model, np.arange(13), "a", 99)
    with pytest.raises(UserError, match=r"a has 6 tokens.*more than 12.*ask for 7 new tokens or"):
        check(model, np.arange(6), "a", 8)


def test_written_and_read_by_theirs(pair, tmp_path):
    theirs, _, params, section = pair
    with mesh.single():
        save.save(tmp_path / "ours", section, params)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    assert load.section(tmp_path / "ours") == section
    tokens = torch.tensor(np.random.default_rng(3).integers(0, 61, (2, 24)))
    assert torch.allclose(again(tokens).logits, forgotten(theirs)(tokens).logits, atol=1e-5)


def test_a_row_does_not_depend_on_its_neighbours(pair):
    _, ours, params, _ = pair
    tokens = np.random.default_rng(4).integers(0, 61, (2, 20))
    position = np.broadcast_to(np.arange(20), (2, 20)).copy()
    position[1, 10:] = np.iinfo(np.int32).max  # padding
    both = plain_logits(ours, params, tokens, position=position)
    alone = plain_logits(ours, params, tokens[1:, :10])
    np.testing.assert_allclose(both[1, :10], alone[0], atol=2e-5 * np.abs(alone).max())


@pytest.mark.parametrize(
    "rope, words",
    [
        ({"rope_type": "dynamic"}, "'dynamic' lacks factor"),
        ({"rope_type": "longrope", "long_factor": [1.0]}, "'longrope' lacks short_factor"),
        ({"rope_type": "fourier"}, "it takes default, linear, dynamic, llama3, longrope or yarn"),
    ],
)
def test_what_is_not_whole_is_refused(rope, words):
    with pytest.raises(UserError, match=words):
        rotary({**DEFAULTS, "rope_parameters": rope})


def test_factors_of_another_head_are_refused():
    with pytest.raises(ValueError, match=r"1 short and 1 long factors; heads with 8 .* take 4"):
        Rotary(scaling=LongRoPE((1.0,), (2.0,), 8))(np.zeros((1, 3, 2, 8)), np.zeros((1, 3)))
