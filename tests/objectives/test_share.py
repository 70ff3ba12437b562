"""The loss on a mesh: that of one device, and the head is gathered once, however many chunks."""

import jax
import jax.numpy as jnp
import numpy as np

from lm_research.layers import Head, Output
from lm_research.mesh import Mesh
from lm_research.objectives.token_loss import token_loss
from lm_research.train.collectives import collectives

B, T, D, V, CHUNK = 8, 12, 16, 32, 3


def total(hidden, kernel, bias, targets, weights):
    output = Output(hidden, Head(kernel, bias))
    return token_loss(output, targets, weights, chunk=CHUNK)["loss"].total


def test_each_device_goes_through_its_own_tokens():
    draw = np.random.default_rng(0)
    arrays = [np.float32(draw.normal(size=shape)) for shape in ((B, T, D), (V, D), (V,))]
    given = (*arrays, draw.integers(0, V, (B, T)), np.float32(draw.random((B, T))))
    gradient = jax.jit(jax.value_and_grad(total, (0, 1, 2)))
    with Mesh().activate(jax.devices()[:1]):
        wanted = jax.tree.map(np.asarray, gradient(*given))
    jax.clear_caches()  # the mesh is no part of what is cached
    with Mesh(data=2, fsdp=4).activate(jax.devices()[:8]) as mesh:
        place = lambda array, *axes: jax.device_put(array, jax.NamedSharding(mesh, jax.P(*axes)))
        rows = ("data", "fsdp")
        hidden, kernel, bias, targets, weights = given
        placed = (place(hidden, rows), place(kernel, None, "fsdp"), place(bias))
        placed += (place(targets, rows), place(weights, rows))
        compiled = gradient.lower(*placed).compile()
        found = compiled(*placed)
        sent = collectives(compiled.as_text(), dict(mesh.shape))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted)):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    assert [one.axes for one in sent if one.kind == "all-gather"] == [("fsdp",)]
    assert max(one.times for one in sent) == 1
    assert jnp.shape(found[1][1]) == (V, D)
