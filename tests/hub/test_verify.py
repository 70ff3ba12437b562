"""Equal models are found equal, and a broken one is found out, at the tensor where it breaks."""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_research import config, mesh
from lm_research.data import Bytes
from lm_research.errors import UserError
from lm_research.hub import cases, load, save, verify
from lm_research.hub.reference import Reference
from lm_research.hub.verify import Limits
from lm_research.layers import ACTIVATIONS, Rotary
from lm_research.train import restore, verified

pytest.importorskip("torch", reason="the reference is torch's: install the extra `verify`")
pytest.importorskip("transformers", reason="it is the reference: extra `verify`")

LIMITS = Limits(batch=2, length=8)
FORWARD = Limits(batch=2, length=8, gradient=False)
SIZES = {"vocab": 300, "width": 16, "layers": 2, "heads": 4}
SECTIONS = {
    "Llama": {"kind": "Llama", **SIZES, "kv_heads": 2, "hidden": 24, "head_norms": True},
    "GPT2": {"kind": "GPT2", **SIZES, "context": 12},
}


@pytest.fixture(scope="module", params=SECTIONS)
def stored(request, drawn, tmp_path_factory):
    """A Hugging Face directory with a tokenizer, of a family that needs no other test's."""
    directory = tmp_path_factory.mktemp(request.param) / "stored"
    _, params = drawn(SECTIONS[request.param])
    params = jax.tree.map(lambda leaf: 0.5 * leaf, params)
    save.save(directory, SECTIONS[request.param], params, Bytes().train([]))
    return directory


def compared(directory, limits=LIMITS, **changes):
    """What `verify` finds where our model differs from the directory's by `changes`."""
    section = load.section(directory) | {"execution": "scan"} | changes
    model = config.build(section, save.CONTENTS, "model")
    with mesh.single():
        return verify.verify(directory, model, lambda: load.load(directory, model), limits)


def test_equal_models_are_equal(stored):
    report = compared(stored)
    names = ["own text", "padding right", "padding left", "unusual ids", "one token", "packed"]
    assert [row.case for row in report.rows] == [*names, "last position"]
    assert not report.parted and report.largest < 2e-5
    assert all(row.gradient > 0 and row.tensor for row in report.rows)
    assert str(report).splitlines()[-1].endswith("equal within 0.0001")


def test_what_theirs_cannot_do_is_left_out_and_told(drawn, tmp_path, capfd):
    """Their Mamba-2 with a bias reads padding that stands before a text."""
    section = {"kind": "Mamba2", "vocab": 64, "width": 32, "layers": 1, "head": 8, "bias": True}
    save.save(tmp_path / "biased", section, drawn(section)[1])
    report = compared(tmp_path / "biased", FORWARD, execution="unroll")
    assert not report.parted and "padding left" not in [row.case for row in report.rows]
    told = "asked for a comparison with padding before a text, got none"
    assert told in "".join(capfd.readouterr())


BROKEN = {
    "GPT2": [
        ({"epsilon": 1e-1}, "layer 0: transformer.h.0.ln_1 (ours: stack/blocks/attention_norm)"),
        ({"activation": "gelu"}, "layer 0: transformer.h.0.mlp.c_proj (ours: stack/blocks/mlp/do"),
    ],
    "Llama": [
        ({"epsilon": 1e-1}, "layer 0: model.layers.0.input_layernorm (ours: stack/blocks/attent"),
        ({"window": 4}, "layer 0: model.layers.0.self_attn.o_proj (ours: stack/blocks/attention"),
    ],
}


def test_a_wrong_setting_is_found_where_it_acts(stored):
    for changes, where in BROKEN[load.family(stored).kind]:
        report = compared(stored, FORWARD, **changes)
        assert {row.gradient for row in report.rows} == {None}
        assert where in report.parted, (changes, report.parted)
        assert report.parted in str(report)
        assert "\n" not in report.parted


@pytest.fixture
def llama(drawn, tmp_path):
    _, params = drawn(SECTIONS["Llama"])
    params = jax.tree.map(lambda leaf: 0.5 * leaf, params)
    save.save(tmp_path / "llama", SECTIONS["Llama"], params)
    return tmp_path / "llama"


def test_another_rotary_layout_is_found(llama, monkeypatch):
    """GPT-J rotates neighbours: queries and keys agree, but not what attention makes of them."""

    def neighbours(self, x, position):
        half = x.shape[-1] // 2
        angle = position[..., None, None] * self.base ** -(jnp.arange(half) / half)
        a, b = x[..., ::2], x[..., 1::2]
        turned = [a * jnp.cos(angle) - b * jnp.sin(angle), b * jnp.cos(angle) + a * jnp.sin(angle)]
        return jnp.stack(turned, -1).reshape(x.shape)

    monkeypatch.setattr(Rotary, "__call__", neighbours)
    parted = compared(llama, FORWARD).parted
    assert "parts first in 'random ids', in layer 0: model.layers.0.self_attn.o_proj" in parted
    assert "agrees, last model.layers.0.self_attn." in parted


def test_a_gradient_alone_may_part(llama, monkeypatch):
    silu = ACTIVATIONS["silu"]
    held = lambda x: jax.lax.stop_gradient(silu(x))
    monkeypatch.setitem(ACTIVATIONS, "silu", held)
    report = compared(llama)
    assert "in gradients alone" in report.parted
    assert "that of model.layers.1.mlp.gate_proj.weight" in report.parted
    assert max(row.logits for row in report.rows) < 2e-5


