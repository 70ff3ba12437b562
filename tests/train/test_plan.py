"""What a plan says: exact shapes, XLA's memory, times by hand, what would fit, and mistakes."""

import dataclasses
import json
from pathlib import Path

import jax
import pytest

from lm_research.commands import config_flag
from lm_research.errors import UserError
from lm_research.train import remedy as remedies
from lm_research.train.chips import CHIPS, of_kind, pod
from lm_research.train.collectives import Collective
from lm_research.train.compiled import placed_bytes
from lm_research.train.plan import Memory, plan
from lm_research.train.remedy import changes, remedy
from lm_research.train.roofline import divided, roofline

WIDTH, VOCAB, LENGTH, ROWS = 16, 257, 16, 8  # of tests/tiny.py
ARRAYS = 5  # tokens, targets, weights, segments, position
PARAMETERS, WHOLE, COUNTERS = 7680, 3 * 16 + 4 * 16, 2
MIB = 2**20
CONFIGS = Path(__file__).parents[2] / "configs"


def tiny(**fields):
    """The tiny config; the fields of its sections after two underscores."""
    given = config_flag.loaded("tests/tiny.py").to_dict()
    for name, value in fields.items():
        section, field = name.split("__")
        given[section][field] = value
    return given


def test_a_plan_counts_what_each_device_holds(command, tmp_path):
    output = tmp_path / "plan.json"
    flags = "--config=tests/tiny.py", "--config.mesh.fsdp=4", f"--json={output}"
    status, told, _ = command("plan", *flags, "--devices=8")
    assert status == 0 and "8 devices of this machine's CPU; mesh data=2 fsdp=4" in told
    found = json.loads(output.read_text())
    # The biases of queries, keys, values and of the hidden layer have no D for fsdp to cut.
    held = (PARAMETERS - WHOLE) // 4 + WHOLE
    assert found["parameters"] == PARAMETERS
    assert found["memory"]["weights"] == found["memory"]["gradients"] == 4 * held
    assert found["memory"]["optimizer"] == 2 * 4 * held + 4 * COUNTERS
    assert found["memory"]["batch"] == ROWS // 8 * LENGTH * ARRAYS * 4


def test_a_plan_for_an_accelerator_says_when_it_would_be_done():
    found = plan(tiny(model__dtype="bfloat16", mesh__tensor=2), pod("v5p-16"), vocab=258)
    line = found.roofline
    assert found.mesh["data"] == 4 and found.mesh["tensor"] == 2
    assert line.compute == found.flops_per_token * ROWS * LENGTH / 8 / 459e12
    assert line.apart > line.overlapped >= line.compute
    kinds = {(one.kind, one.axes) for one in found.collectives}
    assert ("all-reduce", ("tensor",)) in kinds and ("all-reduce", ("data",)) in kinds


def test_what_crosses_slices_goes_over_the_slower_network():
    chip = CHIPS["v5p"]
    one = Collective("all-reduce", ("data",), (0, 2, 4, 6), 1000, 3, "")
    assert divided(one, 8) == (3 * 1000 * 2 * 3 / 4, 0)
    inside, beyond = divided(one, 4)
    assert (inside, beyond) == (3 * 1000 * 2 / 2, 3 * 500 * 2 / 2)
    line = roofline(chip, 8, 2, 8e15, "full", 1e9, [one])
    assert line.network["data"] == beyond / chip.network
    assert line.compute == 8e15 / 8 / chip.peak * 8 / 6


def test_a_plan_that_cannot_fit_is_refused_with_what_would(command, monkeypatch):
    # It takes 18 MiB, and with microbatches half of it.
    monkeypatch.setitem(CHIPS, "l4", dataclasses.replace(CHIPS["l4"], memory=14 * MIB))
    flags = "--config.batch.size=2048", "--config.mesh.fsdp=8"
    status, told, _ = command("plan", "--config=tests/tiny.py", "--devices=8xL4", *flags)
    assert status == 1 and "DOES NOT FIT" in told
    assert "it would with --config.batch.microbatches=2\n" in told, told


