"""A hash that sees every bit and no sharding."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lm_research.train.fingerprint import _summing, fingerprint

MASK = 2**32 - 1


def by_hand(words) -> str:
    """The definition, element by element, with Python's integers."""
    sums = [0, 0]
    for index, word in enumerate(words):
        i = ((index ^ (index >> 16)) * 0x7FEB352D) & MASK
        i = ((i ^ (i >> 15)) * 0x846CA68B) & MASK
        i ^= i >> 16
        first = ((int(word) ^ i) * 0x9E3779B1) & MASK
        first = ((first ^ (first >> 15)) * 0x85EBCA6B) & MASK
        first ^= first >> 13
        second = ((first + i) * 0xC2B2AE35) & MASK
        second ^= second >> 16
        sums = [(sums[0] + first) & MASK, (sums[1] + second) & MASK]
    return f"{sums[0]:08x}{sums[1]:08x}"


def test_golden():
    """These may not change: a checkpoint of last year is verified with them."""
    state = {
        "a": jnp.arange(12, dtype=jnp.float32).reshape(3, 4),
        "b": jnp.arange(-3, 4, dtype=jnp.bfloat16),
        "c": jnp.asarray(7, jnp.int32),
        "d": jnp.asarray([True, False, True]),
        "e": jnp.asarray([-1, 2], jnp.int8),
    }
    assert fingerprint(state) == {
        "a": "aefeeac45205118b",
        "b": "d303bc7fa539b711",
        "c": "757ce4cf2c4e3c95",
        "d": "825cf72a7e3d8147",
        "e": "8da92e021d0de6b7",
    }


def test_is_what_its_definition_says():
    values = np.random.default_rng(0).standard_normal((5, 7, 3)).astype(np.float32)
    assert fingerprint({"x": values}) == {"x": by_hand(values.view(np.uint32).ravel())}
    half = jnp.asarray(values, jnp.bfloat16)
    assert fingerprint({"x": half})["x"] == by_hand(np.asarray(half).view(np.uint16).ravel())
    with jax.enable_x64(True):
        wide = jnp.asarray(values.astype(np.float64))
        assert fingerprint({"x": wide})["x"] == by_hand(np.asarray(wide).view(np.uint32).ravel())


SPECS = [("x",), (None, "y"), ("x", "y"), (("y", "x"),), (None, ("x", "y")), (None, None, "y")]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_does_not_depend_on_sharding(spec):
    values = np.random.default_rng(0).standard_normal((8, 16, 6)).astype(np.float32)
    mesh = jax.make_mesh((4, 2), ("x", "y"), (AxisType.Auto,) * 2)
    sharded = jax.device_put(values, NamedSharding(mesh, PartitionSpec(*spec)))
    assert len(sharded.sharding.device_set) == 8
    assert fingerprint({"x": sharded}) == fingerprint({"x": values})


DTYPES = ["float32", "bfloat16", "float16", "int32", "uint32", "int8", "uint8", "float8_e4m3fn"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_sees_any_single_bit(data):
    dtype = jnp.dtype(data.draw(st.sampled_from(DTYPES)))
    content = bytearray(data.draw(st.binary(min_size=48, max_size=48)))
    before = fingerprint({"x": np.frombuffer(content, dtype)})
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    assert fingerprint({"x": np.frombuffer(content, dtype)}) != before


def test_sees_what_a_sum_would_not():
    """Two signs: with odd multipliers alone, the two highest bits would cancel modulo 2^32."""
    values = np.random.default_rng(0).standard_normal(64).astype(np.float32)
    signs, swapped = values.copy(), values.copy()
    signs[[3, 50]] *= -1
    swapped[[3, 50]] = swapped[[50, 3]]
    hashes = {fingerprint({"x": x})["x"] for x in (values, signs, swapped)}
    assert len(hashes) == 3


@pytest.mark.parametrize("devices", [1, 8])
def test_makes_no_copy(devices):
    mesh = jax.make_mesh((devices,), ("x",), (AxisType.Auto,), devices=jax.devices()[:devices])
    split = NamedSharding(mesh, PartitionSpec(None, "x"))
    for dtype in ("float32", "bfloat16", "int8"):
        leaf = jax.ShapeDtypeStruct((64, 256, 32), dtype, sharding=split)
        memory = _summing(mesh).lower(leaf).compile().memory_analysis()
        assert memory.temp_size_in_bytes < 0.05 * memory.argument_size_in_bytes


FEW_CORES = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import jax
from lm_research.train.fingerprint import fingerprint
mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
sharded = jax.NamedSharding(mesh, jax.P("fsdp"))
state = jax.device_put({str(i): jax.numpy.full((8, 16), i) for i in range(100)}, sharded)
step = jax.jit(lambda state: jax.tree.map(lambda x: x + x.sum(), state), out_shardings=sharded)
print(len(set(fingerprint(step(state)).values())))
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs a core of its own")
def test_many_leaves_on_more_devices_than_cores():
    """Where more programs were under way than XLA has threads, it waited for ever."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    done = subprocess.run(
        [sys.executable, "-c", FEW_CORES],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == "100", done.stderr[-500:]