def test_what_rounding_does_is_known_from_float64(drawn, tmp_path):
    """Also where padding sees nothing, which `transformers` makes of lowest numbers of float32."""
    section = {"kind": "ModernBERT", "vocab": 64, "width": 16, "layers": 2, "heads": 2}
    section |= {"hidden": 16, "every": 2, "window": 2}
    model, params = drawn(section)
    save.save(tmp_path / "stored", section, params)
    reference = Reference(tmp_path / "stored", "ModernBertForMaskedLM")
    case = cases.cases(model, batch=2, length=8, context=8)[1]
    plain = reference.measured(case, True)
    with reference.in_float64():
        exact = reference.measured(case, True)
    with reference.nudged(1):
        other = reference.measured(case, True)
    again = reference.measured(case, True)
    name = "gradient model.layers.1.attn.Wqkv.weight"
    assert case.name == "padding right" and not case.present.all()
    assert exact["logits"].dtype == exact[name].dtype == np.float64
    for made in (plain, other):
        assert 1e-8 < verify.difference(made["logits"], exact["logits"]) < 1e-4
        assert 1e-8 < verify.difference(made[name], exact[name]) < 1e-2
    assert not np.array_equal(plain["logits"], other["logits"])
    assert np.array_equal(plain["logits"], again["logits"])


def test_a_row_may_be_beyond_the_tolerance_where_theirs_is_as_far_from_float64():
    row = verify.Row("any", (1, 2), 1e-6, 1e-6, 5e-4)
    assert not row.within(1e-4)
    far = dataclasses.replace(row, exact=(1e-6, 1e-6, 4e-4), rounding=(9e-4, 9e-4, 3e-4))
    assert far.within(1e-4)
    assert not dataclasses.replace(far, rounding=(9e-4, 9e-4, 1e-4)).within(1e-4)


def test_tensors_taken_for_each_other_are_found(llama):
    def swapped(model):
        params = load.load(llama, model)
        attention = params["stack"]["blocks"]["attention"]
        attention["key"], attention["value"] = attention["value"], attention["key"]
        return params

    model = config.build(load.section(llama), save.CONTENTS, "model")
    with mesh.single():
        report = verify.verify(llama, model, lambda: swapped(model), FORWARD)
    assert "layer 0: model.layers.0.self_attn.k_proj" in report.parted


def test_the_command_stores_what_it_found(llama, command):
    status, out, _ = command("verify", f"--checkpoint={llama}", "--batch=2", "--length=8")
    assert status == 0 and "equal within" in out
    found = json.loads((llama / "verify.json").read_text())
    assert found["equal"] and found["largest"] < 2e-5 and len(found["cases"]) == 7
    assert {"lm_research", "transformers", "torch", "jax"} <= set(found["versions"])
    with mesh.single():
        facts = verified.standing(llama, restore.open_checkpoint(llama))
        assert facts["verified"] and facts["largest"] == found["largest"]
        path = llama / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"rms_norm_eps": 0.1}))
        facts = verified.standing(llama, restore.open_checkpoint(llama))
    assert not facts["verified"] and "changed since" in facts["why"]


def test_the_command_says_in_a_line_where_they_part(llama, command, monkeypatch):
    monkeypatch.setitem(ACTIVATIONS, "silu", jnp.tanh)
    status, out, _ = command("verify", f"--checkpoint={llama}", "--length=8", "--nogradient")
    assert status == 1
    last = out.splitlines()[-1]
    assert last.startswith("parts first in 'random ids', in layer 0: model.layers.0.mlp.down_proj")
    with mesh.single():
        facts = verified.standing(llama, restore.open_checkpoint(llama))
    assert facts == {"verified": False, "why": last}


def test_a_run_is_verified_and_a_run_from_it_knows(tiny, command, tmp_path):
    assert tiny("steps=2,every=2")[0] == 0
    run = tmp_path / "run"
    before = json.loads((run / "facts.json").read_text())
    assert command("verify", f"--checkpoint={run}", "--length=8", "--nogradient")[0] == 0
    facts = json.loads((run / "facts.json").read_text())
    assert facts["verified"]["verified"] and facts["verified"]["step"] == 2
    assert facts == before | {"verified": facts["verified"]}
    target = tmp_path / "from_run"
    assert tiny("steps=2,every=2", f"--config.init={run}", workdir=target)[0] == 0
    found = json.loads((target / "facts.json").read_text())["init"]
    assert found["verified"] and found["path"] == str(run)
    with mesh.single():
        facts = verified.standing(target, restore.open_checkpoint(target))
    assert not facts["verified"] and "has not been run" in facts["why"]


def test_without_pytorch_it_says_how_to_get_it(llama, command, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    status, _, err = command("verify", f"--checkpoint={llama}")
    assert status == 2 and "pip install 'lm_research[verify]'" in err
    assert len(err.strip().splitlines()) == 1


def test_a_tokenizer_that_outgrows_the_model_is_refused(stored, drawn, tmp_path):
    section = {"kind": "Llama", **SIZES, "vocab": 200}
    _, params = drawn(section)
    save.save(tmp_path / "small", section, params, Bytes().train([]))
    with pytest.raises(UserError, match="tokenizer of 257 tokens and a model of 200"):
        compared(tmp_path / "small")


def test_what_is_not_there_is_a_mistake(command, tmp_path):
    status, _, err = command("verify", f"--checkpoint={tmp_path / 'nowhere'}")
    assert status == 2 and "is not a directory" in err
    with pytest.raises(UserError, match="length is 1; it takes 2 or more"):
        Limits(length=1)


def test_nan_is_a_difference():
    from lm_research.hub.trace import difference

    assert difference(np.float32([1, np.nan]), np.float32([1, 2])) == float("inf")
    assert difference(np.float32([1, 2]), np.float32([1, 4])) == 0.5
