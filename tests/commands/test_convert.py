import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from tokenizers import processors

from lm_research import config, mesh, tree
from lm_research.commands import convert
from lm_research.data import Bytes
from lm_research.data.tokenizer import load
from lm_research.errors import UserError
from lm_research.hub import names, save
from lm_research.infer.classify import classify
from lm_research.models.initial import initial
from lm_research.train import restore

SECTION = {
    "kind": "GPT2",
    "vocab": 257,
    "width": 8,
    "layers": 2,
    "heads": 2,
    "context": 8,
    "hidden": 32,
    "activation": "gelu_tanh",
    "tied": True,
    "epsilon": 1e-5,
}


@pytest.fixture
def huggingface(tmp_path):
    model = config.build(SECTION, save.CONTENTS)
    params = tree.map_named(
        lambda path, leaf: jnp.float32(np.random.default_rng(len(path)).normal(size=leaf.shape)),
        tree.unboxed(names.abstract(model)),
    )
    save.save(tmp_path / "huggingface", SECTION, params, Bytes().train([]))
    return tmp_path / "huggingface"


def converted(source, target, form=None, part=None):
    values = flags.FlagValues()
    flags.DEFINE_string("source", str(source), "", flag_values=values)
    flags.DEFINE_string("target", str(target), "", flag_values=values)
    flags.DEFINE_string("target_format", form, "", flag_values=values)
    flags.DEFINE_string("part", part, "", flag_values=values)
    values.mark_as_parsed()
    assert not convert.run(values)


