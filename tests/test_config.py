"""Configs: knobs, kinds, types, one clear line for each mistake."""

import dataclasses
from typing import Literal

import pytest

from lm_research import config
from lm_research.errors import UserError
from lm_research.train import experiment


@dataclasses.dataclass(frozen=True)
class Inner:
    size: int = 1
    attention_dropout: float = 0.0


@dataclasses.dataclass(frozen=True)
class Outer:
    rate: float
    inner: Inner = Inner()
    shape: Literal["round", "square"] = "round"
    names: tuple[str, ...] = ()


CONTENTS = {"Inner": Inner, "Outer": Outer}


def test_what_a_file_need_not_declare_has_the_defaults_of_what_it_makes():
    fields = {field.name: field for field in dataclasses.fields(experiment.Experiment)}
    for name, given in experiment._with_optional({}).items():
        made = fields[name].default_factory
        default = fields[name].default if made is dataclasses.MISSING else made()
        assert experiment.part({name: given}, name) == default


def test_a_default_that_is_written_out_is_no_other_config():
    model = {"kind": "GPT2", "vocab": 300, "width": 16, "layers": 2, "heads": 2}
    file = {"kind": "TextFiles", "paths": "a.txt"}

    def given(file, **more):
        source = {"kind": "Mix", "sources": [file], "weights": [1.0]}
        return {"model": {**model, **more}, "data": {"kind": "Documents", "source": source}}

    old, new = given(file), given({**file, "field": "text"}, remat="none", dropout=0.0)
    assert experiment.changed(old, new) == experiment.changed(new, old) == []
    assert experiment.changed(old, given(file, remat="full")) == ["model.remat: none -> full"]
    assert len(experiment.changed(old, given({**file, "field": "title"}))) == 1


def test_build_nests_and_converts():
    built = config.build(
        dict(kind="Outer", rate=1, inner=dict(kind="Inner", size=3), names=["a"]), CONTENTS, "x"
    )
    assert built == Outer(1.0, Inner(3), names=("a",)) and isinstance(built.rate, float)


@pytest.mark.parametrize(
    "given, message",
    [
        (dict(kind="Outr", rate=1.0), "x.kind.*'Outr'.*did you mean 'Outer'"),
        (dict(kind="Outer", rat=1.0), "'rat'.*did you mean 'rate'"),
        (dict(kind="Outer", rate="fast"), "x.rate is 'fast'; it takes float"),
        (dict(kind="Outer"), "lacks rate"),
        (dict(kind="Outer", rate=1.0, inner=dict(kind="Inner", size=0.5)), "x.inner.size is 0.5"),
        (dict(kind="Outer", rate=1.0, shape="oval"), "x.shape is 'oval'.*round"),
        (
            dict(kind="Inner", attention_dropout=1),
            "x.attention_dropout is 1; it takes a rate from 0",
        ),
        (
            dict(kind="Inner", attention_dropout=-0.1),
            "x.attention_dropout is -0.1; it takes a rate",
        ),
    ],
)
def test_mistakes_are_named(given, message):
    with pytest.raises(UserError, match=message):
        config.build(given, CONTENTS, "x")


def test_knobs():
    knob = config.knobs("width=32,name=a,fast=true", width=1, name="", fast=False, rate=0.5)
    assert (knob.width, knob.name, knob.fast, knob.rate) == (32, "a", True, 0.5)
    for text, message in [
        ("widht=3", "did you mean 'width'"),
        ("width=wide", "not of type int"),
        ("width", "lacks a value"),
        ("fast=perhaps", "no value"),
    ]:
        with pytest.raises(UserError, match=message):
            config.knobs(text, width=1, fast=False)


def test_same_run_is_same_canonical_text():
    a, b = dict(x=(1, 2), y=dict(z=1)), dict(y=dict(z=1), x=[1, 2])
    assert config.canonical(a) == config.canonical(b)
    assert config.differences(config.plain(a), config.plain(dict(b, y=dict(z=2)))) == [
        "y.z: 1 -> 2"
    ]
