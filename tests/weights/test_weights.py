"""Every `Weights`, on one device and on a 2 x 2 x 2 mesh."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_research import mesh, tree
from lm_research.errors import UserError
from lm_research.hub import names
from lm_research.models import Classifier, Llama
from lm_research.optimizers import AdamW
from lm_research.optimizers.layerwise import exponents
from lm_research.weights import Full, LastLayers, LoRA, Part, Rows
from lm_research.weights.lora import split_axes

TRUNK = Llama(64, width=32, layers=3, heads=4, kv_heads=2, hidden=48)
MODEL = Classifier(TRUNK, ("no", "yes"), pool="first")
FACES = r"attention/.*kernel"
HEAD = r"^(dense/)?(kernel|bias)$"
TABLE = "embedding/table"
# What each trains: rows of what is stacked, or of a table; all that a pattern finds.
METHODS = {
    "full": (Full(), {"": slice(None)}),
    "part": (Part(r"stack/.*norm|/norm"), {r"stack/.*norm|/norm": slice(None)}),
    "a frozen embedding": (Part(held=TABLE), {rf"^(?!trunk/{TABLE})": slice(None)}),
    "the last layers": (
        LastLayers(2),
        {"stack": slice(1, 3), "^trunk/norm": slice(None), HEAD: slice(None)},
    ),
    "the head": (LastLayers(0, besides=HEAD), {HEAD: slice(None)}),
    "rows": (Rows((63, 5)), {TABLE: [63, 5]}),
    "rows and all else": (Rows("60:", rest=Full()), {TABLE: slice(60, 64), "": slice(None)}),
    "rows and last layers": (
        Rows("60:", rest=LastLayers(1, besides=HEAD)),
        {TABLE: slice(60, 64), "stack": slice(2, 3), HEAD: slice(None)},
    ),
    "lora": (LoRA(rank=2), {FACES: slice(None), HEAD: slice(None)}),
    "lora everywhere": (
        LoRA(rank=2, pattern="kernel|table", stabilized=True),
        {"kernel|table": slice(None), HEAD: slice(None)},
    ),
    "rows and lora": (
        Rows(":2", rest=LoRA(rank=2)),
        {TABLE: slice(2), FACES: slice(None), HEAD: slice(None)},
    ),
}


@functools.cache
def boxed():
    draw = np.random.default_rng(0).normal
    fill = lambda _, box: box.replace(value=jnp.float32(draw(size=box.value.shape)))
    return tree.map_named(fill, names.abstract(MODEL))


def moved(weights, places, params):
    """The parameters, split and joined, and after a step away from where they are."""
    box = lambda leaf, value: leaf.replace(value=value)
    boxes = jax.tree.map(box, boxed(), params, is_leaf=tree.boxed)
    parts = weights.split(boxes, jax.random.key(1))
    trained, held = jax.lax.with_sharding_constraint(tree.unboxed(parts), places)
    far = lambda trained: sum(
        jnp.square(p - 7.0).sum() for p in jax.tree.leaves(weights.join(trained, held))
    )
    after = jax.tree.map(lambda p, g: p - 0.1 * g, trained, jax.grad(far)(trained))
    return weights.join(trained, held), weights.join(after, held)


ALONE, MESH = (1, 1, 1), (2, 2, 2)
BOTH = ("full", "part", "the last layers", "rows", "lora")


@pytest.mark.parametrize(
    "name, sizes",
    [(name, ALONE) for name in BOTH] + [(name, MESH) for name in METHODS],
)
def test_what_is_trained_moves_and_nothing_else(name, sizes):
    weights, moving = METHODS[name]
    count = int(np.prod(sizes))
    with mesh.Mesh(*sizes).activate(jax.devices()[:count]):
        where = mesh.shardings(jax.eval_shape(weights.split, boxed(), jax.random.key(1)))
        params = jax.device_put(tree.unboxed(boxed()), mesh.shardings(boxed()))
        before, after = jax.jit(functools.partial(moved, weights, where))(params)
    if count > 1:
        specs = {str(sharding.spec) for sharding in jax.tree.leaves(where)}
        assert any("tensor" in spec or "fsdp" in spec for spec in specs), specs
    before, after = tree.named_leaves(before), tree.named_leaves(after)
    for path, want in tree.named_leaves(params).items():
        np.testing.assert_array_equal(before[path], want, err_msg=path)
        rows = next((rows for pattern, rows in moving.items() if re.search(pattern, path)), [])
        moves = np.zeros(len(want), bool)
        moves[rows] = True
        differs = np.asarray(after[path] != before[path]).reshape(len(want), -1)
        np.testing.assert_array_equal(differs.mean(1) > 0.9, moves, err_msg=path)
        assert not differs[~moves].any(), path


@pytest.mark.parametrize("name", METHODS)
def test_optimizer_state_covers_what_is_trained(name):
    weights, moving = METHODS[name]
    trained, held = nn.unbox(weights.split(boxed(), jax.random.key(1)))
    state = AdamW(peak=1e-3).build(10).init(trained)
    moments = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)
    assert moments == 2 * tree.count(trained)
    if "lora" not in name:
        leaves = tree.named_leaves(nn.unbox(boxed()))
        sizes = [
            np.ones(leaf.shape)[next((r for p, r in moving.items() if re.search(p, path)), [])].size
            for path, leaf in leaves.items()
        ]
        assert tree.count(trained) == sum(sizes)
    elif name == "lora":  # query, key, value and out of 3 layers, of rank 2, and the head
        factors = 3 * 2 * (2 * (32 + 32) + 2 * (32 + 16))
        assert tree.count(trained) == factors + 32 * 32 + 32 + 32 * 2 + 2
    joined = jax.eval_shape(weights.join, trained, held)
    assert tree.count(joined) == tree.count(boxed())


def test_factors_take_the_sides_of_the_equation():
    trained, _ = LoRA(rank=2).split(boxed(), jax.random.key(1))
    leaves = tree.named_leaves(trained).items()
    axes = {key.removeprefix("trunk/"): leaf.names for key, leaf in leaves}
    assert axes["stack/blocks/attention/out/kernel/a"] == ("L", "N", "H", None)
    assert axes["stack/blocks/attention/out/kernel/b"] == ("L", None, "D")
    assert axes["stack/blocks/attention/key/kernel/a"] == ("L", "D", None)
    assert axes["stack/blocks/attention/key/kernel/b"] == ("L", None, "K", "H")
    assert split_axes(("L", "E", "F", "D")) == (("L", "E"), ("F",), ("D",))
    assert split_axes(("L", "D", "E")) == (("L",), ("D",), ("E",))  # a router


def test_merged_is_the_sum():
    weights = LoRA(rank=2, scale=6.0)
    trained, held = nn.unbox(weights.split(boxed(), jax.random.key(1)))
    trained = jax.tree.map(lambda leaf: leaf + 0.1, trained)
    path = lambda t: t["trunk"]["stack"]["blocks"]["attention"]["out"]["kernel"]
    a, b = path(trained)["a"], path(trained)["b"]
    want = path(held) + 3.0 * jnp.einsum("LNHr,LrD->LNHD", a, b)
    np.testing.assert_allclose(path(weights.join(trained, held)), want, rtol=1e-5)


def test_patterns_that_find_nothing_are_refused():
    for weights, message in [
        (Part("nothing"), "none of the"),
        (Part("("), r"'\(' is no regular expression: "),
        (LoRA(pattern="["), r"'\[' is no regular expression: "),
        (Part("."), "all of the"),
        (Part(held="nothing"), "weights.held 'nothing' is found in none"),
        (LoRA(pattern="nothing"), "no matrix"),
        (LoRA(pattern="norm"), "no matrix"),
        (LastLayers(4), "count is 4, and the model has 3 layers"),
        (LastLayers(0, besides="nothing"), "nothing would be trained"),
        (Rows((1,), table="nothing"), "weights.table 'nothing' is found in none"),
        (Rows((1, 64)), "from 0 to 63"),
        (Rows((1, 1)), "takes different numbers"),
        (Rows("7"), "it takes ids, or a range"),
    ]:
        with pytest.raises(UserError, match=message):
            weights.split(boxed(), jax.random.key(0))


def test_the_last_layers_of_a_period():
    """Local and global blocks take turns: the last three layers are rows of both stacks."""
    blocks = {"stack": {name: {"scale": (2, 3)} for name in ("blocks_0", "blocks_1")}}
    blocks["stack"]["rest_0"] = {"scale": (1, 3)}
    params = jax.tree.map(
        lambda shape: nn.LogicallyPartitioned(jnp.ones(shape), ("L", "D")),
        blocks,
        is_leaf=lambda leaf: isinstance(leaf, tuple),
    )
    trained, held = nn.unbox(LastLayers(2).split(params, jax.random.key(0)))
    sizes = lambda part: {n.split("/")[1]: len(a) for n, a in tree.named_leaves(part).items()}
    assert sizes(trained) == {"blocks_1": 1, "rest_0": 1}
    assert sizes(held) == {"blocks_0": 2, "blocks_1": 1}
    jax.tree.map(np.testing.assert_array_equal, LastLayers(2).join(trained, held), nn.unbox(params))
    # Optimizers count the layers of such a part from the end.
    powers = exponents(trained)
    assert {name: power.ravel().tolist() for name, power in powers.items()} == {
        "stack/blocks_1/scale": [2.0],
        "stack/rest_0/scale": [1.0],
    }
