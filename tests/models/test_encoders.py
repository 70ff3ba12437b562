"""Each encoder against `transformers`, with random weights: a new one is a line in CASES."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from variants import tried

from lm_research import config, mesh, tree
from lm_research.errors import UserError
from lm_research.hub import load, names, save
from lm_research.layers import Mask

torch = pytest.importorskip("torch", reason="the reference is torch's: install the extra `verify`")
transformers = pytest.importorskip("transformers", reason="it is the reference: extra `verify`")

BERT = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 24,
}
UNUSUAL = {"hidden_act": "gelu_new", "layer_norm_eps": 1e-2, "type_vocab_size": 3}
ROBERTA = BERT | {"max_position_embeddings": 26, "type_vocab_size": 1}
CASES = {
    "bert": ("BertForMaskedLM", BERT),
    "bert_unusual": ("BertForMaskedLM", BERT | UNUSUAL),
    "bert_pretraining": ("BertForPreTraining", BERT),
    "bert_pooled": ("BertModel", BERT),
    "roberta": ("RobertaForMaskedLM", ROBERTA),
    "roberta_unusual": (
        "RobertaForMaskedLM",
        ROBERTA | UNUSUAL | {"hidden_act": "relu", "pad_token_id": 0},
    ),
    "roberta_pooled": ("RobertaModel", ROBERTA),
}
DISTILBERT = {
    "vocab_size": 61,
    "dim": 32,
    "hidden_dim": 48,
    "n_layers": 2,
    "n_heads": 4,
    "max_position_embeddings": 24,
}
CASES |= {
    "distilbert": ("DistilBertForMaskedLM", DISTILBERT),
    "distilbert_unusual": ("DistilBertForMaskedLM", DISTILBERT | {"activation": "relu"}),
    "distilbert_bare": ("DistilBertModel", DISTILBERT),
}
ALBERT = BERT | {"embedding_size": 16, "num_hidden_layers": 4, "hidden_dropout_prob": 0.1}
CASES |= {
    "albert": ("AlbertForMaskedLM", ALBERT),
    "albert_groups": ("AlbertForMaskedLM", ALBERT | UNUSUAL | {"num_hidden_groups": 2}),
    "albert_wide": (
        "AlbertForMaskedLM",
        ALBERT | {"embedding_size": 32, "num_hidden_groups": 4, "hidden_act": "gelu"},
    ),
    "albert_pretraining": ("AlbertForPreTraining", ALBERT),
    "albert_pooled": ("AlbertModel", ALBERT),
}
ELECTRA = BERT | {"embedding_size": 16}
CASES |= {
    "electra": ("ElectraForPreTraining", ELECTRA),
    "electra_wide": ("ElectraForPreTraining", ELECTRA | UNUSUAL | {"embedding_size": 32}),
    "electra_generator": ("ElectraForMaskedLM", ELECTRA | UNUSUAL),
    "electra_generator_wide": ("ElectraForMaskedLM", ELECTRA | {"embedding_size": 32}),
    "electra_bare": ("ElectraModel", ELECTRA),
}
SPECIAL = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0)
MODERNBERT = BERT | SPECIAL | {"num_hidden_layers": 6, "local_attention": 8}
ROPE = {"rope_theta": 50.0, "rope_type": "default"}
CASES |= {
    "modernbert": ("ModernBertForMaskedLM", MODERNBERT),
    "modernbert_unusual": (
        "ModernBertForMaskedLM",
        MODERNBERT
        | {
            "num_hidden_layers": 4,
            "global_attn_every_n_layers": 2,
            "rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE},
            "hidden_activation": "silu",
            "classifier_activation": "relu",
            "norm_eps": 1e-2,
        },
    ),
    "modernbert_shallow": ("ModernBertForMaskedLM", MODERNBERT | {"num_hidden_layers": 2}),
    "modernbert_bare": ("ModernBertModel", MODERNBERT),
}
FIRST = list({case.split("_")[0]: case for case in reversed(CASES)}.values())
# One variant of each family, and some more.
MORE = ["bert_pretraining"]
TRIED = tried(CASES, FIRST + MORE)
LENGTH = 24  # the whole context
ROWS = (24, 17, 2)  # tokens in each row of a padded batch
TOLERANCE = 2e-5  # of the largest; the two gelus part at 1e-4


class Reference:
    """A `transformers` model with large random weights, and what we load of it."""

    def __init__(self, case, directory):
        architecture, values = CASES[case]
        torch.manual_seed(0)
        kind = getattr(transformers, architecture)
        settings = kind.config_class(**values)
        settings._attn_implementation = "eager"
        self.model = kind(settings).eval()
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                weight.normal_(0, 0.4)
                if "norm" in name.lower() and name.endswith("weight"):
                    weight.add_(1)
        self.model.save_pretrained(directory)
        self.directory = directory
        self.section = load.section(directory)
        self.ours = config.build(self.section, save.CONTENTS, "model")
        self.types = self.section.get("types", 0)
        with mesh.single():
            self.params = load.load(directory, self.ours)

    def outputs(self, tokens, present, types):
        """Theirs: logits or hidden states, and of pairs or pooled."""
        offset = self.section.get("offset", 0)
        given = {
            "attention_mask": torch.tensor(present),
            "position_ids": torch.tensor(positions(present) + offset),
            "token_type_ids": torch.tensor(types),
        }
        if not self.types:
            del given["token_type_ids"]
        found = self.model(torch.tensor(tokens), **given)
        return [
            found[name]
            for name in ("logits", "prediction_logits", "last_hidden_state")
            if name in found
        ] + [
            found[name]
            for name in ("seq_relationship_logits", "sop_logits", "pooler_output")
            if name in found and found[name] is not None
        ]

    def main(self, output):
        """What theirs is called by: detected tokens, logits or hidden states."""
        if output.replaced is not None:
            return output.replaced
        return output.logits if self.section.get("head", True) else output.hidden

    def ours_of(self, params, tokens, present, types):
        """The same of ours."""
        output = self.ours.apply(
            {"params": params},
            tokens,
            position=jnp.maximum(jnp.cumsum(present, 1) - 1, 0),
            mask=Mask(segments=(present, present)),
            **({"types": types} if self.types else {}),
        )
        return [self.main(output)] + [x for x in (output.pair, output.pooled) if x is not None][:1]


@pytest.fixture(scope="module", params=TRIED)
def reference(request, tmp_path_factory):
    return Reference(request.param, tmp_path_factory.mktemp(request.param) / "theirs")


def positions(present):
    return np.maximum(np.cumsum(present, 1) - 1, 0)


def inputs(side, types):
    """Tokens, 1 where they are no padding, and their types."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(2, 61, (len(ROWS), LENGTH))
    slots, rows = np.arange(LENGTH), np.array(ROWS)[:, None]
    present = (slots < rows if side == "right" else slots >= LENGTH - rows).astype(int)
    return tokens, present, rng.integers(0, max(1, types), tokens.shape)


