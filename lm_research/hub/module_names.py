"""What `peft` is told of modules: which are saved whole, and how few words tell some of them."""

from collections.abc import Mapping
from typing import Any

from lm_research.errors import UserError
from lm_research.hub import names, safetensors


def modules_to_save(layout: Mapping[str, names.Tensor], paths: set[str]) -> list[str]:
    """The modules that `paths` are all parameters of.

    Raises:
      UserError: they are a part of one, or in none.
    """
    of = lambda tensor: {part.ours for part in tensor.parts if part.stored}
    kept = {name.rpartition(".")[0] for name, tensor in layout.items() if of(tensor) & paths}
    have = set()
    for name, tensor in layout.items():
        if name.rpartition(".")[0] in kept:
            have |= of(tensor)
    if "" in kept or have != paths:
        raise UserError(
            f"the run trained {safetensors.listed(sorted(paths))} besides factors, and PEFT saves "
            f"whole modules: these would be {safetensors.listed(sorted(have)) or 'none'}"
        )
    return _outermost(kept, layout)


def _outermost(kept: set[str], layout: Mapping[str, names.Tensor]) -> list[str]:
    """Modules, and in the place of those that are all of another one, such as a head, that one.

    PEFT takes a head whole for tasks that have one, and no module that is within another.
    """
    whole = lambda outer: all(
        name.rpartition(".")[0] in kept for name in layout if name.startswith(f"{outer}.")
    )
    return sorted({next(filter(whole, enclosing(f"{name}.weight")), name) for name in kept})


def enclosing(name: str) -> list[str]:
    """The modules that a tensor is in, the outermost first."""
    words = name.split(".")
    return [".".join(words[:count]) for count in range(1, len(words))]


def suffix(name: str, values: Mapping[str, Any], value: Any) -> str:
    """The last words of a module's name that no module ends with that has another value."""
    words = name.split(".")
    for count in range(1, len(words)):
        ending = ".".join(words[-count:])
        alike = [v for other, v in values.items() if f".{other}".endswith(f".{ending}")]
        if not ending.isdecimal() and all(v == value for v in alike):
            return ending
    return name