def test_changes_come_in_the_order_of_what_they_cost():
    memory = Memory(1, 1, 1, 1, 100 * MIB, 10 * MIB)
    first = dataclasses.make_dataclass("Plan", ["mesh", "memory"])({"data": 4, "fsdp": 2}, memory)
    found = list(changes(tiny(mesh__data=-1), first))
    assert found[:3] == [{"mesh.fsdp": 4}, {"mesh.fsdp": 8}, {"batch.microbatches": 2}]
    policies = [change.get("model.remat") for change in found]
    assert policies.index("dots") < policies.index("full")
    assert "batch.size" in found[-1] and "batch.size" not in found[policies.index("full")]


def test_what_a_plan_suggests_is_a_flag_that_the_command_takes(monkeypatch):
    """Of every config; what one does not declare is passed over."""
    memory = Memory(1, 1, 1, 1, 100 * MIB, 10 * MIB)
    first = dataclasses.make_dataclass("Plan", ["mesh", "memory"])({"data": 4, "fsdp": 2}, memory)
    tried = []
    monkeypatch.setattr(remedies, "_promises", lambda *_: True)
    monkeypatch.setattr(remedies, "_fits", lambda given, *_: tried.append(given))
    files = [path for path in sorted(CONFIGS.rglob("*.py")) if path.stem != "fasttext"]
    for path in files:
        config = config_flag.loaded(str(path))
        assert remedy(config, pod("8"), None, first) == ""
        model = config.to_dict()["model"]
        assert model.get("trunk", model)["remat"] == "none", path
    assert {one["model"].get("trunk", one["model"])["remat"] for one in tried} > {"dots", "full"}
    tried.clear()
    bare = config_flag.loaded("tests/tiny.py")
    remedy(bare, pod("8"), None, first)
    assert tried and all("remat" not in one["model"] for one in tried)


@pytest.mark.parametrize(
    "text, count, told",
    [
        ("v5p-256", 128, "128 x TPU v5p chip (v5p-256 counts its 256 TensorCores)"),
        ("V5E-16", 16, "16 x TPU v5e chip"),
        ("8xH100", 8, "8 x H100"),
        ("h200x8", 8, "8 x H200"),
        ("a100-64", 64, "64 x A100"),
        ("v5litepod-16", 16, "16 x TPU v5e chip"),
        ("256xv4", 256, "256 x TPU v4 chip"),
        ("8", 8, "8 devices of this machine's CPU"),
    ],
)
def test_names_of_devices(text, count, told):
    assert pod(text).count == count and str(pod(text)) == told


@pytest.mark.parametrize(
    "kind, name",
    [
        ("TPU v4", "v4"),
        ("TPU v4 lite", None),
        ("TPU v5 lite", "v5e"),
        ("TPU v5e", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6e", "v6e"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-PCIE-40GB", "a100"),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", None),
        ("cpu", None),
    ],
)
def test_a_kind_is_a_chip_by_its_whole_words(kind, name):
    assert of_kind(kind) is (name and CHIPS[name])


@pytest.mark.parametrize(
    "devices, fields, message",
    [
        ("v5q-8", {}, "no chip is called 'v5q'; did you mean 'v5p'?"),
        ("v5p-7", {}, "multiple of 2"),
        ("0", {}, "one device or more"),
        ("v6e-512", {}, "512 chips take mesh.slices=2 or more"),
        ("8", dict(mesh__fsdp=3), "does not make 8 devices"),
        ("8", dict(batch__size=12), "takes a multiple of 8"),
        ("8", dict(data__tokenizer={"kind": "Characters"}), "give --vocab=V"),
    ],
)
def test_mistakes_are_one_line(devices, fields, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        plan(tiny(**fields), pod(devices))


def test_bytes_of_a_device_follow_the_shards():
    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), devices=jax.devices()[:8])
    where = jax.NamedSharding(mesh, jax.P("fsdp", "tensor"))
    assert placed_bytes([jax.ShapeDtypeStruct((8, 6), "bfloat16", sharding=where)]) == 2 * 3 * 2
