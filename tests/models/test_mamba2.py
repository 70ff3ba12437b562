"""Mamba-2 beyond what holds for every decoder: chunks, padding, texts side by side, refusals."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_research import config, log, tree
from lm_research.errors import UserError
from lm_research.hub import load, names, save
from lm_research.infer import generate
from lm_research.layers import EMPTY, Mask
from lm_research.layers.recurrent import scanned
from lm_research.models import Hybrid, Mamba2
from lm_research.models.mamba2 import SIZES

B, T, V = 2, 12, 64
MODEL = Mamba2(V, 32, 2, head=8, groups=2, state=12, chunk=5)
TOKENS = np.random.default_rng(0).integers(0, V, (B, T))


@pytest.fixture(scope="module")
def params(large):
    return large(MODEL)


@functools.partial(jax.jit, static_argnums=0)
def output(model, params, tokens, **given):
    return model.apply({"params": params}, tokens, **given)


def logits(model, params, tokens, **given):
    return output(model, params, tokens, **given).logits


def recurrence(x, decay, write, read, state, runs):
    """Token by token, as equation 2 of the paper has it."""
    results, groups = [], x.shape[2] // write.shape[2]
    write, read = (np.repeat(a, groups, 2) for a in (write, read))
    for t in range(x.shape[1]):
        if t and runs is not None:
            state = state * (runs[:, t] == runs[:, t - 1])[:, None, None, None]
        state = state * np.exp(decay[:, t])[..., None, None]
        state = state + x[:, t, :, :, None] * write[:, t, :, None]
        results.append((state * read[:, t, :, None]).sum(-1))
    return np.stack(results, 1), state


@pytest.mark.parametrize("chunk", [1, 4, 5, 12, 99])
@pytest.mark.parametrize("several", [False, True])
def test_chunks_are_the_recurrence(chunk, several):
    """From a state that is given, with and without texts that end within chunks and at them."""
    rng, N, K, H, C = np.random.default_rng(1), 4, 2, 3, 5
    sizes = ((B, T, N, H), (B, T, N), (B, T, K, C), (B, T, K, C), (B, N, H, C))
    x, decay, write, read, state = (rng.normal(size=size) for size in sizes)
    runs = np.array([[0] * 3 + [1] * 5 + [2] * 4, [0] * 4 + [1] * 8]) if several else None
    given = (x, -np.abs(decay), write, read, state)
    want = recurrence(*given, runs)
    found = jax.jit(scanned, static_argnums=6)(*(jnp.float32(a) for a in given), runs, chunk)
    for ours, expected in zip(found, want, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("model", [MODEL, Hybrid(V, 32, 4, 4, every=3, head=8, state=12)])
def test_padding_anywhere_does_not_move_the_state(model, large):
    """Two calls with a cache, each with padding before, between and after its tokens."""
    params = large(model, size=0.2)
    where = np.array([[0, 1, 1, 0, 1, 0, 1, 1, 1, 1], [1, 1, 0, 1, 1, 1, 1, 0, 1, 0]], bool)
    at = np.cumsum(where, 1) - 1
    tokens = np.where(where, np.take_along_axis(TOKENS, np.maximum(at, 0), 1), 9)
    position = np.where(where, at, EMPTY)
    cache, found = model.init_cache(B, 10), []
    for part in (slice(0, 6), slice(6, 10)):
        read = output(model, params, tokens[:, part], position=position[:, part], cache=cache)
        cache = read.cache
        found.append(read.logits)
    found, full = np.concatenate(found, 1), logits(model, params, TOKENS)
    for row in range(B):
        want = full[row, : where[row].sum()]
        np.testing.assert_allclose(found[row][where[row]], want, atol=2e-4)


def test_texts_that_follow_each_other_are_apart(params):
    """Three in a row, one of one token, with padding after them."""
    lengths = (5, 1, 4)
    segments = np.repeat([1, 2, 3, 0], (*lengths, 2)) + np.zeros((B, 1), int)
    packed = logits(MODEL, params, TOKENS, mask=Mask(segments=(segments, segments)))
    ends = np.cumsum(lengths)
    for end, length in zip(ends, lengths):
        part = slice(end - length, end)
        alone = logits(MODEL, params, TOKENS[:, part])
        np.testing.assert_allclose(packed[:, part], alone, atol=1e-3)


@pytest.mark.parametrize(
    "given, words",
    [
        (dict(mask=Mask(prefix=np.array([3, 3]))), "left to right"),
        (dict(mask=Mask(allowed=np.ones((B, T, T), bool))), "left to right"),
        (
            dict(
                mask=Mask(segments=(np.ones((B, T)), np.ones((B, T)))),
                cache=MODEL.init_cache(B, T),
            ),
            "no segments; pad with the position EMPTY",
        ),
    ],
)
def test_what_a_state_cannot_do_is_refused(params, given, words):
    with pytest.raises(UserError, match=words):
        MODEL.apply({"params": params}, TOKENS, **given)


def test_a_state_takes_as_much_room_for_any_length():
    sizes = [tree.count(MODEL.init_cache(1, length)) for length in (1, 1000)]
    assert sizes[0] == sizes[1]


def test_a_hybrid_continues_texts(large):
    """Prompts of uneven length in one batch, as token by token without a cache."""
    model = Hybrid(V, 32, 4, 4, every=3, head=8, state=12)
    params = large(model, size=0.2)
    prompts = [TOKENS[0, :7], TOKENS[1, :2], TOKENS[1]]
    for prompt, result in zip(prompts, generate(model, params, prompts, length=6)):
        tokens = prompt.tolist()
        for _ in range(6):
            given = np.array([tokens + [0] * (T + 6 - len(tokens))])
            tokens.append(int(logits(model, params, given)[0, len(tokens) - 1].argmax()))
        assert result.tokens.tolist() == tokens[len(prompt) :]


# What mamba2-130m says of itself, as converted for `transformers`.
CONFIG = {
    "architectures": ["Mamba2ForCausalLM"],
    "bos_token_id": 0,
    "chunk_size": 256,
    "conv_kernel": 4,
    "eos_token_id": 0,
    "expand": 2,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 768,
    "initializer_range": 0.1,
    "layer_norm_epsilon": 1e-05,
    "model_type": "mamba2",
    "n_groups": 1,
    "norm_before_gate": False,
    "num_heads": 24,
    "num_hidden_layers": 24,
    "pad_token_id": 0,
    "rescale_prenorm_residual": False,
    "residual_in_fp32": True,
    "rms_norm": True,
    "state_size": 128,
    "tie_word_embeddings": True,
    "time_step_floor": 0.0001,
    "time_step_limit": [0.0, math.inf],
    "time_step_max": 0.1,
    "time_step_min": 0.001,
    "time_step_rank": 48,
    "use_bias": False,
    "use_cache": True,
    "use_conv_bias": True,
    "vocab_size": 50288,
}


@pytest.fixture(scope="module")
def small(tmp_path_factory, large):
    """A directory that `transformers` would load."""
    directory = tmp_path_factory.mktemp("mamba2") / "ours"
    section = {"kind": "Mamba2", "vocab": V, "width": 32, "layers": 2, "head": 8, "state": 12}
    save.save(directory, section, large(config.build(section, save.CONTENTS, "model")))
    return directory


def changed(directory, **changes):
    path = directory / "config.json"
    given = json.loads(path.read_text())
    path.write_text(json.dumps(changes))
    try:
        return load.section(directory)
    finally:
        path.write_text(json.dumps(given))


def test_the_published_config_is_understood_whole(small):
    before = log.facts()["fallbacks"]
    found = changed(small, **CONFIG)
    assert log.facts()["fallbacks"] == before
    model = config.build(found, save.CONTENTS, "model")
    assert tree.count(names.abstract(model)) == 128_989_632


def test_what_we_do_not_compute_is_refused(small):
    with pytest.raises(UserError, match="time_step_limit"):
        changed(small, **{**CONFIG, "time_step_limit": [0.0, 0.1]})


def test_an_infinite_number_may_be_an_object(small):
    changed(small, **{**CONFIG, "time_step_limit": [0.0, {"__float__": "Infinity"}]})


@pytest.mark.parametrize("size", SIZES)
def test_sizes(size):
    """As many parameters as theirs."""
    transformers = pytest.importorskip("transformers", reason="it is the reference: extra `verify`")
    torch = pytest.importorskip("torch", reason="the reference is torch's: extra `verify`")
    width, layers = SIZES[size]
    settings = transformers.Mamba2Config(
        **{**CONFIG, "hidden_size": width, "num_hidden_layers": layers, "num_heads": width // 32}
    )
    with torch.device("meta"):
        theirs = sum(w.numel() for w in transformers.Mamba2ForCausalLM(settings).parameters())
    assert tree.count(names.abstract(Mamba2(50_288, width, layers))) == theirs


def test_sizes_divide():
    with pytest.raises(ValueError, match="heads 8 is not a multiple of groups 3"):
        Mamba2(V, 32, head=8, groups=3)
    with pytest.raises(ValueError, match="width 32 is not a multiple of 5"):
        Hybrid(V, 32, heads=5, head=8)
