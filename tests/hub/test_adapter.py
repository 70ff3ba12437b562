import functools
import json
import warnings

import jax
import numpy as np
import pytest
from safetensors import numpy

from lm_research import log, mesh, tree
from lm_research.errors import UserError
from lm_research.hub import adapter, names, save
from lm_research.train import restore
from lm_research.weights import LoRA

TINY = {"vocab": 16, "width": 8, "layers": 2, "heads": 2, "hidden": 12}
BERT = {"kind": "BERT", **TINY, "context": 8}
# Query, key and value in one transposed matrix; the same head by head; a classifier, whose head is
# trained itself; one whose two products are one module.
SECTIONS = {
    "GPT2": {"kind": "GPT2", **TINY, "context": 8},
    "GPTNeoX": {"kind": "GPTNeoX", **TINY, "width": 16},
    "BERT": {"kind": "Classifier", "trunk": BERT, "classes": ["a", "b", "c"], "pool": "first"},
    "ELECTRA": {
        "kind": "Classifier",
        "trunk": {**BERT, "kind": "ELECTRA"},
        "classes": ["a", "b"],
        "pool": "first",
        "activation": "gelu",
    },
}
PATTERNS = {"GPT2": "stack/.*kernel", "GPTNeoX": "(query|value|up)/kernel"}
TOKENS = np.arange(12).reshape(2, 6) % 16


@pytest.fixture
def base(drawn, tmp_path):
    """Makes a Hugging Face directory, and the model and parameters in it."""

    def make(kind):
        model, params = drawn(SECTIONS[kind])
        params = jax.tree.map(lambda p: 0.3 * np.asarray(p), params)
        save.save(tmp_path / "base", SECTIONS[kind], params)
        return tmp_path / "base", model, params

    return make


def trained(weights, model, params):
    """What is trained and held, as if it had been trained."""
    split = lambda key: weights.split(names.abstract(model), key)
    shapes = tree.unboxed(jax.eval_shape(split, jax.random.key(0))[0])
    draw = np.random.default_rng(1).normal
    found = jax.tree.map(lambda p: np.float32(0.3 * draw(size=p.shape)), shapes)
    itself = tree.named_leaves(found)
    return found, tree.map_named(lambda name, p: None if name in itself else p, params)


@functools.partial(jax.jit, static_argnums=0)
def scored(model, params):
    output = model.apply({"params": params}, TOKENS)
    return output.scores if hasattr(model, "classes") else output.logits


def logits(model, params):
    return np.asarray(scored(model, params))


def theirs(model):
    import torch

    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor(TOKENS)).logits.numpy()


def opened(directory):
    """The model in a directory, as `transformers` has it."""
    import transformers

    architecture = json.loads((directory / "config.json").read_text())["architectures"][0]
    return getattr(transformers, architecture).from_pretrained(directory)


@pytest.mark.parametrize("kind", SECTIONS)
def test_peft_computes_what_we_do(kind, base, tmp_path):
    peft = pytest.importorskip("peft", reason="it is the reference: extra `verify`")
    directory, model, params = base(kind)
    weights = LoRA(rank=3, scale=5.0, pattern=PATTERNS.get(kind, "attention/.*kernel"))
    found, held = trained(weights, model, params)
    ours, plain = logits(model, weights.join(found, held)), logits(model, params)
    assert np.abs(ours - plain).max() > 0.1
    adapter.save_adapter(tmp_path / "ours", SECTIONS[kind], weights, found, str(directory))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        wrapped = peft.PeftModel.from_pretrained(opened(directory), tmp_path / "ours")
    assert not [w for w in told if "key" in str(w.message)]  # missing, or unexpected
    np.testing.assert_allclose(theirs(wrapped), ours, atol=1e-5)
    with mesh.single():
        again = restore.open_checkpoint(tmp_path / "ours")
    np.testing.assert_allclose(logits(model, again.params), ours, atol=1e-6)
    # The factors come back as they were: each matrix of a joined one has its own ranks only.
    section = adapter.read(tmp_path / "ours", SECTIONS[kind])
    assert (section.weights["rank"], section.weights["scale"]) == (3, 5.0)
    for name, leaf in tree.named_leaves(found).items():
        np.testing.assert_array_equal(section.arrays[name], leaf, err_msg=name)


