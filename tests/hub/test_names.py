import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from lm_research import config
from lm_research.errors import UserError
from lm_research.hub import names, save
from lm_research.models import GPT2, Llama
from lm_research.models.family import Family, Row

GIVEN = {
    "query": names.Parameter("LDNH", (2, 3, 2, 2)),
    "key": names.Parameter("LDKH", (2, 3, 1, 2)),
    "out": names.Parameter("LNHD", (2, 2, 2, 3)),
    "norm": names.Parameter("D", (3,)),
    "first": names.Parameter("LDNH", (2, 3, 2, 2)),
    "second": names.Parameter("LDNH", (2, 3, 2, 2)),
}
ROWS = (
    Row("query", "h.{L}.both", "D+(NH)"),
    Row("key", "h.{L}.both", "D+(KH)"),
    Row("out", "h.{L}.out", "D(NH)"),
    Row("norm", "norm", "D"),
    Row("first", "h.{L}.heads", "(N+H)D"),
    Row("second", "h.{L}.heads", "(N+H)D"),
)
FAMILY = Family("Kind", "kind", "KindLM", ROWS, {}, {})


def arrays():
    return {
        path: np.arange(np.prod(p.shape), dtype=np.float32).reshape(p.shape) + 100 * i
        for i, (path, p) in enumerate(GIVEN.items())
    }


def made():
    values = arrays()
    read = lambda path, index: values[path][index]
    return {name: tensor.made(read) for name, tensor in names.layout(FAMILY, GIVEN).items()}


def test_a_table_by_hand():
    tensors = made()
    assert list(tensors) == [
        "h.0.both",
        "h.1.both",
        "h.0.out",
        "h.1.out",
        "norm",
        "h.0.heads",
        "h.1.heads",
    ]
    np.testing.assert_array_equal(
        tensors["h.1.both"],
        [
            [12, 13, 14, 15, 106, 107],  # query [D, N, H] of layer 1 begins at 12, key at 106
            [16, 17, 18, 19, 108, 109],
            [20, 21, 22, 23, 110, 111],
        ],
    )
    # out [N, H, D] of layer 0 is 200 + 6 n + 3 h + d, at row d and column 2 n + h.
    np.testing.assert_array_equal(
        tensors["h.0.out"],
        [[200, 203, 206, 209], [201, 204, 207, 210], [202, 205, 208, 211]],
    )
    # first [D, N, H] of layer 0 is 400 + 4 d + 2 n + h, second 100 more: a head of each in turn.
    rows = [
        [start + 4 * d + 2 * n + h for d in range(3)]
        for n in (0, 1)
        for start in (400, 500)
        for h in (0, 1)
    ]
    np.testing.assert_array_equal(tensors["h.0.heads"], rows)
    assert names.layout(FAMILY, GIVEN)["h.0.both"].shape == (3, 6)
    assert all(tensor.flags.c_contiguous for tensor in tensors.values())


def test_any_slice_of_a_parameter_is_read_from_its_part_of_the_tensor():
    tensors, values = made(), arrays()
    for name, tensor in names.layout(FAMILY, GIVEN).items():
        for part in tensor.parts:
            whole = values[part.ours][part.index]
            cuts = [
                [slice(a, b) for a in range(size) for b in range(a + 1, size + 1)]
                for size in part.shape
            ]
            for index in itertools.product(*cuts):
                read = part.read(lambda cut, name=name: tensors[name][cut], index)
                np.testing.assert_array_equal(read, whole[index])


def test_no_more_is_read_than_is_needed():
    tensors, sizes = made(), []

    def read(cut):
        sizes.append(tensors["h.0.both"][cut].size)
        return tensors["h.0.both"][cut]

    query = names.layout(FAMILY, GIVEN)["h.0.both"].parts[0]
    query.read(read, (slice(1, 2), slice(1, 2), slice(0, 2)))
    assert sizes == [2]


def parameters(model):
    return names.parameters(names.abstract(model))


def test_the_family_follows_from_the_parameters():
    sizes = {"vocab": 16, "width": 8, "layers": 1, "heads": 2}
    for model, expected in (
        (GPT2(**sizes), "GPT2LMHeadModel"),
        (GPT2(**sizes, bias=False), "GPT2LMHeadModel"),
        (Llama(**sizes), "LlamaForCausalLM"),
        (Llama(**sizes, tied=True), "LlamaForCausalLM"),
        (Llama(**sizes, head_norms=True), "Qwen3ForCausalLM"),
    ):
        kind = "GPT2" if "GPT2" in expected else "Llama"
        assert names.fitting({"kind": kind}, parameters(model)).architecture == expected


def test_a_model_that_is_nobodys_is_refused():
    section = {"kind": "GPT2", "vocab": 16, "width": 8, "layers": 1, "heads": 2}
    given = parameters(config.build(section, save.CONTENTS))
    with pytest.raises(UserError, match=r"GPT2LMHeadModel: gate/kernel"):
        names.fitting({"kind": "GPT2"}, given | {"gate/kernel": names.Parameter("DF", (8, 4))})
    with pytest.raises(UserError, match=r"Novel has no Hugging Face.*GPT2.*Llama"):
        names.fitting({"kind": "Novel"}, given)


def test_rows_name_each_parameter_once_and_tie_what_exists():
    for family in names.families():
        ours = [row.ours for row in family.rows]
        assert len(set(ours)) == len(ours)
        assert all(row.tied is None or row.tied in ours for row in family.rows)


def test_options_and_their_names():
    family = dataclasses.replace(
        FAMILY,
        names={"width": "d", "heads": "n", "kv_heads": "k", "activation": "act", "dropout": "drop"},
        derived=("kv_heads",),
        options={"bias": True},
        recorded={"std": "deviation", "groups": "kv_heads"},
        section=lambda config: {"window": config["span"] - 1},
        config=lambda section: {"span": section["window"] + 1},
    )
    given = {"d": 8, "n": 4, "k": None, "act": "gelu_new", "drop": 0, "std": 0.5, "span": 3}
    options = {"width": 8, "heads": 4, "activation": "gelu_tanh", "dropout": 0.0, "window": 2}
    assert family.ours(given) == {"kind": "Kind", **options, "kv_heads": 4, "bias": True}
    # Of what a section leaves to be derived, the parameters tell the size.
    section = {"kind": "Kind", **options, "kv_heads": None, "bias": True, "deviation": 0.5}
    assert family.theirs(section, {"D": 8, "K": 2}) == {**given, "k": 2, "groups": 2}


def test_an_architecture_that_is_only_read_is_not_written(monkeypatch):
    model = GPT2(vocab=16, width=8, layers=2, heads=2)
    section, given = {"kind": "GPT2"}, parameters(model)
    read = [dataclasses.replace(family, saved=False) for family in names.families()]
    assert names.fitting(section, given).kind == "GPT2"
    monkeypatch.setattr(names, "families", lambda: tuple(read))
    with pytest.raises(UserError, match="no Hugging Face architecture"):
        names.fitting(section, given)


def test_nothing_is_computed_to_know_shapes():
    huge = GPT2(vocab=50257, width=12288, layers=96, heads=96)
    assert parameters(huge)["stack/blocks/mlp/up/kernel"].shape == (96, 12288, 49152)
    assert jnp.float32 == names.abstract(huge)["embedding"]["table"].value.dtype
