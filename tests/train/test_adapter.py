"""From a Hugging Face directory by LoRA to an adapter, and from the adapter on."""

import json
import shutil

import jax
import numpy as np
import pytest
from variants import long

from lm_research import config, log, mesh, tree
from lm_research.commands import config_flag
from lm_research.data import Bytes
from lm_research.errors import UserError
from lm_research.hub import names, save
from lm_research.models.initial import initial
from lm_research.train import checkpoint, loop, restore
from lm_research.train.experiment import experiment
from lm_research.train.step import Trainer
from tests import conftest
from tests.test_configs import CONFIGS

SECTION = {"kind": "GPT2", "vocab": 257, "width": 16, "layers": 1, "heads": 2, "context": 16}


@pytest.fixture
def base(tmp_path):
    """A model in a Hugging Face directory, and its parameters by name."""
    draw = np.random.default_rng(0).normal
    params = tree.map_named(
        lambda _, p: np.float32(0.1 * draw(size=p.shape)),
        tree.unboxed(names.abstract(config.build(SECTION, save.CONTENTS))),
    )
    save.save(tmp_path / "base", SECTION, params, Bytes().train([]))
    (tmp_path / "text.txt").write_text(conftest.text())
    return tmp_path / "base", tree.named_leaves(params)


def started(workdir, base, trained=lambda state: state.trained, **weights):
    """The first state of a run, which is saved."""
    given = config_flag.loaded("tests/tiny.py:steps=2")
    given.update(init=str(base), weights={"kind": "LoRA", **weights})
    given.data.source.paths = str(base.parent / "text.txt")
    resolved, data = loop.prepare(given, workdir)
    x = experiment(resolved).bound(data.tokenizer)
    with mesh.single(), x.checkpoint.open(workdir / "checkpoints") as checkpoints:
        state, _ = loop.start(Trainer.of(x), checkpoints, resolved)
        state = state.replace(trained=trained(state))
        checkpoints.save(2, state, 0)
        checkpoints.close()
    loop.claim(workdir, resolved, {"position": 0})
    return resolved, state


def moved(state):
    """What was drawn, as if it had been trained."""
    draw = np.random.default_rng(1).normal
    return jax.tree.map(lambda p: jax.numpy.float32(draw(size=p.shape)), state.trained)


def leaves(directory):
    with mesh.single():
        return tree.named_leaves(jax.device_get(restore.open_checkpoint(directory).params))


def test_an_adapter_is_written_opened_and_trained_on(command, base, tmp_path):
    directory, start = base
    one, out = tmp_path / "one", tmp_path / "out"
    resolved, state = started(one, directory, moved, rank=2)
    assert tree.count(state.trained) == 256  # query, key, value and out: rank 2, of 16 to 16
    # A run that had no time to find its best step is opened at its last.
    resolved["checkpoint"] |= {"best": "heldout/loss", "patience": 3}
    (one / "config.json").write_text(json.dumps(resolved))
    sums = leaves(one)
    products = ("query", "key", "value", "out")
    changed = {name for name in start if not np.array_equal(sums[name], start[name])}
    assert changed == {f"stack/blocks/attention/{name}/kernel" for name in products}
    arguments = f"--source={one}", f"--target={out}", "--target_format=peft"
    status, said, err = command("convert", *arguments)
    assert (status, said) == (0, f"256 trained parameters in 4 tensors: {out}\n"), err
    status, _, err = command("convert", f"--source={out}", f"--target={tmp_path / 'merged'}")
    assert status == 0, err
    for name, leaf in leaves(tmp_path / "merged").items():
        np.testing.assert_allclose(leaf, sums[name], atol=1e-6, err_msg=name)
    # A run begins with these factors, bit for bit, and then needs the adapter no more.
    resolved, again = started(tmp_path / "two", directory, adapter=str(out))
    jax.tree.map(np.testing.assert_array_equal, again.trained, state.trained)
    jax.tree.map(np.testing.assert_array_equal, again.held, state.held)
    assert (resolved["weights"]["rank"], resolved["weights"]["scale"]) == (2, 16.0)
    (out / "adapter_config.json").unlink()
    asked = {"weights": {"kind": "LoRA", "adapter": str(out)}, "init": str(directory)}
    assert loop.begin_adapted(asked, resolved) is None
    assert asked["weights"] == resolved["weights"]
    log.forget()


