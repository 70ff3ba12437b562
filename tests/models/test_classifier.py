"""Classifiers on trunks of every kind, beside `transformers`; what a text is judged by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file
from variants import tried

from lm_research import config, mesh, tree
from lm_research.errors import UserError
from lm_research.hub import load, save
from lm_research.hub.names import abstract, fitting, parameters
from lm_research.layers import Mask
from lm_research.models import BERT, GPT2, T5, Classifier, FastText
from lm_research.models.classifier import pooled
from lm_research.models.initial import initial
from lm_research.train.experiment import CONTENTS

SIZES = dict(
    vocab_size=96,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=64,
)
NAMES = {"id2label": {0: "bad", 1: "so so", 2: "good"}, "label2id": {"bad": 0}}
CASES = {  # by architecture
    "BertForSequenceClassification": dict(**SIZES, classifier_dropout=0.3, **NAMES),
    "BertForTokenClassification": dict(**SIZES, **NAMES),
    "BertForQuestionAnswering": SIZES,
    "BertForMultipleChoice": SIZES,
    "RobertaForSequenceClassification": dict(**SIZES, **NAMES),
    "DistilBertForSequenceClassification": dict(
        vocab_size=96, dim=32, n_layers=2, n_heads=4, hidden_dim=64, **NAMES
    ),
    "AlbertForSequenceClassification": dict(**SIZES, embedding_size=16, **NAMES),
    "ElectraForSequenceClassification": dict(**SIZES, embedding_size=16, **NAMES),
    "GPT2ForSequenceClassification": dict(
        vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=64, pad_token_id=0, **NAMES
    ),
    "LlamaForSequenceClassification": dict(
        **SIZES, num_key_value_heads=2, pad_token_id=0, tie_word_embeddings=True, **NAMES
    ),
}
# One of each kind.
FIRST = [
    f"{name}For{task}"
    for name, task in (
        ("Bert", "SequenceClassification"),
        ("Bert", "QuestionAnswering"),
        ("DistilBert", "SequenceClassification"),
        ("GPT2", "SequenceClassification"),
    )
]
TRIED = tried(CASES, FIRST)
LENGTHS = (9, 4)  # of two texts in a batch


def made(architecture, directory):
    """A model of theirs with weights large enough to tell variants apart, saved."""
    kind = getattr(transformers, architecture)
    torch.manual_seed(0)
    model = kind(kind.config_class(**CASES[architecture])).eval()
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.15)
    model.save_pretrained(directory)
    return model


def theirs(model, tokens, present):
    """Their scores [B, classes], or [B, T, classes]."""
    if "MultipleChoice" in type(model).__name__:
        tokens, present = tokens[:, None], present[:, None]
    output = model(torch.tensor(tokens), attention_mask=torch.tensor(present))
    if hasattr(output, "start_logits"):
        return torch.stack([output.start_logits, output.end_logits], -1)
    return output.logits


@pytest.mark.parametrize("architecture", TRIED)
def test_is_theirs(architecture, tmp_path):
    """Scores, the gradient of every parameter, and the tensors of a round trip."""
    reference = made(architecture, tmp_path / "theirs")
    rng = np.random.default_rng(1)
    tokens = rng.integers(3, 96, (2, max(LENGTHS)))
    present = (np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]).astype(np.int64)
    tokens[present == 0] = 0
    want = theirs(reference, tokens, present)
    each = want.ndim == 3
    weights = rng.normal(size=want.shape) * (present[:, :, None] if each else 1)
    (want * torch.tensor(weights, dtype=torch.float32)).sum().backward()
    with mesh.single():
        section = load.section(tmp_path / "theirs")
        model = config.build(section, CONTENTS, "model")
        params = load.load(tmp_path / "theirs", model)

        @jax.jit
        def scored(params):
            output = model.apply({"params": params}, tokens, mask=Mask(segments=(present, present)))
            return (output.scores * weights).sum(), output.scores

        (_, found), gradient = jax.value_and_grad(scored, has_aux=True)(params)
        save.save(tmp_path / "ours", section, params)
        save.save(tmp_path / "gradient", section, gradient)
    known = present > 0 if each else slice(None)
    assert np.allclose(np.asarray(found)[known], want.detach().numpy()[known], atol=1e-5)
    names = [section["classes"], list(NAMES["id2label"].values())]
    assert "id2label" not in CASES[architecture] or names[0] == names[1]
    before, after = (load_file(tmp_path / n / "model.safetensors") for n in ("theirs", "ours"))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    told = transformers.AutoConfig.from_pretrained(tmp_path / "ours")
    assert told.architectures == [architecture]
    assert told.id2label == reference.config.id2label
    slopes = load_file(tmp_path / "gradient" / "model.safetensors")
    for name, parameter in reference.named_parameters():
        slope = 0 if parameter.grad is None else parameter.grad.numpy()
        limit = 1e-4 * max(1e-2, np.abs(slope).max())
        assert name not in slopes or np.abs(slopes[name] - slope).max() < limit, name


@pytest.mark.parametrize(
    "kind, said, architecture",
    [
        ("BERT", {}, "BertForSequenceClassification"),
        ("BERT", {"pool": "first"}, "BertForSequenceClassification"),
        ("BERT", {"pool": "each"}, "BertForTokenClassification"),
        ("GPT2", {"bias": False}, "GPT2ForSequenceClassification"),
    ],
)
def test_what_a_section_leaves_out_is_what_the_classifier_has(kind, said, architecture):
    """A classifier from nothing is saved as one that says all of itself."""
    trunk = {"kind": kind, "vocab": 9, "width": 8, "layers": 1, "heads": 2}
    section = {"kind": "Classifier", "trunk": trunk, "classes": ["no", "yes"], **said}
    with mesh.single():
        given = parameters(abstract(config.build(section, CONTENTS, "model")))
    assert fitting(save.completed(section), given).architecture == architecture


def test_what_a_text_is_judged_by():
    hidden = jnp.arange(12.0).reshape(2, 3, 2)
    present = jnp.array([[1, 1, 0], [1, 1, 1]]) > 0
    found = {pool: pooled(hidden, present, pool)[:, 0].tolist() for pool in ("first", "last")}
    assert found == {"first": [[0, 1], [6, 7]], "last": [[2, 3], [10, 11]]}
    assert pooled(hidden, present, "mean")[:, 0].tolist() == [[1, 2], [8, 9]]
    assert pooled(hidden, None, "last")[:, 0].tolist() == [[4, 5], [10, 11]]


@pytest.mark.parametrize("dense", [False, True])
def test_what_drops_out_before_the_classifier(dense):
    """Of a text whose hidden states are ones, with products that change nothing."""
    trunk = BERT(50, 64, 1, 2, dropout=0.0, attention_dropout=0.0)
    names = tuple(map(str, range(64)))
    model = Classifier(trunk, names, dropout=0.5, dense_dropout=dense)
    params = tree.unboxed(initial(model, jax.random.key(0)))
    norm = params["trunk"]["stack"]["blocks"]["mlp_norm"]
    norm |= {"scale": 0.0 * norm["scale"], "bias": 0.0 * norm["bias"] + 1.0}
    params["dense"]["kernel"] = params["kernel"] = jnp.eye(64)
    rngs = {"dropout": jax.random.key(1)}
    found = model.apply({"params": params}, jnp.ones((1, 3), int), rngs=rngs).scores
    kept = 2 * np.tanh(2 if dense else 1)
    np.testing.assert_allclose(np.unique(found.round(5)), [0, kept], atol=1e-4)
    assert float((found == 0).mean()) == pytest.approx(0.75 if dense else 0.5, abs=0.2)


def test_the_heads_of_a_trunk_are_left_out():
    trunk = BERT(20, 8, 1, 2, pair=True)
    model = Classifier(trunk, ("a", "b"))
    names = tree.named_leaves(jax.eval_shape(lambda k: initial(model, k), jax.random.key(0)))
    own = {name for name in names if not name.startswith("trunk/")}
    assert own == {"dense/kernel", "dense/bias", "kernel", "bias"}
    assert not [name for name in names if "head" in name or "pooler" in name]
    decoder = Classifier(GPT2(vocab=20, width=8, layers=1, heads=2))
    assert (decoder.pool, decoder.activation, decoder.context) == ("last", None, 1024)


@pytest.mark.parametrize(
    "trunk, words",
    [
        (lambda: T5(vocab=20, width=8, layers=1, heads=2, head=4), "takes no pool"),
        (lambda: FastText(vocab=20), "FastText cannot be the trunk"),
        (lambda: Classifier(GPT2(vocab=20, width=8, layers=1, heads=2)), "cannot be the trunk"),
    ],
)
def test_what_is_no_trunk_is_refused(trunk, words):
    with pytest.raises(ValueError, match=words):
        Classifier(trunk(), pool="first")


def test_a_head_that_no_architecture_has_is_refused(tmp_path):
    section = dict(
        kind="Classifier",
        trunk=dict(kind="BERT", vocab=20, width=8, layers=1, heads=2),
        classes=["a", "b"],
        pool="mean",
    )
    model = config.build(section, CONTENTS, "model")
    params = tree.unboxed(initial(model, jax.random.key(0)))
    with mesh.single(), pytest.raises(UserError, match="Classifier of BERT has no Hugging Face"):
        save.save(tmp_path / "ours", section, params)
