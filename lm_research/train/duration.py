"""How long a run takes: steps from epochs, and what a config gives as a share of them."""

import math
from collections.abc import Mapping
from typing import Any

from lm_research.errors import UserError

# What may be a share of the run, and in which sections.
SHARES, SECTIONS = ("warmup", "every"), ("optimizer", "evals", "checkpoint", "log")
PROVISIONAL = 1000  # steps of a run whose data nobody has counted yet


def steps_of(resolved: Mapping[str, Any], records: int) -> int:
    """The steps of a run on so many records."""
    epochs = resolved["batch"].get("epochs")
    if epochs is None:
        return resolved["steps"]
    return max(1, math.ceil(epochs * records / resolved["batch"]["size"]))


def timed(resolved: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """A config with its steps, and shares of the run as numbers of steps.

    Raises:
      UserError: a share is none.
    """
    in_steps = {name: _in_steps(resolved[name], steps, name) for name in SECTIONS}
    return {**resolved, **in_steps, "steps": steps}


def _in_steps(value: Any, steps: int, path: str) -> Any:
    if isinstance(value, Mapping):
        return {name: _in_steps(given, steps, f"{path}.{name}") for name, given in value.items()}
    if type(value) is not float or path.rpartition(".")[2] not in SHARES:
        return value
    if value >= 1 and value.is_integer():  # what a flag makes of a number where a share was
        return int(value)
    if not 0 < value < 1:
        raise UserError(
            f"{path} is {value}; it takes a number of steps, or a share of the run between 0 and 1"
        )
    return max(1, round(value * steps))
