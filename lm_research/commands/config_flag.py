"""The flag --config: a config file, its knobs, the fields to replace; mistakes are one line."""

import re
import sys
import traceback
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_dict import placeholder
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from lm_research.config import EMPTY, OPTIONAL, known
from lm_research.errors import UserError

flags.disclaim_key_flags()  # the flag belongs to the command that defines it

PARSERS = {float: flags.FloatParser(), int: flags.IntegerParser(), bool: flags.BooleanParser()}


def define(values: flags.FlagValues = flags.FLAGS) -> None:
    """--config, and --config.FIELD for each field that a section states or its kind takes."""
    config_flags.DEFINE_config_file(
        "config",
        None,
        "a config file, with knobs after a colon: configs/gpt2_small.py:width=512; "
        "--config.FIELD=VALUE replaces one value",
        values,
    )
    values["config"].parser = ConfigFile("config")


class ConfigFile(ConfigFileFlagParser):
    """Reads the file, and refuses fields on the command line that its sections do not take."""

    def parse(self, argument: str) -> ConfigDict:
        """The config in the file `argument`, locked.

        Raises:
          UserError: the file, its knobs or a field to replace are wrong.
        """
        config = loaded(argument)
        # Like ml_collections, which defines a flag for each field that is replaced.
        arguments = sys.argv[1:]
        for given, following in zip(arguments, [*arguments[1:], ""]):
            if found := re.match(r"--?config\.([\w.]+)(?:=(.*))?$", given, re.DOTALL):
                declare(config, found[1])
                check(config, found[1], found[2], following)
        config.lock()
        return config


def loaded(argument: str) -> ConfigDict:
    """What get_config of the file returns.

    Args:
      argument: the file's path, perhaps with a colon and knobs.

    Raises:
      UserError: there is no such file, or it cannot be run.
    """
    name, _, arg = argument.partition(":")
    path = Path(name)
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise UserError(f"--config={argument}: {name or 'an empty path'} {what}")
    module = types.ModuleType("config")
    module.__file__ = name
    try:
        exec(compile(path.read_bytes(), name, "exec"), module.__dict__)
        if not callable(getattr(module, "get_config", None)):
            raise UserError(f"{path} has no function get_config(arg)")
        config = module.get_config(arg) if arg else module.get_config()
    except UserError:
        raise
    except Exception as error:  # whatever the user's code does
        raise UserError(f"{_place(path, error)}: {type(error).__name__}: {_line(error)}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"get_config of {path} returns {type(config).__name__}; "
            "it takes an ml_collections.ConfigDict"
        )
    with config.unlocked():
        for name, value in OPTIONAL.items():
            if name not in config:
                config[name] = ConfigDict(value) if isinstance(value, dict) else value
    return config


def dataset(name: str, split: str, fields: Mapping[str, str] | Literal["all"]) -> dict[str, Any]:
    """The section of a source that is a dataset of TFDS; `data_dir` is for the user to say."""
    return dict(kind="TFDS", name=name, split=split, data_dir=placeholder(str), fields=fields)


def declare(config: ConfigDict, field: str) -> None:
    """Adds `a.b.c` with its default, where the section leaves it out and its kind takes it."""
    *sections, last = field.split(".")
    for name in sections:
        config = config.get(name) if isinstance(config, ConfigDict) else None
    if isinstance(config, ConfigDict) and last not in config:
        own = left_out(config, ".".join(sections))
        if last in own:
            config[last] = own[last]


def left_out(section: ConfigDict, name: str) -> dict[str, Any]:
    """Scalars that the section `name` takes and the file does not state, with their defaults."""
    from lm_research.train.experiment import accepted

    takes = accepted(section, name)
    values = {field: _stated(*own) for field, own in takes.items() if field not in section}
    return {field: value for field, value in values.items() if value is not None}


def check(config: ConfigDict, field: str, value: str | None, following: str) -> None:
    """Refuses to replace `a.b.c` where the config has no such field, or by a value of another type.

    Args:
      config: the config.
      field: `a.b.c`.
      value: what stands behind the equals sign; None where there is none.
      following: the next argument, which is then the value, unless the field is a boolean.

    Raises:
      UserError: names the nearest field, or the type.
    """
    *sections, last = field.split(".")
    here = []
    for name in (*sections, last):
        if not isinstance(config, ConfigDict):
            raise UserError(
                f"--config.{field}: {'.'.join(here)} is {config!r}, not a section with fields"
            )
        path = ".".join(here)
        names = config.keys() if name in config else [*config.keys(), *left_out(config, path)]
        known(name, names, f"field of {'.'.join(['config', *here])}")
        section, config = config, config[name]
        here.append(name)
    kind = section.get_type(last)
    if value is None:
        value = "true" if kind is bool else following
    if isinstance(config, ConfigDict):
        raise UserError(
            f"--config.{field}={value}: {field} is a section; replace its fields, "
            f"such as --config.{field}.{next(iter(config), 'kind')}"
        )
    if kind in PARSERS:
        try:
            PARSERS[kind].parse(value)
        except (ValueError, TypeError):
            raise UserError(f"--config.{field}={value}: it takes {kind.__name__}") from None


def _stated(default: Any, hint: Any) -> Any:
    """A field's default, or a placeholder of its type; None for what is no number and no text."""
    choice = typing.get_origin(hint) in (typing.Union, types.UnionType, Literal)
    options = typing.get_args(hint) if choice else (hint,)
    kinds = {option if isinstance(option, type) else type(option) for option in options}
    if isinstance(default, bool | int | float | str):
        return float(default) if float in kinds and type(default) is int else default
    kind = next((kind for kind in (*PARSERS, str) if kind in kinds), None)
    return placeholder(kind) if kind is not None and default in (None, EMPTY) else None


def _place(path: Path, error: BaseException) -> str:
    """The file, and the line in it at which an error came up."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    if isinstance(error, SyntaxError) and error.lineno:
        lines = [error.lineno]
    return f"{path}, line {lines[-1]}" if lines else str(path)


def _line(error: Any) -> str:
    """An error's message on one line."""
    return " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split())
