"""Every `Weights`, on one device and on a 2 x 2 x 2 mesh."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_research import mesh, tree
from lm_research.errors import UserError
from lm_research.models import Llama
from lm_research.optimizers import AdamW
from lm_research.weights import Full, LoRA, Part
from lm_research.weights.lora import split_axes

MODEL = Llama(64, width=32, layers=2, heads=4, kv_heads=2, hidden=48)
METHODS = {
    "full": Full(),
    "part": Part(r"stack/.*norm|^norm"),
    "lora": LoRA(rank=2),
    "lora everywhere": LoRA(rank=2, pattern="kernel|table"),
}


def boxed():
    return MODEL.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2)], ids=["one device", "mesh"])
@pytest.mark.parametrize("name", METHODS)
def test_join_of_split_is_the_start(name, sizes):
    weights = METHODS[name]
    count = int(np.prod(sizes))
    with mesh.Mesh(*sizes).activate(jax.devices()[:count]):
        make = lambda: weights.split(boxed(), jax.random.key(1))
        where = mesh.shardings(jax.eval_shape(make))
        trained, held = jax.jit(lambda: nn.unbox(make()), out_shardings=where)()
        joined = jax.jit(weights.join)(trained, held)
        if count > 1:
            specs = {str(leaf.sharding.spec) for leaf in jax.tree.leaves((trained, held))}
            assert any("tensor" in spec or "fsdp" in spec for spec in specs), specs
    for key, want in tree.named_leaves(nn.unbox(boxed())).items():
        np.testing.assert_allclose(tree.named_leaves(joined)[key], want, atol=1e-6, err_msg=key)


@pytest.mark.parametrize("name", METHODS)
def test_optimizer_state_covers_what_is_trained(name):
    trained, held = nn.unbox(METHODS[name].split(boxed(), jax.random.key(1)))
    state = AdamW(peak=1e-3).build(10).init(trained)
    moments = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)
    assert moments == 2 * tree.count(trained)
    if name != "full":
        assert 0 < tree.count(trained) < tree.count(held)


def test_factors_take_the_sides_of_the_equation():
    trained, _ = LoRA(rank=2).split(boxed(), jax.random.key(1))
    names = {key: leaf.names for key, leaf in tree.named_leaves(trained).items()}
    assert names["stack/blocks/attention/out/kernel/a"] == ("L", "N", "H", None)
    assert names["stack/blocks/attention/out/kernel/b"] == ("L", None, "D")
    assert names["stack/blocks/attention/key/kernel/a"] == ("L", "D", None)
    assert names["stack/blocks/attention/key/kernel/b"] == ("L", None, "K", "H")
    assert split_axes(("L", "E", "F", "D")) == (("L", "E"), ("F",), ("D",))


def test_merged_is_the_sum():
    weights = LoRA(rank=2, scale=6.0)
    trained, held = nn.unbox(weights.split(boxed(), jax.random.key(1)))
    trained = jax.tree.map(lambda leaf: leaf + 0.1, trained)
    path = lambda t: t["stack"]["blocks"]["attention"]["out"]["kernel"]
    a, b = path(trained)["a"], path(trained)["b"]
    want = path(held) + 3.0 * jnp.einsum("LNHr,LrD->LNHD", a, b)
    np.testing.assert_allclose(path(weights.join(trained, held)), want, rtol=1e-5)


def test_patterns_that_find_nothing_are_refused():
    for weights, message in [
        (Part("nothing"), "none of the"),
        (Part("."), "all of the"),
        (LoRA(pattern="nothing"), "no matrix"),
    ]:
        with pytest.raises(UserError, match=message):
            weights.split(boxed(), jax.random.key(0))
