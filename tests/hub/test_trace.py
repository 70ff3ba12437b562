"""Changed in one parameter, a model parts from its reference where that parameter is."""

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import pytest

from lm_research import mesh, tree
from lm_research.hub import load, names, save, trace
from lm_research.hub.cases import Case, cases
from lm_research.hub.names import Tensor
from lm_research.hub.reference import Reference
from lm_research.hub.trace import Point, parting

pytest.importorskip("torch", reason="the reference is torch's: install the extra `verify`")
pytest.importorskip("transformers", reason="it is the reference: extra `verify`")

SIZES = {"vocab": 61, "width": 16, "layers": 2, "heads": 4, "hidden": 24}
SECTIONS = {
    "ALBERT": {"kind": "ALBERT", **SIZES, "embedding": 8, "context": 24},
    "BERT": {"kind": "BERT", **SIZES, "context": 24},
    "GPTNeoX": {"kind": "GPTNeoX", **SIZES, "heads": 2},
    "Llama": {"kind": "Llama", **SIZES, "kv_heads": 2, "head_norms": True},
    "ModernBERT": {"kind": "ModernBERT", **SIZES, "layers": 5},
    "T5": {"kind": "T5", **SIZES, "head": 4},
}
TOLERANCE = 1e-4


@dataclasses.dataclass
class Pair:
    """A model of ours, and the same in `transformers`."""

    reference: Reference
    model: nn.Module
    params: Any
    layout: Mapping[str, Tensor]
    cases: Mapping[str, Case]

    def points(self, case: str = "padding left", **changed) -> list[Point]:
        """Activations of both, where some of ours are of changed parameters."""
        params = tree.map_named(lambda path, leaf: changed.get(path, leaf), self.params)
        with mesh.single():
            return trace.points(self.reference, self.model, params, self.cases[case], self.layout)

    def parted(self, path: str, layer: int | None = None) -> tuple[Point, Point | None]:
        """Where they part after a parameter of ours, or a layer of it, has grown by half."""
        leaf = tree.named_leaves(self.params)[path]
        grown = leaf * 1.5 if layer is None else leaf.at[layer].multiply(1.5)
        return parting(self.points(**{path: grown}), TOLERANCE)


@pytest.fixture(scope="module")
def pair(drawn, tmp_path_factory):
    """Makes the pair of a section, once."""

    @functools.cache
    def made(kind):
        directory = tmp_path_factory.mktemp(kind) / "stored"
        model, params = drawn(SECTIONS[kind])
        params = jax.tree.map(lambda leaf: 0.5 * leaf, params)
        save.save(directory, SECTIONS[kind], params)
        family = load.family(directory)
        layout = names.layout(family, names.parameters(names.abstract(model)))
        inputs = cases(model, batch=2, length=8, context=getattr(model, "context", None))
        return Pair(
            Reference(directory, family.architecture),
            model,
            params,
            {family.written(name): tensor for name, tensor in layout.items()},
            {case.name: case for case in inputs},
        )

    return made


@pytest.mark.parametrize("kind", SECTIONS)
def test_equal_models_agree_in_all_that_both_have(pair, kind):
    pair = pair(kind)
    for case in ("padding left", "packed") if kind in ("BERT", "T5") else ("padding left",):
        points = pair.points(case)
        assert max(point.difference for point in points) < 1e-5, parting(points, TOLERANCE)
        found = {point.theirs for point in points}
        owners = {name.rpartition(".")[0] for name in pair.layout if re.search(r"\.\d+\.", name)}
        owners = {name for name in owners if not name.endswith("relative_attention_bias")}
        layers = {re.match(r".*?\.\d+", name)[0] for name in owners}
        first = {f"{name} input" for name in layers if name.endswith(".0")}
        assert found >= owners | layers | first | {"logits"}


