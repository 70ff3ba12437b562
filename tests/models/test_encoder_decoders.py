"""Each encoder-decoder against `transformers`, and what holds for all: a line in CASES each."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from lm_research import config, mesh, tree
from lm_research.hub import load, names, save
from lm_research.layers import Mask
from lm_research.objectives.token_loss import token_loss

torch = pytest.importorskip("torch", reason="the reference is torch's: install the extra `verify`")
transformers = pytest.importorskip("transformers", reason="it is the reference: extra `verify`")

V, T, S = 61, 14, 19
T5_SMALL = {
    "vocab_size": V,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "decoder_start_token_id": 0,
}
UNUSUAL_T5 = {"d_kv": 12, "num_decoder_layers": 3, "layer_norm_epsilon": 1e-2}
V1_1 = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
CASES = {
    "t5": ("T5Config", T5_SMALL),
    "t5_unusual": ("T5Config", T5_SMALL | UNUSUAL_T5 | {"feed_forward_proj": "gelu"}),
    "t5_v1_1": ("T5Config", T5_SMALL | V1_1),
    "t5_v1_1_unusual": ("T5Config", T5_SMALL | UNUSUAL_T5 | {"feed_forward_proj": "gated-silu"}),
    "mt5": ("MT5Config", T5_SMALL | V1_1 | {"decoder_start_token_id": 3}),
}
UNTIED = ("t5_v1_1", "mt5")
SOURCES, TEXTS = (19, 11, 1), (14, 5, 1)  # tokens in the rows of a padded batch
TOLERANCE = 2e-5  # of the largest


class Reference:
    """A `transformers` model with large random weights, and what we load of it."""

    def __init__(self, case, directory):
        kind, values = CASES[case]
        torch.manual_seed(0)
        settings = getattr(transformers, kind)(**values)
        self.model = transformers.AutoModelForSeq2SeqLM.from_config(
            settings, attn_implementation="eager"
        ).eval()
        if case in UNTIED:  # theirs begin tied whatever the config says
            self.model.lm_head.weight = torch.nn.Parameter(torch.empty(V, settings.d_model))
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                weight.normal_(0, 0.25)
                if name.endswith("norm.weight"):
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


def padded(side, length, counts, seed):
    """Tokens, and 1 where they are no padding."""
    tokens = np.random.default_rng(seed).integers(0, V, (len(counts), length))
    slots, counts = np.arange(length), np.array(counts)[:, None]
    return tokens, (slots < counts if side == "right" else slots >= length - counts).astype(int)


def drawn(length, seed, rows=2):
    return np.random.default_rng(seed).integers(0, V, (rows, length))


def call(model, params, tokens, source, **given):
    return jax.jit(lambda p: model.apply({"params": p}, tokens, source=source, **given).logits)(
        params
    )


def segments(present):
    return Mask(segments=(present, present))


@pytest.mark.parametrize("sides", ["left left", "right right", "left right"])
def test_logits_loss_and_every_gradient(reference, near, sides):
    source, sourced = padded(sides.split()[0], S, SOURCES, 1)
    tokens, present = padded(sides.split()[1], T, TEXTS, 2)
    targets = drawn(T, 3, len(tokens))
    theirs = reference.model(
        input_ids=torch.tensor(source),
        attention_mask=torch.tensor(sourced),
        decoder_input_ids=torch.tensor(tokens),
        decoder_attention_mask=torch.tensor(present),
    ).logits
    each = torch.nn.functional.cross_entropy(
        theirs.transpose(1, 2), torch.tensor(targets), reduction="none"
    )
    loss = (each * torch.tensor(present)).sum()
    reference.model.zero_grad()
    loss.backward()

    def total(params):
        output = reference.ours.apply(
            {"params": params},
            tokens,
            source=source,
            source_mask=segments(sourced),
            mask=segments(present),
        )
        found = token_loss(output, targets, present.astype(np.float32))
        return found["loss"].total, output.logits

    (value, ours), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(reference.params)
    near(np.asarray(ours)[present == 1], theirs[torch.tensor(present == 1)], TOLERANCE)
    near(value, loss, TOLERANCE)
    leaves = tree.named_leaves(gradients)
    given = names.parameters(names.abstract(reference.ours))
    layout = names.layout(names.fitting(reference.section, given), given)
    expected = {name: p.grad for name, p in reference.model.named_parameters()}
    assert layout.keys() == expected.keys()
    for name, tensor in layout.items():
        made = tensor.made(
            lambda path, layer: np.asarray(leaves[path] if layer is None else leaves[path][layer])
        )
        near(made, expected[name], 1e-4)


def test_weights_make_the_round_trip(reference, tmp_path):
    count = save.save(tmp_path / "ours", reference.section, reference.params)
    one = load_file(reference.directory / "model.safetensors")
    other = load_file(tmp_path / "ours" / "model.safetensors")
    assert one.keys() == other.keys() and len(other) == count
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    assert load.section(tmp_path / "ours") == reference.section


def test_transformers_loads_what_we_save(reference, large, near, tmp_path):
    params = large(reference.ours, seed=3, size=0.25)
    save.save(tmp_path / "ours", reference.section, params)
    theirs, info = transformers.AutoModelForSeq2SeqLM.from_pretrained(
        tmp_path / "ours", attn_implementation="eager", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    source, tokens = drawn(S, 4), drawn(T, 5)
    expected = theirs(input_ids=torch.tensor(source), decoder_input_ids=torch.tensor(tokens))
    near(call(reference.ours, params, tokens, source), expected.logits, TOLERANCE)
    with mesh.single():
        again = load.load(tmp_path / "ours", reference.ours)
    jax.tree.map(np.testing.assert_array_equal, again, params)