def close(ours, theirs, tolerance=TOLERANCE, rounding=0.0):
    ours, theirs = np.asarray(ours), theirs.detach().numpy()
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance * max(np.abs(theirs).max(), rounding)


@functools.partial(jax.jit, static_argnums=0, static_argnames="half")
def output(model, params, tokens, **given):
    return model.apply({"params": params}, tokens, **given)


@functools.partial(jax.jit, static_argnums=0)
def measured(reference, params, given, weights):
    """Gradients of the weighted sum of outputs, and these: one program for either side."""

    def total(params):
        ours = reference.ours_of(params, *given)
        return sum((x * w).sum() for x, w in zip(ours, weights, strict=True)), ours

    return jax.grad(total, has_aux=True)(params)


@pytest.mark.parametrize("side", ["left", "right"])
def test_outputs_and_every_gradient(reference, side):
    given = inputs(side, reference.types)
    present = given[1]
    reference.model.zero_grad()
    theirs = reference.outputs(*given)
    rng = np.random.default_rng(5)
    weights = [rng.normal(size=x.shape).astype(np.float32) for x in theirs]
    weights[0] *= present.reshape(present.shape + (1,) * (weights[0].ndim - 2))
    if side == "left":  # they pool what stands in the first slot, padding or not
        weights[1:] = [np.zeros_like(w) for w in weights[1:]]
    sum((x * torch.tensor(w)).sum() for x, w in zip(theirs, weights)).backward()
    gradients, ours = measured(reference, reference.params, given, weights)
    close(np.asarray(ours[0])[present == 1], theirs[0][torch.tensor(present == 1)])
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        if side == "right":
            close(a, b)
    leaves = tree.named_leaves(gradients)
    expected = {name: p.grad for name, p in reference.model.named_parameters()}
    # A key's bias adds the same to all scores of a query: its gradient is nothing but rounding.
    rounding = 1e-2 * max(np.abs(leaf).max() for leaf in leaves.values())
    for name, made in tensors(reference, leaves).items():
        if expected[name] is None:  # nothing pools
            assert not made.any(), name
        else:
            close(made, expected[name], 1e-4, rounding)