WITHIN = [
    ("BERT", "attention/query/kernel", "bert.encoder.layer.1.attention.self.query"),
    ("BERT", "attention/value/bias", "bert.encoder.layer.1.attention.self.value"),
    ("BERT", "attention_norm/scale", "bert.encoder.layer.1.attention.output.LayerNorm"),
    ("BERT", "mlp/down/kernel", "bert.encoder.layer.1.output.dense"),
    ("GPTNeoX", "attention/key/kernel", "gpt_neox.layers.1.attention.query_key_value"),
    ("GPTNeoX", "mlp_norm/scale", "gpt_neox.layers.1.post_attention_layernorm"),
    ("GPTNeoX", "mlp/up/bias", "gpt_neox.layers.1.mlp.dense_h_to_4h"),
    ("Llama", "attention/key_norm/scale", "model.layers.1.self_attn.k_norm"),
    ("Llama", "attention/out/kernel", "model.layers.1.self_attn.o_proj"),
    ("Llama", "mlp/gate/kernel", "model.layers.1.mlp.gate_proj"),
    ("T5", "encoder/attention/value/kernel", "encoder.block.1.layer.0.SelfAttention.v"),
    ("T5", "encoder/mlp/up/kernel", "encoder.block.1.layer.1.DenseReluDense.wi_1"),
    ("T5", "decoder/cross/key/kernel", "decoder.block.1.layer.1.EncDecAttention.k"),
    ("T5", "decoder/mlp_norm/scale", "decoder.block.1.layer.2.layer_norm"),
]


@pytest.mark.parametrize("kind, changed, theirs", WITHIN)
def test_a_parameter_of_layer_1_is_named(pair, kind, changed, theirs):
    path = re.sub("^(encoder/|decoder/|)", r"\1stack/blocks/", changed)
    point, before = pair(kind).parted(path, layer=1)
    assert (point.theirs, point.layer) == (theirs, 1)
    assert path.rpartition("/")[0] in point.ours.split(" + ")
    assert point.difference > TOLERANCE and before.difference < 1e-5
    assert str(point).startswith(f"layer 1: {theirs} (ours: {point.ours}), by ")


def test_layers_of_several_kinds_are_counted_together(pair):
    """Its first layer stands alone, and three that take turns come after it, and begin again."""
    point, _ = pair("ModernBERT").parted("stack/blocks_2/attention/value/kernel", layer=0)
    assert (point.layer, point.theirs) == (3, "model.layers.3.attn.Wqkv")
    point, _ = pair("ModernBERT").parted("stack/rest_0/mlp/up/kernel", layer=0)
    assert (point.layer, point.theirs) == (4, "model.layers.4.mlp.Wi")


OUTSIDE = [
    ("BERT", "embedding/table", "bert.embeddings.LayerNorm", "embedding_norm"),
    ("BERT", "transform/kernel", "logits", "logits"),
    ("GPTNeoX", "embedding/table", "gpt_neox.layers.0 input", "embedded"),
    ("GPTNeoX", "norm/bias", "gpt_neox.final_layer_norm", "norm"),
    ("T5", "embedding/table", "encoder.block.0 input", "encoder/embedded"),
    ("T5", "encoder/norm/scale", "encoder.final_layer_norm", "encoder/norm"),
    ("T5", "decoder/head/table", "logits", "logits"),
]


@pytest.mark.parametrize("kind, path, theirs, ours", OUTSIDE)
def test_what_is_outside_of_layers_is_named(pair, kind, path, theirs, ours):
    point, _ = pair(kind).parted(path)
    assert (point.theirs, point.ours, point.layer) == (theirs, ours, None)


def test_what_no_module_gives_shows_in_the_next_that_does(pair):
    """A bias of scores: queries, keys and values agree, but not what comes of them."""
    point, before = pair("T5").parted("decoder/position/table")
    assert point.theirs == "decoder.block.0.layer.0.SelfAttention.o"
    assert re.fullmatch(r"decoder\.block\.0\.layer\.0\.SelfAttention\.[qkv]", before.theirs)


def test_the_first_jump_counts_then_the_tolerance_then_the_largest():
    points = lambda *found: [Point(f"m{i}", f"o{i}", None, x) for i, x in enumerate(found)]
    named = lambda *found: parting(points(*found), TOLERANCE)[0].theirs
    assert named(1e-7, 2e-6, 3e-5, 0.4) == "m2"  # tenfold, though within the tolerance
    assert named(5e-6, 4e-5, 3e-4, 2e-3) == "m2"  # it grows slowly, and passes the tolerance
    assert named(5e-6, 9e-6, 7e-6) == "m1"
    assert named(1e-7, float("inf"), 0.1) == "m1"
    point, before = parting(points(0.1, 0.2), TOLERANCE)
    assert (point.theirs, before) == ("m0", None)
    assert parting(points(1e-7, 0.2), TOLERANCE)[1].theirs == "m0"