def test_there_and_back(huggingface, tmp_path, capsys):
    converted(huggingface, tmp_path / "run")
    assert restore.is_run(tmp_path / "run")
    converted(tmp_path / "run", tmp_path / "again")
    assert not restore.is_run(tmp_path / "again")
    names = sorted(path.name for path in huggingface.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    for name in names:
        assert (huggingface / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"3,880 parameters in 20 tensors: {tmp_path / 'run'}"
    assert second == f"3,880 parameters in 28 tensors: {tmp_path / 'again'}"


def test_what_no_weight_tells_goes_there_and_back(tmp_path):
    """Several ends of a text, the context, a chat template; a text begins with what Llama's do."""
    transformers = pytest.importorskip("transformers", reason="it is the reference: extra `verify`")
    source, run, again = (tmp_path / name for name in ("source", "run", "again"))
    sizes = {"vocab_size": 261, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.LlamaConfig(
            **sizes, num_attention_heads=2, max_position_embeddings=77, eos_token_id=[256, 258]
        )
    )
    model.save_pretrained(source)
    tokenizer = Bytes(roles=("pad", "cls")).train([])
    backend = tokenizer._tokenizer
    backend.post_processor = processors.TemplateProcessing(
        single="<|cls|> $A", pair="<|cls|> $A $B", special_tokens=[("<|cls|>", 258)]
    )
    tokenizer.save(source)
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    (source / "chat_template.jinja").write_text(template)
    converted(source, run)
    converted(run, again)
    settings = json.loads((again / "config.json").read_text())
    assert settings["eos_token_id"] == [256, 258]
    assert settings["max_position_embeddings"] == 77
    theirs = transformers.AutoTokenizer.from_pretrained(again)
    assert theirs.chat_template == template
    for text in ("", "A cat."):
        assert load(run / "tokenizer").prompt(text).tolist() == theirs(text)["input_ids"]
    assert load(run / "tokenizer").prompt("a").tolist() == [258, 97]
    generation = transformers.AutoModelForCausalLM.from_pretrained(again).generation_config
    assert generation.eos_token_id == [256, 258]


def test_the_same_format_by_request(huggingface, tmp_path):
    converted(huggingface, tmp_path / "copy", "huggingface")
    with mesh.single():
        one, other = (restore.open_checkpoint(p) for p in (huggingface, tmp_path / "copy"))
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    assert one.section == other.section == SECTION
    assert one.tokenizer.hash == other.tokenizer.hash


def test_transformers_reads_the_tokenizer(huggingface):
    transformers = pytest.importorskip("transformers", reason="it is the reference: extra `verify`")
    theirs = transformers.AutoTokenizer.from_pretrained(huggingface)
    tokenizer = load(huggingface)
    text = "A tokenizer, naïve: 1 2  3\n"
    assert theirs(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text).tolist()
    settings = json.loads((huggingface / "config.json").read_text())
    assert theirs.eos_token_id == settings["eos_token_id"] == tokenizer.eos


def test_a_target_in_use_is_refused(huggingface, tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(UserError, match="used exists and is not empty"):
        converted(huggingface, tmp_path / "used")
    with pytest.raises(UserError, match="is not a directory"):
        converted(tmp_path / "nowhere", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_part_of_a_model_of_several(tmp_path):
    section = {"kind": "ELECTRAPair", "vocab": 257, "width": 16, "layers": 1, "heads": 2}
    section |= {"embedding": 8, "generator_width": 8, "generator_heads": 1, "context": 8}
    model = config.build(section, save.CONTENTS)
    params = jax.jit(lambda key: tree.unboxed(initial(model, key)))(jax.random.key(0))
    restore.save_run(tmp_path / "pair", restore.Loaded(model, params, Bytes().train([]), section))
    with pytest.raises(UserError, match="give --part=generator or discriminator"):
        converted(tmp_path / "pair", tmp_path / "both")
    with pytest.raises(UserError, match="has generator, discriminator"):
        converted(tmp_path / "pair", tmp_path / "both", part="teacher")
    kinds = {"generator": "ElectraForMaskedLM", "discriminator": "ElectraForPreTraining"}
    for part, kind in kinds.items():
        converted(tmp_path / "pair", tmp_path / part, part=part)
        described = json.loads((tmp_path / part / "config.json").read_text())
        assert described["architectures"] == [kind]
        with mesh.single():
            one = restore.open_checkpoint(tmp_path / part)
        jax.tree.map(
            np.testing.assert_array_equal, one.params, model.part(part, section, params)[1]
        )


def test_the_tokenizer_of_pairs_tells_their_types(tmp_path):
    """As `transformers` asks for them only where its tokenizer says that a model reads them."""
    transformers = pytest.importorskip("transformers", reason="it is the reference: extra `verify`")
    tokenizer = Bytes(roles=("cls", "sep")).train([])
    sizes = {"vocab": 259, "width": 8, "layers": 1, "heads": 2, "context": 16}
    for kind, types in (("BERT", [0, 0, 0, 1, 1]), ("RoBERTa", None)):
        section = {"kind": "Classifier", "trunk": {"kind": kind, **sizes}, "classes": ["a", "b"]}
        section |= {"pool": "first", "activation": "tanh"}
        model = config.build(section, save.CONTENTS)
        params = jax.tree.map(lambda p: np.zeros(p.shape, np.float32), names.abstract(model))
        save.save(tmp_path / kind, section, params, tokenizer)
        found = transformers.AutoTokenizer.from_pretrained(tmp_path / kind)("a", "b")
        assert found.get("token_type_ids") == types
        ours = load(tmp_path / kind).fitted("a", "b")
        assert found["input_ids"] == ours[0].tolist() and ours[1].tolist() == [0, 0, 0, 1, 1]


def test_what_writes_names_of_classes_becomes_an_encoder_decoder(tmp_path, capsys):
    """What `transformers` finds of the names is what we tell of the classes."""
    torch = pytest.importorskip("torch", reason="it is the reference: extra `verify`")
    transformers = pytest.importorskip("transformers", reason="it is the reference: extra `verify`")
    tokenizer = Bytes(roles=("pad",)).train([])
    trunk = {"kind": "T5", "vocab": 258, "width": 8, "layers": 1, "heads": 2, "head": 4}
    named = [tokenizer.complete(name).tolist() for name in ("no", "on")]
    section = {"kind": "Classifier", "trunk": trunk, "classes": ["no", "on"], "written": named}
    model = config.build(section, save.CONTENTS)
    params = jax.jit(lambda key: tree.unboxed(initial(model, key)))(jax.random.key(0))
    restore.save_run(tmp_path / "run", restore.Loaded(model, params, tokenizer, section))
    converted(tmp_path / "run", tmp_path / "out")
    assert "the T5 that writes the names of classes, no, on" in capsys.readouterr().err
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    tokens, scores = tokenizer.fitted("a cat")[0], []
    for name in named:
        with torch.no_grad():
            loss = theirs(
                input_ids=torch.tensor([tokens.tolist()]), labels=torch.tensor([name])
            ).loss
        scores.append(-loss.item() * len(name))
    odds = np.exp(np.array(scores) - max(scores))
    [ours] = classify(model, params, [tokens])
    assert 0.001 < ours[0] < 0.999
    np.testing.assert_allclose(ours, odds / odds.sum(), atol=1e-5)