@pytest.mark.parametrize("kind", SECTIONS)
def test_we_compute_what_peft_does(kind, base, tmp_path):
    peft = pytest.importorskip("peft", reason="it is the reference: extra `verify`")
    directory, model, params = base(kind)
    targets = {
        "GPT2": dict(target_modules=["c_attn", "mlp.c_proj"], alpha_pattern={"c_attn": 3}),
        "GPTNeoX": dict(target_modules="all-linear", rank_pattern={"dense": 4}, use_rslora=True),
        "BERT": dict(target_modules=["query"], layers_to_transform=[1], task_type="SEQ_CLS"),
        "ELECTRA": dict(target_modules=["key"], task_type="SEQ_CLS"),
    }
    settings = peft.LoraConfig(r=2, lora_alpha=7, init_lora_weights=False, **targets[kind])
    wrapped = peft.get_peft_model(opened(directory), settings)
    for name, parameter in wrapped.named_parameters():
        if "modules_to_save" in name:
            parameter.data += 0.5
    wrapped.save_pretrained(tmp_path / "theirs")
    with mesh.single():
        loaded = restore.open_checkpoint(tmp_path / "theirs")
    ours = logits(model, loaded.params)
    assert np.abs(ours - logits(model, params)).max() > 0.1
    np.testing.assert_allclose(ours, theirs(wrapped), atol=1e-5)


# A task, a base that has no head for it, and what the base is.
HEADLESS = {
    "texts": ("SEQ_CLS", "BERT", {"head": False, "pooler": True}),
    "words": ("TOKEN_CLS", "BERT", {}),
    "spans": ("QUESTION_ANS", "BERT", {}),
    "last token": (None, "GPT2", {}),
    "head of two": ("SEQ_CLS", "ELECTRA", {"head": False, "detector": True}),
}


@pytest.mark.parametrize("name", HEADLESS)
def test_a_head_in_an_adapter_stands_on_a_base_without_one(name, drawn, tmp_path):
    peft = pytest.importorskip("peft", reason="it is the reference: extra `verify`")
    import transformers

    task, kind, more = HEADLESS[name]
    section = {"kind": kind, **TINY, "context": 8, **more}
    _, params = drawn(section)
    save.save(tmp_path / "base", section, jax.tree.map(lambda p: 0.3 * np.asarray(p), params))
    kinds = {"TOKEN_CLS": "TokenClassification", "QUESTION_ANS": "QuestionAnswering"}
    opens = getattr(transformers, f"AutoModelFor{kinds.get(task, 'SequenceClassification')}")
    count = 2 if task == "QUESTION_ANS" else 3
    bare = opens.from_pretrained(tmp_path / "base", num_labels=count)
    bare.config.pad_token_id = 0  # which is not in the middle of the texts
    head = {"modules_to_save": ["score"]} if task is None else {}  # then PEFT names the class
    settings = peft.LoraConfig(r=2, lora_alpha=7, init_lora_weights=False, task_type=task, **head)
    wrapped = peft.get_peft_model(bare, settings)
    for path, parameter in wrapped.named_parameters():
        if "modules_to_save" in path:
            parameter.data += 0.5 * parameter.data.new_tensor(np.arange(len(parameter))).reshape(
                -1, *(1,) * (parameter.ndim - 1)
            )
    wrapped.save_pretrained(tmp_path / "theirs")
    with mesh.single():
        loaded = restore.open_checkpoint(tmp_path / "theirs")
    ours = logits(loaded.model, loaded.params)
    if task == "QUESTION_ANS":
        import torch

        with torch.no_grad():
            output = wrapped.eval()(input_ids=torch.tensor(TOKENS))
        expected = torch.stack([output.start_logits, output.end_logits], -1).numpy()
        assert list(loaded.model.classes) == ["start", "end"]
    else:
        expected = theirs(wrapped)
        assert list(loaded.model.classes) == ["LABEL_0", "LABEL_1", "LABEL_2"]
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_a_head_that_an_adapter_lacks_is_refused(drawn, tmp_path):
    """What PEFT drew and did not save, nobody can have again."""
    peft = pytest.importorskip("peft", reason="it is the reference: extra `verify`")
    import transformers

    _, params = drawn(BERT)
    save.save(tmp_path / "base", BERT, params)
    opens = transformers.AutoModelForSequenceClassification.from_pretrained
    settings = peft.LoraConfig(r=2, task_type="SEQ_CLS")
    peft.get_peft_model(opens(tmp_path / "base"), settings).save_pretrained(tmp_path / "theirs")
    message = "nor its base .* holds bert.pooler.dense, which PEFT drew"
    with pytest.raises(UserError, match=message), mesh.single():
        restore.open_checkpoint(tmp_path / "theirs")
    path = tmp_path / "theirs" / adapter.CONFIG
    told = json.loads(path.read_text())
    for task, message in [
        ("QUESTION_ANS", "task_type 'QUESTION_ANS', and the adapter holds no qa_outputs.weight"),
        (None, "no task_type, and classifier.weight may judge texts or tokens; it takes SEQ_CLS"),
    ]:
        path.write_text(json.dumps(told | {"task_type": task}))
        with pytest.raises(UserError, match=message):
            restore.section(tmp_path / "theirs")


