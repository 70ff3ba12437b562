"""What holds for every decoder and encoder, whatever its family: a new one is a line in MODELS."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from variants import tried

from lm_research import mesh, tree
from lm_research.layers import EMPTY, Mask, Patch, separated
from lm_research.models import (
    ALBERT,
    BERT,
    GPT2,
    OPT,
    DistilBERT,
    Gemma,
    GPTNeoX,
    Hybrid,
    Llama,
    Mamba2,
    Mixtral,
    ModernBERT,
    OLMo2,
    Phi3,
    RoBERTa,
    XLNet,
)

SIZES = {"vocab": 64, "width": 32, "layers": 2, "heads": 4}
SANDWICH = dict(wiring="sandwich", kv_heads=2, head=16, hidden=48, score_cap=3.0, soft_cap=2.0)
MODELS = {
    "gemma2": Gemma(**SIZES | {"layers": 3}, **SANDWICH, windows=(5, None)),
    "gemma3": Gemma(**SIZES, **SANDWICH, windows=(5, None), head_norms=True, local_base=50.0),
    "gpt2": GPT2(**SIZES, context=24),
    "gpt2_bare": GPT2(**SIZES, context=24, bias=False, tied=False),
    "gpt_neox": GPTNeoX(**SIZES, fraction=0.5),
    "llama": Llama(**SIZES, kv_heads=2, hidden=48),
    "llama_ahead": Llama(**SIZES, kv_heads=2, hidden=48, ahead=2),
    "bert": BERT(**SIZES, context=24),
    "bert_pair": BERT(**SIZES, context=24, pair=True),
    "olmo2": OLMo2(**SIZES, kv_heads=2, hidden=48),
    "phi3": Phi3(**SIZES, kv_heads=2, hidden=48, fraction=0.5),
    "opt": OPT(**SIZES, context=24),
    "roberta": RoBERTa(**SIZES, context=24),
    "mixtral": Mixtral(**SIZES, kv_heads=2, hidden=24, experts=4, dense=(False, True)),
    "distilbert": DistilBERT(**SIZES, context=24),
    "albert": ALBERT(**SIZES, embedding=16, groups=1, context=24),
    "modernbert": ModernBERT(**SIZES | {"layers": 4}, hidden=48, window=4),
    "qwen3": Llama(**SIZES, kv_heads=2, head=16, hidden=48, head_norms=True, tied=True),
    "xlnet": XLNet(**SIZES, causal=True),
    "mamba2": Mamba2(64, 32, 2, head=8, groups=2, state=12, chunk=5),
    "hybrid": Hybrid(64, 32, 3, 4, every=2, head=8, groups=2, state=12),
}
# Those whose stacks are unlike; what the core does with a stack is tried on them, or on all.
UNLIKE = ("albert", "gemma2", "gpt2", "hybrid", "mixtral", "xlnet")
STACKS = tried(MODELS, UNLIKE)
T = 12
ROWS = 4  # as many as the parts that a mesh cuts a batch into
WEIGHTS = np.random.default_rng(7).normal(size=(ROWS, T, 64)).astype(np.float32)


@pytest.fixture(scope="module", params=STACKS)
def model(request):
    return MODELS[request.param]


@pytest.fixture(scope="module")
def params(model, large):
    return large(model)


@pytest.fixture(scope="module")
def expected(model, params):
    return both(model)(params)


def tokens(rows=2, length=T):
    return np.random.default_rng(4).integers(0, 64, (rows, length))


@functools.partial(jax.jit, static_argnums=0)
def logits(model, params, tokens, **given):
    return model.apply({"params": params}, tokens, **given).logits


def both(model):
    """Of parameters: gradients and logits, jitted."""

    def total(params):
        found = model.apply({"params": params}, tokens(ROWS)).logits
        return (found * WEIGHTS).sum(), found

    return jax.jit(jax.grad(total, has_aux=True))


def test_no_logit_depends_on_a_later_token(model, params):
    """And on every other one: those of an encoder on all."""
    shape = (1, T, 32)

    def logit(add):
        patches = {"embedded": Patch(jnp.ones(shape), add)}
        output = model.apply({"params": params, "patches": patches}, tokens(1))
        return (output.logits[0] * WEIGHTS[0]).sum(-1)  # [T]

    influence = np.abs(jax.jit(jax.jacrev(logit))(jnp.zeros(shape))[:, 0]).max(-1)  # [T, S]
    later = np.triu(np.full((T, T), model.causal), 1)
    assert (influence[later] == 0).all()
    assert (influence[~later] > 0).all()


def test_cached_is_full(model, params, alike):
    """Rows of uneven length, read in one call, and then token by token in slots that they share."""
    if not model.causal:
        pytest.skip("an encoder keeps no cache")
    given, lengths, read = tokens(), np.array([5, 3]), 5
    full = logits(model, params, given)

    @jax.jit
    def step(params, cache, tokens, position):
        output = model.apply({"params": params}, tokens, position=position, cache=cache)
        return output.logits, output.cache

    slots = np.broadcast_to(np.arange(read), (2, read))
    position = np.where(slots < lengths[:, None], slots, EMPTY)
    found, cache = step(params, model.init_cache(2, T), given[:, :read], position)
    for row, length in enumerate(lengths):
        alike(found[row, :length], full[row, :length])
    for i in range(T - read):
        at = lengths + i
        now = np.take_along_axis(given, at[:, None], 1)
        found, cache = step(params, cache, now, at[:, None])
        alike(found[:, 0], np.take_along_axis(np.asarray(full), at[:, None, None], 1)[:, 0])


def test_packed_is_separate(model, params, alike):
    given, cut = tokens(), 5
    segments = np.where(np.arange(T) < cut, 1, 2) + np.zeros((2, 1), int)
    position = np.where(segments == 1, np.arange(T), np.arange(T) - cut)
    packed = logits(
        model, params, given, position=position, mask=Mask(segments=(segments, segments))
    )
    alike(packed[:, :cut], logits(model, params, given[:, :cut]))
    alike(packed[:, cut:], logits(model, params, given[:, cut:]))


@pytest.mark.parametrize(
    "model, remat",
    [(name, "none") for name in STACKS] + [("gpt2", "dots"), ("gpt2", "full"), ("gemma2", "full")],
    indirect=["model"],
)
def test_scanned_is_unrolled(model, params, expected, remat, alike):
    """And computing activations again changes nothing."""
    scanned = model.clone(stack=model.stack.clone(execution="scan", remat=remat))
    alike(both(scanned)(params), expected)


@pytest.mark.parametrize("model", STACKS, indirect=True)
def test_separate_is_stacked(model, params, expected, alike):
    apart = model.clone(stack=model.stack.clone(execution="separate"))
    stack = separated(params["stack"], model.stack.layers)
    gradients, logits = expected
    gradients = {**gradients, "stack": separated(gradients["stack"], model.stack.layers)}
    alike(both(apart)({**params, "stack": stack}), (gradients, logits), 2e-5)


@pytest.mark.parametrize("model", STACKS, indirect=True)
def test_sharded_is_whole(model, params, expected, alike):
    boxed = jax.eval_shape(model.init, jax.random.key(0), tokens())["params"]
    with mesh.Mesh(data=2, fsdp=2, tensor=2).activate():
        sharded = jax.device_put(params, mesh.shardings(boxed))
        leaves = tree.named_leaves(sharded).items()
        kernel = re.compile(r"^stack/.*(attention/key|mixer/read)/kernel$")
        key = next(leaf for name, leaf in leaves if kernel.search(name))
        assert key.addressable_shards[0].data.shape[1:3] == (key.shape[1] / 2, key.shape[2] / 2)
        alike(both(model)(sharded), expected, 4e-5)


@pytest.mark.parametrize(
    "model", tried(["gpt2", "mamba2", "qwen3", "xlnet"], ["mamba2", "qwen3"]), indirect=True
)
def test_positions_and_layers_shared_out_are_whole(model, params, expected, alike):
    boxed = jax.eval_shape(model.init, jax.random.key(0), tokens())["params"]
    with mesh.Mesh(data=2, sequence=2, pipeline=2).activate():
        sharded = jax.device_put(params, mesh.shardings(boxed))
        layers = jax.tree.leaves(sharded["stack"]["blocks"])
        assert all(a.addressable_shards[0].data.shape[0] == 1 for a in layers)
        alike(both(model)(sharded), expected, 4e-5)
