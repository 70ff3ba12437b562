"""XLNet against `transformers`: both streams, any order, memory, types and padding."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_research import config, log, mesh, tree
from lm_research.errors import UserError
from lm_research.hub import load, names, save
from lm_research.infer import generate
from lm_research.layers import EMPTY, Mask, Patch
from lm_research.models.xlnet import SIZES, XLNet

torch = pytest.importorskip("torch", reason="the reference is torch's: install the extra `verify`")
transformers = pytest.importorskip("transformers", reason="it is the reference: extra `verify`")

V, T, B = 61, 12, 3
SMALL = {"vocab_size": V, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}
UNUSUAL = {
    "ff_activation": "gelu_new",
    "clamp_len": 3,
    "layer_norm_eps": 1e-2,
    "tie_word_embeddings": False,
}
CASES = {"bi": {}, "uni": {"attn_type": "uni"}, "unusual": UNUSUAL}
TOLERANCE = 2e-5  # of the largest


class Reference:
    """A `transformers` model with large random weights, and what we load of it."""

    def __init__(self, case, directory):
        torch.manual_seed(0)
        self.model = transformers.XLNetLMHeadModel(transformers.XLNetConfig(**SMALL, **CASES[case]))
        self.model.eval()
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                weight.normal_(0, 0.4)
                if name.endswith("layer_norm.weight"):
                    weight.add_(1)
        self.model.save_pretrained(directory)
        self.directory = directory
        self.section = load.section(directory)
        self.ours = config.build(self.section, save.CONTENTS, "model")
        with mesh.single():
            self.params = load.load(directory, self.ours)


@pytest.fixture(scope="module", params=CASES)
def reference(request, tmp_path_factory):
    return Reference(request.param, tmp_path_factory.mktemp(request.param) / "theirs")


@functools.partial(jax.jit, static_argnums=0)
def output(model, params, tokens, **given):
    return model.apply({"params": params}, tokens, **given)


def close(ours, theirs, tolerance=TOLERANCE):
    ours, theirs = np.asarray(ours), theirs.detach().numpy()
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


RNG = np.random.default_rng(1)
TOKENS = RNG.integers(0, V, (B, T))
ORDER = np.stack([RNG.permutation(T) for _ in range(B)])
TARGETS = np.stack([np.sort(RNG.permutation(T)[:4]) for _ in range(B)])
TYPES = RNG.integers(0, 2, (B, T))
LENGTHS = np.array([[7], [T], [2]])
PRESENT = {"right": np.arange(T) < LENGTHS, "left": np.arange(T) >= T - LENGTHS}


def variant(reference, name):
    """What theirs and ours are given besides tokens, and weights of what comes out."""
    # Theirs cannot be causal and take a mask for a batch: an axis does not broadcast.
    rows = B if reference.section["causal"] is False else 1
    types = torch.tensor(TYPES[:rows])
    if name == "types":
        return {"token_type_ids": types}, {"types": TYPES[:rows]}, np.ones((rows, T))
    if name in PRESENT:
        present = PRESENT[name][:rows].astype(int)
        theirs = {"attention_mask": torch.tensor(present)}
        return theirs, {"mask": Mask(segments=(present, present))}, present
    order, targets = ORDER[:rows], TARGETS[:rows]
    allowed = np.asarray(Mask.factorised(jnp.array(order)).allowed)
    theirs = {
        "perm_mask": 1 - torch.tensor(allowed, dtype=torch.float32),
        "target_mapping": torch.tensor(np.eye(T, dtype=np.float32)[targets]),
        "token_type_ids": types,
    }
    ours = {"mask": Mask(allowed=allowed), "targets": targets, "types": TYPES[:rows]}
    seen = np.take_along_axis(allowed, targets[..., None], 1)
    if reference.section["causal"]:
        seen &= np.arange(T) <= targets[..., None]
    # A query that may see nobody sees everybody in theirs.
    return theirs, ours, seen.any(-1)


def gradients_are_theirs(reference, gradients):
    leaves = tree.named_leaves(gradients)
    given = names.parameters(names.abstract(reference.ours))
    layout = names.layout(names.fitting(reference.section, given), given)
    expected = dict(reference.model.named_parameters())
    assert layout.keys() == expected.keys()
    for name, tensor in layout.items():
        made = tensor.made(
            lambda path, layer: np.asarray(leaves[path] if layer is None else leaves[path][layer])
        )
        theirs = expected[name].grad
        if theirs is None:  # nothing was asked of it
            assert not made.any()
        else:
            close(made, theirs, 1e-4)


@functools.partial(jax.jit, static_argnums=0)
def measured(model, params, tokens, given, labels, weights):
    """The loss, logits and gradients: one program for either side."""

    def total(params):
        found = model.apply({"params": params}, tokens, **given).logits
        scores = jnp.take_along_axis(jax.nn.log_softmax(found), labels[..., None], -1)[..., 0]
        return -(scores * weights).sum(), found

    return jax.value_and_grad(total, has_aux=True)(params)


def compared(reference, tokens, theirs, ours, weights):
    """Logits, and a loss of what each row predicts; returns our gradients."""
    reference.model.zero_grad()
    logits = reference.model(torch.tensor(tokens), **theirs).logits
    labels = np.random.default_rng(2).integers(0, V, weights.shape)
    each = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), torch.tensor(labels), reduction="none"
    )
    loss = (each * torch.tensor(weights)).sum()
    loss.backward()

    (value, found), gradients = measured(
        reference.ours, reference.params, tokens, ours, labels, weights
    )
    close(np.asarray(found)[weights > 0], logits[torch.tensor(weights > 0)])
    close(value, loss)
    return gradients


@pytest.mark.parametrize("name", ["types", "left", "right", "permuted"])
def test_logits_loss_and_every_gradient(reference, name):
    theirs, ours, weights = variant(reference, name)
    tokens = TOKENS[: len(weights)]
    weights = weights.astype(np.float32)
    gradients_are_theirs(reference, compared(reference, tokens, theirs, ours, weights))


@pytest.mark.parametrize("state", ["init_cache", "init_memory"])
def test_memory_of_an_earlier_segment(reference, state):
    """Read with a permutation mask and targets; the gradient is theirs where memory is hidden."""
    theirs, ours, weights = variant(reference, "permuted")
    tokens, position = TOKENS[: len(weights)], np.arange(T) + np.zeros((len(weights), 1), int)
    earlier, length = np.roll(tokens, 1, 0)[:, :7], 7 + T + 2
    with torch.no_grad():
        theirs["mems"] = reference.model(torch.tensor(earlier)).mems
    room = getattr(reference.ours, state)(len(weights), length)
    first = output(reference.ours, reference.params, earlier, cache=room, position=position[:, :7])
    ours |= {"cache": first.cache, "position": position + 7, "targets": ours["targets"] + 7}
    gradients = compared(reference, tokens, theirs, ours, weights.astype(np.float32))
    if state == "init_memory":
        gradients_are_theirs(reference, gradients)


def test_logits_of_tokens_alone(reference):
    for tokens in (TOKENS, TOKENS[:, :1]):
        ours = output(reference.ours, reference.params, tokens).logits
        close(ours, reference.model(torch.tensor(tokens)).logits)


def test_greedy_continuations_are_theirs(reference):
    """Through the cache, prompts of uneven length in one batch."""
    prompts = [np.arange(3, 14), np.array([7]), np.array([5, 60, 0, 2])]
    with mesh.single():
        found = generate(reference.ours, reference.params, prompts, length=12)
    for prompt, result in zip(prompts, found, strict=True):
        want = reference.model.generate(
            torch.tensor(prompt)[None],
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert result.tokens.tolist() == want[0, len(prompt) :].tolist()


def test_weights_make_the_round_trip(reference, round_trip):
    round_trip(reference)


def test_transformers_loads_what_we_save(reference, large, read_by_transformers):
    params = large(reference.ours, seed=3)
    kind = transformers.AutoModelForCausalLM
    theirs = read_by_transformers(kind, reference, params)
    ours = output(reference.ours, params, TOKENS).logits
    close(ours, theirs(torch.tensor(TOKENS)).logits)


MODEL = XLNet(V, 32, 2, 4, 48)


@pytest.fixture(scope="module")
def params(large):
    return large(MODEL)


def predicted(params, tokens, **given):
    return output(MODEL, params, tokens, **given).logits


def test_no_target_depends_on_itself_or_on_what_comes_later_in_its_order(params):
    """By gradient, exactly; the first in the order depends on nothing."""
    order = np.random.default_rng(3).permutation(T)[None] + 1
    mask, slots = Mask.factorised(jnp.array(order)), np.arange(T)[None]
    weights = np.random.default_rng(4).normal(size=V)

    def logit(add):
        patches = {"embedded": Patch(jnp.ones((1, T, 32)), add)}
        given = {"params": params, "patches": patches}
        output = MODEL.apply(given, TOKENS[:1], mask=mask, targets=slots)
        return output.logits[0] @ weights  # [T]

    influence = np.abs(jax.jit(jax.jacrev(logit))(jnp.zeros((1, T, 32)))[:, 0]).max(-1)  # [T, S]
    earlier = order[0] < order[0][:, None]
    assert (influence[~earlier] == 0).all()
    assert (influence[earlier] > 0).all()


def test_by_itself_a_target_sees_all_but_itself(params):
    hidden = np.eye(T)[None] == 0
    slots = np.arange(T)[None]
    expected = predicted(
        params, TOKENS[:1], targets=slots, mask=Mask(allowed=np.ones((1, T, T), bool))
    )
    assert np.abs(predicted(params, TOKENS[:1], targets=slots) - expected).max() > 0.1
    # A content sees itself whether it is told to or not.
    others = predicted(params, TOKENS[:1], targets=slots, mask=Mask(allowed=hidden))
    np.testing.assert_array_equal(others, predicted(params, TOKENS[:1], targets=slots))


def test_the_next_token_is_the_same_through_the_cache(params):
    """Of rows of uneven length, with padding on the left and on the right of the cache."""
    lengths = np.array([T, 7, 2])
    for side in ("right", "left"):
        start = np.zeros(B, int) if side == "right" else T - lengths
        slot = np.arange(T) - start[:, None]
        position = np.where((slot >= 0) & (slot < lengths[:, None]), slot, EMPTY)
        found = predicted(
            params,
            TOKENS,
            position=position,
            cache=MODEL.init_cache(B, T + 3),
            targets=lengths[:, None],
        )
        for row, length in enumerate(lengths):
            alone = TOKENS[row : row + 1, start[row] : start[row] + length]
            want = predicted(params, alone, targets=np.array([[length]]))
            np.testing.assert_allclose(found[row], want[0], atol=2e-4)


def test_packed_is_separate(params):
    cut, targets = 5, np.array([[1, 4, 8, 11]])
    segments = np.where(np.arange(T) < cut, 1, 2)[None]
    order = np.array([[0, 1, 0, 0, 2, 0, 0, 0, 2, 0, 0, 1]])
    allowed = Mask.factorised(jnp.array(order)).allowed
    mask = Mask(allowed=allowed, segments=(segments, segments))
    packed = predicted(params, TOKENS[:1], mask=mask, targets=targets)
    for part, at in ((slice(0, cut), slice(0, 2)), (slice(cut, T), slice(2, 4))):
        want = predicted(
            params,
            TOKENS[:1, part],
            mask=Mask(allowed=allowed[:, part, part]),
            targets=targets[:, at] - part.start,
        )
        np.testing.assert_allclose(packed[:, at], want, atol=2e-4)


# What the Hub's xlnet-base-cased says of itself.
CONFIG = {
    "architectures": ["XLNetLMHeadModel"],
    "attn_type": "bi",
    "bi_data": False,
    "bos_token_id": 1,
    "clamp_len": -1,
    "d_head": 64,
    "d_inner": 3072,
    "d_model": 768,
    "dropout": 0.1,
    "end_n_top": 5,
    "eos_token_id": 2,
    "ff_activation": "gelu",
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "mem_len": None,
    "model_type": "xlnet",
    "n_head": 12,
    "n_layer": 12,
    "pad_token_id": 5,
    "reuse_len": None,
    "same_length": False,
    "start_n_top": 5,
    "summary_activation": "tanh",
    "summary_last_dropout": 0.1,
    "summary_type": "last",
    "summary_use_proj": True,
    "untie_r": True,
    "vocab_size": 32000,
}


def section(directory, **changes):
    (directory / "config.json").write_text(json.dumps(CONFIG | changes))
    return load.section(directory)


def test_the_published_config_is_understood_whole(tmp_path):
    before = log.facts()["fallbacks"]
    found = section(tmp_path)
    assert log.facts()["fallbacks"] == before
    assert not found["causal"] and found["clamp"] is None and found["tied"]


@pytest.mark.parametrize("size", SIZES)
def test_sizes(size):
    """As many parameters as theirs."""
    width, layers, heads = SIZES[size]
    settings = transformers.XLNetConfig(
        d_model=width, n_layer=layers, n_head=heads, d_inner=4 * width
    )
    with torch.device("meta"):
        theirs = sum(w.numel() for w in transformers.XLNetLMHeadModel(settings).parameters())
    model = XLNet(vocab=32000, width=width, layers=layers, heads=heads)
    assert tree.count(names.abstract(model)) == theirs


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"bi_data": True}, "bi_data True; XLNetLMHeadModel takes False"),
        ({"same_length": True}, "same_length True"),
        ({"attn_type": "both"}, "attn_type 'both'; it takes bi or uni"),
    ],
)
def test_what_we_do_not_compute_is_refused(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        section(tmp_path, **changes)


def test_widths_are_multiples_of_heads():
    with pytest.raises(ValueError, match="width 10 is not a multiple of heads 4"):
        XLNet(vocab=8, width=10, heads=4)
