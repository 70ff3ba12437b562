"""What a config.json says of rotary positions, and how it is said of ours."""

import math
from collections.abc import Mapping
from typing import Any

from lm_research.config import build
from lm_research.errors import UserError
from lm_research.layers import DynamicNTK, LinearScaling, Llama3Scaling, LongRoPE, YaRN
from lm_research.layers.scaling import yarn_magnitude

LENGTH, CONTEXT = "original_max_position_embeddings", "max_position_embeddings"
ROPE_TYPES = {  # theirs, and their names of our settings
    LinearScaling: ("linear", {"factor": "factor"}),
    Llama3Scaling: (
        "llama3",
        {
            "factor": "factor",
            "low": "low_freq_factor",
            "high": "high_freq_factor",
            "length": LENGTH,
        },
    ),
    DynamicNTK: ("dynamic", {"factor": "factor"}),
    LongRoPE: (
        "longrope",
        {
            **{"short": "short_factor", "long": "long_factor", "length": LENGTH},
            "magnitude": "attention_factor",
        },
    ),
    YaRN: (
        "yarn",
        {
            **{"factor": "factor", "length": LENGTH, "fast": "beta_fast", "slow": "beta_slow"},
            **{"magnitude": "attention_factor", "truncate": "truncate"},
        },
    ),
}
SCALINGS = {kind.__name__: kind for kind in ROPE_TYPES}
NEEDED = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "longrope": ("short_factor", "long_factor"),
}

# Keys of a config.json that `rotary` reads, with what stands for them where they are absent.
DEFAULTS = {
    "rope_theta": 10_000.0,
    "rope_parameters": None,
    "rope_scaling": None,
    "max_position_embeddings": 2048,
}


def rotary(config: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Base and scaling, as a section has them.

    Args:
      config: has the keys of `DEFAULTS`; since transformers 5 `rope_parameters` says it all, unless
        there is an older `rope_scaling` beside it, which then counts.
      given: what says it instead, where layers differ.

    Raises:
      UserError: a scaling that is not known, or not whole.
    """
    rope = dict(given or config["rope_scaling"] or config["rope_parameters"] or {})
    kind = rope.pop("rope_type", rope.pop("type", "default"))
    rope.pop("type", None)
    base = float(rope.pop("rope_theta", config["rope_theta"]))
    context = config[CONTEXT]
    length = rope.pop(LENGTH, None) or config.get(LENGTH) or context
    needed = NEEDED.get(kind, ())
    if missing := [name for name in needed if name not in rope]:
        raise UserError(f"config.json's rope_type {kind!r} lacks {', '.join(missing)}")
    values = [rope.pop(name) for name in needed]
    if kind == "default":
        scaling = None
    elif kind == "linear":
        scaling = {"kind": "LinearScaling", "factor": float(values[0])}
    elif kind == "dynamic":
        scaling = {"kind": "DynamicNTK", "factor": float(values[0]), "length": context}
    elif kind == "llama3":
        names = dict(zip(("factor", "low", "high"), map(float, values)))
        scaling = {"kind": "Llama3Scaling", **names, "length": length}
    elif kind == "longrope":
        scaling = _longrope(rope, values, length, context)
    elif kind == "yarn":
        scaling = _yarn(rope, length, context)
    else:
        raise UserError(
            f"config.json scales rotary positions by rope_type {kind!r}; "
            "it takes default, linear, dynamic, llama3, longrope or yarn"
        )
    if rope:
        raise UserError(f"config.json scales rotary positions ({kind}) by {rope}, which is unknown")
    return {"base": base, "scaling": scaling}


def _longrope(
    rope: dict[str, Any], factors: list[list[float]], length: int, context: int
) -> dict[str, Any]:
    """The section of a LongRoPE, whose keys are taken out of `rope`."""
    factor, magnitude = (
        rope.pop("factor", None) or context / length,
        rope.pop("attention_factor", 0),
    )
    if not magnitude:  # Ding et al. (2024), section 4.2 of Phi-3's report
        magnitude = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(length))
    short, long = ([float(x) for x in one] for one in factors)
    return {
        "kind": "LongRoPE",
        "short": short,
        "long": long,
        "length": length,
        "magnitude": float(magnitude),
    }


def _yarn(rope: dict[str, Any], length: int, context: int) -> dict[str, Any]:
    """The section of a YaRN, whose keys are taken out of `rope`."""
    named = ("factor", "attention_factor", "mscale", "mscale_all_dim", "beta_fast", "beta_slow")
    factor, magnitude, one, all_, fast, slow = (rope.pop(name, None) for name in named)
    factor = context / length if factor is None else float(factor)
    if magnitude is None and one and all_:
        magnitude = yarn_magnitude(factor, one) / yarn_magnitude(factor, all_)
    elif magnitude is None:
        magnitude = yarn_magnitude(factor)
    return {
        "kind": "YaRN",
        "factor": factor,
        "length": length,
        "fast": float(fast or 32),
        "slow": float(slow or 1),
        "magnitude": float(magnitude),
        "truncate": bool(rope.pop("truncate", True)),
    }


def rope_parameters(base: float, scaling: Mapping[str, Any] | None) -> dict[str, Any]:
    """Theirs, of a section's base and scaling."""
    found = {"rope_type": "default", "rope_theta": base}
    if scaling is not None:
        scaling = build(scaling, SCALINGS, "model.scaling")
        found["rope_type"], theirs = ROPE_TYPES[type(scaling)]
        found |= {name: getattr(scaling, ours) for ours, name in theirs.items()}
    return found


def rope_config(section: Mapping[str, Any]) -> dict[str, Any]:
    """What a config.json says of a section's `base`, `scaling` and, if it has one, `fraction`."""
    scaling = section["scaling"]
    found = {"rope_parameters": rope_parameters(section["base"], scaling)}
    if "fraction" in section:
        found["rope_parameters"]["partial_rotary_factor"] = section["fraction"]
    if scaling is not None and scaling["kind"] == "DynamicNTK":
        found[CONTEXT] = scaling["length"]  # which grows from there on
    return found