def test_merged_equals_unmerged(base):
    """x W + scale (x A) B, as layers with factors beside them compute it."""
    _, model, params = base("GPT2")
    weights = LoRA(rank=2, pattern="query/kernel")
    found, held = trained(weights, model, params)
    path = lambda t: t["stack"]["blocks"]["attention"]["query"]["kernel"]
    x = np.float32(np.random.default_rng(0).normal(size=(2, 5, 8)))
    factors = path(found)
    for layer in range(2):
        a, b = factors["a"][layer], factors["b"][layer]
        apart = np.einsum("BTD,DNH->BTNH", x, path(held)[layer])
        apart += 8.0 * np.einsum("BTr,rNH->BTNH", x @ a, b)
        merged = np.einsum("BTD,DNH->BTNH", x, path(weights.join(found, held))[layer])
        np.testing.assert_allclose(merged, apart, atol=1e-6 * np.abs(apart).max())


def test_what_peft_cannot_hold_is_refused(base, tmp_path):
    _, model, params = base("GPT2")
    for weights, message in [
        (LoRA(pattern="table"), "factors of embedding/table, position/table, which"),
        (LoRA(besides="norm/scale$"), "besides factors, and PEFT saves whole modules"),
        (
            LoRA(besides="^embedding/table"),
            "trained transformer.wte.weight besides factors, to which",
        ),
    ]:
        found, _ = trained(weights, model, params)
        with pytest.raises(UserError, match=message):
            adapter.save_adapter(tmp_path / "out", SECTIONS["GPT2"], weights, found, "base")
    assert not (tmp_path / "out").exists()


def test_a_copy_of_what_the_model_ties_is_refused(base, tmp_path):
    """PEFT's head stays that of the base where a copy of the embedding is trained."""
    directory, model, params = base("GPT2")
    found, _ = trained(LoRA(), model, params)
    adapter.save_adapter(tmp_path / "out", SECTIONS["GPT2"], LoRA(), found, str(directory))
    file = tmp_path / "out" / adapter.FILE
    copy = {f"{adapter.PREFIX}transformer.wte.weight": np.zeros((16, 8), np.float32)}
    numpy.save_file({**numpy.load_file(file), **copy}, file)
    with pytest.raises(UserError, match=r"wte\.weight, to which the model ties lm_head\.weight"):
        adapter.read(tmp_path / "out", SECTIONS["GPT2"])


def test_what_is_another_adapter_is_refused_by_name(base, tmp_path):
    directory, model, params = base("GPT2")
    out = tmp_path / "out"
    found, _ = trained(LoRA(), model, params)
    adapter.save_adapter(out, SECTIONS["GPT2"], LoRA(), found, str(directory))
    config = json.loads((out / adapter.CONFIG).read_text())
    for changes, message in [
        ({"use_dora": True}, "use_dora True; an adapter here is without it"),
        ({"bias": "all"}, "bias 'all'; it takes 'none'"),
        ({"lora_bias": True}, "lora_bias True"),
        ({"trainable_token_indices": [1]}, r"trainable_token_indices \[1\]"),
        ({"init_lora_weights": "pissa"}, "'pissa', which changes the base's weights"),
        ({"peft_type": "LOHA"}, "peft_type 'LOHA'; it takes 'LORA'"),
        ({"of_next_year": 1}, "of_next_year 1"),
        ({"base_model_name_or_path": "gpt2"}, "an adapter of 'gpt2', which is no directory here"),
    ]:
        (out / adapter.CONFIG).write_text(json.dumps(config | changes))
        with pytest.raises(UserError, match=message), mesh.single():
            restore.open_checkpoint(out)
    (out / adapter.CONFIG).write_text(json.dumps(config | {"lora_dropout": 0.1}))
    other = SECTIONS["GPT2"] | {"width": 4}
    for section, message in [
        (other, r"not an adapter of linear modules of this GPT2LMHeadModel: .*c_attn.lora_A and"),
        (SECTIONS["GPTNeoX"], "this GPTNeoXForCausalLM: base_model.model.transformer.h.0.attn"),
    ]:
        with pytest.raises(UserError, match=message):
            adapter.read(out, section)
    adapter.read(out, SECTIONS["GPT2"])
    assert "lora_dropout=0.1" in log.facts()["fallbacks"][-1]["asked"]
    log.forget()
