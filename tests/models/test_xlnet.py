"""XLNet against `transformers`: both streams, any order, memory, types and padding."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_research import config, log, mesh, tree
from lm_research.errors import UserError
from lm_research.hub import load, names, save
from lm_research.infer import generate
from lm_research.layers import Mask, Patch
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

    def total(params):
        found = reference.ours.apply({"params": params}, tokens, **ours).logits
        scores = jnp.take_along_axis(jax.nn.log_softmax(found), labels[..., None], -1)[..., 0]
        return -(scores * weights).sum(), found

    (value, found), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(reference.params)
    close(np.asarray(found)[weights > 0], logits[torch.tensor(weights > 0)])
    close(value, loss)
    return gradients


@pytest.mark.parametrize("name", ["types", "left", "right", "permuted"])
def test_logits_loss_and_every_gradient(reference, name):
    theirs, ours, weights = variant(reference, name)
    tokens = TOKENS[: len(weights)]
    weights = weights.astype(np.float32)
    gradients_are_theirs(reference, compared(reference, tokens, theirs, ours, weights))


def test_logits_of_tokens_alone(reference):
    for tokens in (TOKENS, TOKENS[:, :1]):
        ours = reference.ours.apply({"params": reference.params}, tokens).logits
        close(ours, reference.model(torch.tensor(tokens)).logits)
