"""From a Hugging Face directory by LoRA to an adapter, and from the adapter on."""

import json

import jax
import numpy as np
import pytest

from lm_research import config, mesh, tree
from lm_research.data import Bytes
from lm_research.hub import names, save
from lm_research.train import loop, restore

SECTION = {"kind": "GPT2", "vocab": 257, "width": 16, "layers": 1, "heads": 2, "context": 16}
CONFIG = """
from tests.tiny import get_config as tiny

def get_config(arg=""):
    config = tiny(arg)
    del config["weights"]
    config.weights = dict(WEIGHTS)
    config.log.samples.every = 0
    config.evals = {}
    return config
"""


@pytest.fixture
def trained(tiny, tmp_path):
    """Trains the model in a directory, by a section of weights."""

    def run(workdir, init, steps=2, **weights):
        path = tmp_path / "config.py"
        path.write_text(CONFIG.replace("WEIGHTS", repr({"kind": "LoRA", "rank": 2, **weights})))
        knobs = f"steps={steps},every={steps}"
        arguments = [] if init is None else [f"--config.init={init}"]
        return tiny(knobs, *arguments, workdir=tmp_path / workdir, config=path)

    return run


def leaves(directory):
    with mesh.single():
        return tree.named_leaves(jax.device_get(restore.open_checkpoint(directory).params))


def test_an_adapter_is_written_opened_and_trained_on(command, trained, tmp_path):
    draw = np.random.default_rng(0).normal
    model = config.build(SECTION, save.CONTENTS)
    params = tree.map_named(
        lambda _, p: np.float32(0.1 * draw(size=p.shape)), tree.unboxed(names.abstract(model))
    )
    base, one, out = (tmp_path / name for name in ("base", "one", "out"))
    save.save(base, SECTION, params, Bytes().train([]))
    status, _, err = trained("one", base)
    assert status == 0, err
    # Query, key, value and out, each of rank 2, of 16 to 16.
    assert f"{tree.count(params):,} parameters, 256 of them trained" in err
    run, start = leaves(one), tree.named_leaves(params)
    moved = {name for name in start if not np.array_equal(run[name], start[name])}
    products = ("query", "key", "value", "out")
    assert moved == {f"stack/blocks/attention/{name}/kernel" for name in products}
    status, said, err = command(
        "convert", f"--source={one}", f"--target={out}", "--target_format=peft"
    )
    assert (status, said) == (0, f"256 trained parameters in 4 tensors: {out}\n"), err
    status, _, err = command("convert", f"--source={one}", f"--target={tmp_path / 'merged'}")
    assert status == 0, err
    for directory in (out, tmp_path / "merged"):
        for name, leaf in leaves(directory).items():
            np.testing.assert_allclose(leaf, run[name], atol=1e-6, err_msg=name)
    # A run goes on with these factors, and after it was stopped has no need of the adapter.
    status, _, err = trained("two", base, steps=1, adapter=str(out))
    assert status == 0, err
    weights = restore.stored_config(tmp_path / "two")["weights"]
    assert (weights["rank"], weights["scale"]) == (2, 16.0)
    with mesh.single():
        before, after = (
            tree.named_leaves(restore.split(run, restore.stored_config(run))[1])
            for run in (one, tmp_path / "two")
        )
    for name, leaf in before.items():
        apart = np.abs(leaf - after[name]).max()
        assert 0 < apart < 0.02, name  # a step of Adam's, where a draw anew would be far away
    # Once it has begun it needs the adapter no more.
    resolved = {"weights": {"kind": "LoRA", "adapter": "gone"}, "init": str(base)}
    stored = {"weights": {**weights, "adapter": "gone"}}
    assert loop.begin_adapted(resolved, stored) is None
    assert resolved["weights"] == stored["weights"]


def test_what_is_no_adapter_is_one_line(command, trained, tmp_path):
    status, _, err = trained("run", None, adapter="nowhere")
    assert status == 2 and "nowhere has no adapter_config.json" in err
    described = {"model": SECTION, "weights": {"kind": "LoRA"}, "init": None}
    for changes, message in [
        ({}, "began from no directory (init)"),
        ({"weights": {"kind": "Full"}}, "are Full; PEFT's format takes a run with LoRA"),
    ]:
        (tmp_path / "config.json").write_text(json.dumps(described | changes))
        arguments = f"--source={tmp_path}", f"--target={tmp_path / 'out'}", "--target_format=peft"
        status, _, err = command("convert", *arguments)
        assert status == 2 and message in err