def tensors(reference, leaves):
    """Theirs, made of our leaves by path."""
    given = names.parameters(names.abstract(reference.ours))
    family = names.fitting(reference.section, given)
    layout = names.layout(family, given)
    read = lambda path, index: np.asarray(leaves[path][index])
    return {family.written(name): tensor.made(read) for name, tensor in layout.items()}


@pytest.mark.parametrize("reference", FIRST, indirect=True)
def test_outputs_without_anything_else(reference):
    tokens = np.random.default_rng(2).integers(2, 61, (2, LENGTH))
    for given in (tokens, tokens[:, :1]):
        ours = output(reference.ours, reference.params, given)
        theirs = reference.model(torch.tensor(given))
        close(reference.main(ours), theirs[0])


def test_weights_make_the_round_trip(reference, round_trip):
    round_trip(reference)


@pytest.mark.parametrize("reference", FIRST, indirect=True)
def test_transformers_loads_what_we_save(reference, large, read_by_transformers):
    params = large(reference.ours, seed=3)
    kind = type(reference.model)
    theirs = read_by_transformers(kind, reference, params)
    tokens = np.random.default_rng(3).integers(2, 61, (2, LENGTH))
    found = theirs(torch.tensor(tokens))
    close(reference.main(output(reference.ours, params, tokens)), found[0])


@pytest.fixture
def pretraining(tmp_path):
    """A BERT's directory with both heads, its tensors, and a function that writes other ones."""
    found = Reference("bert_pretraining", tmp_path / "theirs")
    stored = load_file(found.directory / "model.safetensors")
    settings = json.loads((found.directory / "config.json").read_text())

    def write(tensors, **changes):
        save_file(tensors, found.directory / "model.safetensors")
        (found.directory / "config.json").write_text(json.dumps({**settings, **changes}))
        section = load.section(found.directory)
        model = config.build(section, save.CONTENTS, "model")
        with mesh.single():
            return section, load.load(found.directory, model)

    return found, stored, write


def test_an_old_file_of_bert_loads(pretraining):
    """As bert-base-uncased is: both heads under the name of one, old spellings, tensors twice."""
    found, stored, write = pretraining
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in stored.items()
    }
    old["bert.embeddings.position_ids"] = np.arange(24)[None]
    old["cls.predictions.decoder.weight"] = stored["bert.embeddings.word_embeddings.weight"].copy()
    old["cls.predictions.decoder.bias"] = stored["cls.predictions.bias"].copy()
    section, params = write(old, architectures=["BertForMaskedLM"])
    assert section == found.section and section["pair"]
    jax.tree.map(np.testing.assert_array_equal, params, found.params)
    old["cls.predictions.decoder.bias"][3] += 1
    with pytest.raises(UserError, match=r"decoder\.bias differs from cls\.predictions\.bias"):
        write(old, architectures=["BertForMaskedLM"])


def test_a_file_s_heads_are_those_that_it_has_whole(pretraining):
    _, stored, write = pretraining
    without = lambda *parts: {n: t for n, t in stored.items() if not any(p in n for p in parts)}
    section, params = write(without("seq_relationship"))
    assert "pair" not in section and "pooler" not in params  # which is let be
    section, params = write(without("cls."))
    assert not section["head"] and section["pooler"] and "transform" not in params
    bare = {name.removeprefix("bert."): t for name, t in without("cls.", "pooler").items()}
    section, params = write(bare, architectures=["BertModel"])
    assert not section["head"] and "pooler" not in section and "pooler" not in params
    with pytest.raises(UserError, match=r"unknown: regressor\.weight"):
        write({**stored, "regressor.weight": np.zeros((2, 32), np.float32)})
    with pytest.raises(UserError, match=r"missing: bert\.encoder\.layer\.1\.output\.dense\.bias"):
        write(without("layer.1.output.dense.bias"))