@long
def test_a_classifier_on_a_base_without_one_is_what_it_was_at_its_best(command, tmp_path):
    """Its head goes with the factors, and PEFT and we tell the same of a text by both."""
    peft = pytest.importorskip("peft", reason="it is the reference: extra `verify`")
    import torch
    import transformers

    section = {"kind": "BERT", "vocab": 261, "width": 16, "layers": 1, "heads": 2}
    params = tree.unboxed(initial(config.build(section, save.CONTENTS), jax.random.key(0)))
    tokenizer = Bytes(("mask", "cls", "sep")).train(())
    base, run, out = (tmp_path / name for name in ("base", "run", "out"))
    save.save(base, section, params, tokenizer)
    rows = "good cat\tyes\nbad cat\tno\nfine dog\tyes\npoor dog\tno\n"
    (tmp_path / "table.tsv").write_text("text\tlabel\n" + rows * 5)
    knobs = "weights=lora,rank=2,length=16,batch=8,epochs=6,peak=0.05,evaluations=1.0"
    # The loss falls, so that the first evaluation is the best one.
    status, _, err = command(
        *("train", f"--config={CONFIGS}/finetune/classify.py:{knobs}", f"--workdir={run}"),
        *(f"--config.init={base}", f"--config.data.source.paths={tmp_path / 'table.tsv'}"),
        *("--config.checkpoint.best=heldout/loss", "--config.log.tensorboard=False"),
    )
    assert status == 0, err
    with mesh.single():
        assert restore.open_checkpoint(run).step < restore.stored_config(run)["steps"]
    convert = "convert", f"--source={run}", "--target_format=peft"
    status, _, err = command(*convert, f"--target={out}")
    assert status == 0 and "factors" not in err, err
    told = [command("predict", f"--checkpoint={at}", "--text=good dog")[:2] for at in (run, out)]
    assert told[0] == told[1] and told[0][0] == 0
    with mesh.single():
        loaded = restore.open_checkpoint(out)
    assert loaded.model.classes == ("no", "yes")
    opens = transformers.AutoModelForSequenceClassification.from_pretrained
    theirs = peft.PeftModel.from_pretrained(opens(base, num_labels=2), out).eval()
    tokens = loaded.tokenizer.complete("good dog")[None]
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor(tokens)).logits.numpy()
    found = loaded.model.apply({"params": loaded.params}, tokens).scores
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # Of a run whose best is from before there were parts beside it, the last factors are left.
    with mesh.single():
        best = restore.open_checkpoint(run)
        shutil.rmtree(run / restore.BEST)
        checkpoint.save_params(run / restore.BEST, best.params, best.step)
    status, said, err = command(*convert, f"--target={tmp_path / 'older'}")
    assert status == 0 and "asked for the best factors, got those of step" in said + err
    log.forget()


def test_what_is_no_adapter_is_one_line(command, tmp_path):
    described = {"model": SECTION, "weights": {"kind": "LoRA"}, "init": None}
    smaller = {"model": {**SECTION, "vocab": SECTION["vocab"] - 3}}
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps(smaller))
    for changes, message in [
        ({}, "began from no directory (init)"),
        ({"init": str(tmp_path / "base")}, "PEFT adds factors to a base of the same vocabulary"),
        ({"weights": {"kind": "Full"}}, "are Full; PEFT's format takes a run with LoRA"),
    ]:
        (tmp_path / "config.json").write_text(json.dumps(described | changes))
        arguments = f"--source={tmp_path}", f"--target={tmp_path / 'out'}", "--target_format=peft"
        status, _, err = command("convert", *arguments)
        assert status == 2 and message in err
    given = config_flag.loaded("tests/tiny.py")
    for adapter, message in [
        ("nowhere", "nowhere has no adapter_config.json"),
        (str(tmp_path), "needs the model it is for as init: some/base"),
    ]:
        described = {"peft_type": "LORA", "base_model_name_or_path": "some/base"}
        (tmp_path / "adapter_config.json").write_text(json.dumps(described))
        given.weights = {"kind": "LoRA", "adapter": adapter}
        with pytest.raises(UserError, match=message):
            loop.prepare(given, tmp_path / "run")
