"""The flags that make a process one of several of a run; launchers may set the environment."""

import os
from typing import Any

from absl import flags

from lm_research.errors import UserError

flags.disclaim_key_flags()  # the flags belong to the command that defines them

NAMES = ("coordinator", "processes", "process")


def define() -> None:
    """--coordinator, --processes, --process, --connect_seconds, --peer_seconds."""
    flags.DEFINE_string(
        "coordinator",
        None,
        "HOST:PORT at which process 0 listens, for a run of several processes; auto for what a "
        "TPU pod, Slurm, Open MPI or Kubernetes tells (also LM_RESEARCH_COORDINATOR)",
    )
    flags.DEFINE_integer("processes", None, "how many processes (also LM_RESEARCH_PROCESSES)")
    flags.DEFINE_integer("process", None, "which one this is, from 0 (also LM_RESEARCH_PROCESS)")
    flags.DEFINE_float("connect_seconds", 300, "how long processes wait for each other to start")
    flags.DEFINE_float("peer_seconds", 30, "without a beat, after which a process counts as lost")


def place(values: flags.FlagValues) -> Any:
    """This process's place among those of its run; None where it is the only one.

    Raises:
      UserError: flags and environment do not make one.
    """
    from lm_research.train.processes import place_of

    coordinator, processes, process = (
        _environment(name) if values[name].value is None else values[name].value for name in NAMES
    )
    return place_of(coordinator, processes, process, values.connect_seconds, values.peer_seconds)


def _environment(name: str) -> str | int | None:
    variable = f"LM_RESEARCH_{name.upper()}"
    text = os.environ.get(variable) or None
    if text is None or name == "coordinator":
        return text
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{variable}={text}; it takes a number") from None