@pytest.mark.parametrize(
    "option",
    [
        {"is_decoder": True},
        {"add_cross_attention": True},
        {"position_embedding_type": "relative_key"},
        {"tie_word_embeddings": False},
        {"hidden_act": "xielu"},
    ],
    ids=lambda option: next(iter(option)),
)
def test_what_changes_a_bert_is_refused(pretraining, option):
    _, stored, write = pretraining
    with pytest.raises(UserError, match=str(next(iter(option.values())))):
        write(stored, **option)


@pytest.mark.parametrize("embedding", [8, 32])
def test_both_halves_of_an_electra_convert(large, tmp_path, embedding):
    """What a pair says by halves is what `transformers` says of each of them."""
    section = {"kind": "ELECTRAPair", "vocab": 61, "width": 32, "layers": 2, "heads": 4}
    section |= {"embedding": embedding, "generator_width": 16, "generator_heads": 2, "context": 24}
    pair = config.build(section, save.CONTENTS, "model")
    params, tokens = large(pair), np.random.default_rng(3).integers(2, 61, (2, LENGTH))
    kinds = {"generator": "ElectraForMaskedLM", "discriminator": "ElectraForPreTraining"}
    for half, kind in kinds.items():
        one, own = pair.part(half, section, params)
        save.save(tmp_path / half, one, own)
        theirs, info = getattr(transformers, kind).from_pretrained(
            tmp_path / half, output_loading_info=True
        )
        assert not info["missing_keys"] and not info["unexpected_keys"], info
        found = output(pair, params, tokens, half=half)
        ours = found.logits if half == "generator" else found.replaced
        close(ours, theirs(torch.tensor(tokens)).logits)
    with pytest.raises(UserError, match="ELECTRAPair has no Hugging Face architecture"):
        save.save(tmp_path / "pair", section, params)


def test_shared_layers_may_be_scanned_and_made_again(large):
    from lm_research.models import ALBERT

    sizes = dict(vocab=61, width=32, layers=4, heads=4, embedding=16, groups=2, context=24)
    model, tokens = ALBERT(**sizes), np.arange(24).reshape(2, 12)
    params = large(model)

    def both(model):
        total = lambda p: (jnp.square(model.apply({"params": p}, tokens).logits)).sum()
        return jax.jit(jax.value_and_grad(total))(params)

    expected = jax.tree.leaves(both(model))
    for remat in ("none", "full"):
        other = both(ALBERT(**sizes, execution="scan", remat=remat))
        for a, b in zip(jax.tree.leaves(other), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * np.abs(b).max() + 1e-3)


@pytest.mark.parametrize(
    "option, words",
    [
        ({"norm_bias": True}, "norm_bias True"),
        ({"attention_bias": True}, "attention_bias True"),
        ({"decoder_bias": False}, "decoder_bias False"),
        ({"layer_types": ["sliding_attention", "full_attention"] * 3}, "full_attention first"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "yarn", "factor": 2.0}}},
            "scales the rotary positions of full_attention",
        ),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_what_changes_a_modernbert_is_refused(tmp_path, option, words):
    found = Reference("modernbert", tmp_path / "theirs")
    path = found.directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **option}))
    with pytest.raises(UserError, match=words):
        load.section(found.directory)


def test_a_modernbert_of_transformers_4_loads(tmp_path):
    found = Reference("modernbert_unusual", tmp_path / "theirs")
    path = found.directory / "config.json"
    config = json.loads(path.read_text())
    for name in ("layer_types", "rope_parameters"):
        del config[name]
    config |= {"global_rope_theta": 50.0, "local_rope_theta": 50.0}
    path.write_text(json.dumps({**config, "global_attn_every_n_layers": 2}))
    assert load.section(found.directory) == found.section
