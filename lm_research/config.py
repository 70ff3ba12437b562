"""A config declares an experiment as plain data; this turns each section into the object it names.

A section is a mapping with a `kind`: a name in the tables of contents (`__all__`) of the packages,
unique among them. Every other key is a parameter of that class or function, checked by name and
type; sections nest, in lists and mappings too. Because a config holds only data, the resolved one
is stored beside the checkpoint and read back without running any code from it.
"""

import difflib
import inspect
import json
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lm_research.errors import UserError

TOP = (
    "model objective data weights optimizer evals mesh seed steps batch init resume checkpoint log "
    "divergence reductions"
).split()

EMPTY = inspect.Parameter.empty  # the default of a parameter that must be given

# What a config file need not declare, with its defaults; sections all have one.
OPTIONAL = {"reductions": "fast", "divergence": {}}


def knobs(text: str | None, /, **defaults) -> types.SimpleNamespace:
    """`"width=256,steps=100"` over `defaults`, from which a config file derives other values."""
    values = dict(defaults)
    for pair in filter(None, (text or "").split(",")):
        name, equals, value = pair.partition("=")
        known(name, defaults, "knob")
        if not equals:
            raise UserError(f"knob {name!r} lacks a value; write {name}={defaults[name]}")
        values[name] = _knob_value(name, value, defaults[name])
    return types.SimpleNamespace(**values)


def parted(text: str | None, /, *without: str, **own) -> tuple[types.SimpleNamespace, str]:
    """`knobs` of a config's own, and the text of the others, for the config that it stands on.

    Args:
      text: of all.
      *without: those of the other config that this one has no use for.
      **own: its own, with their defaults.

    Raises:
      UserError: a knob is one that it has no use for, or a value is wrong.
    """
    given = list(filter(None, (text or "").split(",")))
    names = [pair.partition("=")[0] for pair in given]
    if idle := [name for name in names if name in without and name not in own]:
        raise UserError(f"the knob {idle[0]!r} is of another config, and does nothing in this one")
    mine = [pair for pair, name in zip(given, names) if name in own]
    return knobs(",".join(mine), **own), ",".join(pair for pair in given if pair not in mine)


def build(value: Any, contents: Mapping[str, Callable], path: str = "") -> Any:
    """`value` with every section in it replaced by the object that it names in `contents`.

    Args:
      value: plain data: scalars, lists, mappings, and mappings with a `kind`.
      contents: what a `kind` may name.
      path: where `value` stands in the config, for error messages.

    Raises:
      UserError: an unknown kind or field (names the nearest), a missing one, or a wrong type.
    """
    if isinstance(value, list | tuple):
        return tuple(build(item, contents, f"{path}[{i}]") for i, item in enumerate(value))
    if not isinstance(value, Mapping):
        return value
    if "kind" not in value:
        return {k: build(v, contents, f"{path}.{k}".lstrip(".")) for k, v in value.items()}
    kind = value["kind"]
    known(kind, contents, f"kind (at {path}.kind)")
    make = contents[kind]
    parameters, arguments = accepted(make), {}
    for name, given in value.items():
        if name == "kind":
            continue
        here = f"{path}.{name}".lstrip(".")
        known(name, parameters, f"field of {kind} (at {here})")
        _, hint = parameters[name]
        arguments[name] = checked(build(given, contents, here), hint, here)
        if name.endswith("dropout") and type(given) in (int, float) and not 0 <= given < 1:
            raise UserError(f"{here} is {given}; it takes a rate from 0 on, below 1")
    needed = [name for name, (default, _) in parameters.items() if default is EMPTY]
    missing = [name for name in needed if name not in arguments]
    if missing:
        raise UserError(f"{path} ({kind}) lacks {', '.join(missing)}")
    try:
        return make(**arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} ({kind}): {error}") from error


def accepted(make: Callable) -> dict[str, tuple[Any, Any]]:
    """Default and type of each parameter of what a kind names; `EMPTY` where it must be given."""
    signature = inspect.signature(make).parameters
    linens_own = ("parent", "name") if "parent" in signature else ()
    hints = typing.get_type_hints(make if inspect.isfunction(make) else make.__init__)
    return {
        name: (parameter.default, hints.get(name, Any))
        for name, parameter in signature.items()
        if name not in linens_own
    }


def checked(value: Any, hint: Any, path: str) -> Any:
    """`value`, if it is of type `hint`; an int is also a float.

    Raises:
      UserError: it is not; says where, what was given and what is accepted.
    """
    from beartype.door import is_bearable
    from beartype.roar import BeartypeDecorHintException

    if type(value) is int and is_bearable(1.5, hint):
        value = value if is_bearable(value, hint) else float(value)
    try:
        fits = is_bearable(value, hint)
    except BeartypeDecorHintException:  # an annotation that beartype cannot read accepts anything
        fits = True
    if not fits:
        raise UserError(f"{path} is {value!r}; it takes {_readable(hint)}")
    return value


def known(name: str, names: Iterable[str], what: str) -> None:
    """Refuses a `name` that is not among `names`, naming the nearest.

    Raises:
      UserError: `name` is unknown.
    """
    names = list(names)
    if name in names:
        return
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(names)) or 'none'}"
    raise UserError(f"no {what} is called {name!r}; {hint}")


def at_least(settings: Any, where: str, least: int, *names: str) -> None:
    """Refuses settings of which one of the fields `names` is less than `least`.

    Raises:
      UserError: names the field.
    """
    for name in names:
        if (value := getattr(settings, name)) < least:
            here = f"{where}.{name}".lstrip(".")
            raise UserError(f"{here} is {value}; it takes a number from {least} on")


def plain(config: Any) -> Any:
    """A ConfigDict as plain data: dicts, lists and scalars, as JSON would give it back."""
    config = config.to_dict() if hasattr(config, "to_dict") else config
    if isinstance(config, Mapping):
        return {key: plain(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [plain(value) for value in config]
    return config


def canonical(config: Mapping) -> str:
    """The text by which two configs are the same run."""
    return json.dumps(plain(config), sort_keys=True, separators=(",", ":"))


def differences(old: Mapping, new: Mapping, path: str = "") -> list[str]:
    """One line for each value in which two plain configs differ: `a.b: 1 -> 2`."""
    lines = []
    for key in sorted(set(old) | set(new)):
        here = f"{path}.{key}".lstrip(".")
        was, now = old.get(key, "(absent)"), new.get(key, "(absent)")
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            lines += differences(was, now, here)
        elif was != now:
            lines.append(f"{here}: {was} -> {now}")
    return lines


def _knob_value(name: str, text: str, default: Any) -> Any:
    kind = type(default)
    if kind is bool:
        known(text.lower(), ("true", "false", "1", "0", "yes", "no"), f"value of the knob {name!r}")
        return text.lower() in ("true", "1", "yes")
    try:
        return text if default is None else kind(text)
    except ValueError:
        raise UserError(f"knob {name}={text!r} is not of type {kind.__name__}") from None


def _readable(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
