"""From a Hugging Face directory by LoRA to an adapter, and from the adapter on."""

import json

import jax
import numpy as np
import pytest

from lm_research import config, log, mesh, tree
from lm_research.commands import config_flag
from lm_research.data import Bytes
from lm_research.errors import UserError
from lm_research.hub import names, save
from lm_research.train import loop, restore
from lm_research.train.experiment import experiment
from lm_research.train.step import Trainer
from tests import conftest

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


def test_what_is_no_adapter_is_one_line(command, tmp_path):
    described = {"model": SECTION, "weights": {"kind": "LoRA"}, "init": None}
    for changes, message in [
        ({}, "began from no directory (init)"),
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
