"""Bytes of known collectives, in loops, and in each way in which groups are written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from lm_research.mesh import Mesh
from lm_research.train.collectives import collectives, replica_groups
from lm_research.train.plan import traffic
from lm_research.train.roofline import divided

ROUNDS, WIDTH = 5, 16


def compiled(function, specs, result):
    """The text of a function of arrays [8, WIDTH], on the mesh data=2, fsdp=2, tensor=2."""
    mesh = Mesh(data=2, fsdp=2, tensor=2)
    with mesh.activate(jax.devices()[:8]) as here:
        run = jax.shard_map(function, mesh=here, in_specs=specs, out_specs=result, check_vma=False)
        array = jax.ShapeDtypeStruct((8, WIDTH), jnp.float32)
        return jax.jit(run).lower(array).compile().as_text(), dict(here.shape)


def test_collectives_count_each_round_of_a_loop():
    def function(x):  # [8, WIDTH / 2] on each
        def round_(x, _):
            x = jax.lax.psum(jnp.sin(x), ("data", "fsdp"))
            x = jnp.cos(jax.lax.ppermute(x, "fsdp", [(0, 1), (1, 0)]))
            return x, None

        x, _ = jax.lax.scan(round_, x, None, length=ROUNDS)
        return jax.lax.all_gather(x, "tensor", axis=1, tiled=True)

    text, sizes = compiled(function, PartitionSpec(None, "tensor"), PartitionSpec())
    half = 8 * WIDTH * 4 // 2
    assert traffic(collectives(text, sizes)) == {
        ("all-reduce", "data*fsdp"): (ROUNDS, ROUNDS * 2 * half * 3 / 4),
        ("collective-permute", "fsdp"): (ROUNDS, ROUNDS * half),
        ("all-gather", "tensor"): (1, half),
    }


HLO = """
ENTRY %main (x: f32[8,4]) -> f32[2,4] {
  %x = f32[8,4]{1,0} parameter(0)
  %y = f32[8,4]{1,0} negate(%x)
  %a = f32[8,4]{1,0} all-reduce(%x), replica_groups=[2,4]<=[8], to_apply=%add
  %b = f32[8,4]{1,0} all-reduce(%y), replica_groups=[2,4]<=[8], to_apply=%add
  %sum = f32[8,4]{1,0} add(%a, %b)
  %c = f32[8,4]{1,0} all-reduce(%y), replica_groups=[2,4]<=[8], to_apply=%add
  %copy = f32[8,4]{1,0} copy(%c)
  ROOT %part = f32[2,4]{1,0} dynamic-slice(%copy, %i, %j), dynamic_slice_sizes={2,4}
}
"""


def test_sums_and_parts_of_all_reduces_count_as_accelerators_do_them():
    found = collectives(HLO, {"data": 2, "fsdp": 4})
    assert [(one.kind, one.axes, one.sent) for one in found] == [
        ("all-reduce", ("fsdp",), 2 * 128 * 3 / 4),
        ("reduce-scatter", ("fsdp",), 128 * 3 / 4),
    ]


@pytest.mark.parametrize(
    "pairs, axes, sent",
    [
        ("{{0,0},{1,2},{2,1},{3,3},{4,4},{5,6},{6,5},{7,7}}", ("fsdp", "tensor"), 128 / 2),
        ("{{0,4}}", ("data",), 128 / 8),
        ("{{0,1},{4,6}}", ("fsdp", "tensor"), 128 / 4),
    ],
)
def test_devices_that_keep_their_own_send_nothing(pairs, axes, sent):
    text = f"""
ENTRY %main (x: f32[8,4]) -> f32[8,4] {{
  %x = f32[8,4]{{1,0}} parameter(0)
  ROOT %y = f32[8,4]{{1,0}} collective-permute(%x), channel_id=1, source_target_pairs={pairs}
}}
"""
    (found,) = collectives(text, {"data": 2, "fsdp": 2, "tensor": 2})
    assert (found.axes, found.sent, found.most) == (axes, sent, 128)
    assert divided(found, 4) == ((0, 128) if "0,4" in pairs else (128, 0))


@pytest.mark.parametrize(
    "text, groups",
    [
        ("replica_groups={{0,2},{1,3}}, x", [[0, 2], [1, 3]]),
        ("replica_groups={}, x", [[0, 1, 2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0), x", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}, x", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}, x", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(1)2}, x", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(2)2}, x", [[0, 1], [2, 3]]),
    ],
)
def test_groups_in_all_spellings(text, groups):
    np.testing.assert_array_equal(replica_groups(text, 4), groups)
