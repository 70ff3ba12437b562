"""Runs of an experiment as processes of their own: trained for so long, and then evaluated."""

import argparse
import contextlib
import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lm_research import log
from lm_research.errors import RESUME, UserError, exit_status


def program(main: Callable[[], int | None]) -> None:
    """Runs the main function of a script; a user's mistake is one line, and its exit status."""
    from absl import flags

    flags.FLAGS.mark_as_parsed()  # Grain asks
    sys.exit(exit_status(Path(sys.argv[0]).name, main))


def parser(doc: str) -> argparse.ArgumentParser:
    """A parser of a script's flags, whose help is the script's docstring as it stands."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def data_folder() -> Path:
    """The folder with the data sets that experiments are made on.

    Raises:
      UserError: nothing says where it is.
    """
    if not (folder := os.environ.get("LM_RESEARCH_DATA")):
        raise UserError("LM_RESEARCH_DATA is not set; it takes the folder with the data sets")
    return Path(folder)


@dataclasses.dataclass(frozen=True)
class Minutes:
    """How long a run has been trained, in all calls of `trained`.

    Attributes:
      wall: minutes by the clock.
      cores: of all cores together.
      finished: whether the run is at its end.
    """

    wall: float = 0.0
    cores: float = 0.0
    finished: bool = False

    @classmethod
    def of(cls, workdir: Path) -> "Minutes":
        """Those of a run; none where it has not begun."""
        path = workdir / "minutes.json"
        return cls(**json.loads(path.read_text())) if path.is_file() else cls()


def trained(workdir: Path, minutes: float, config: str, *fields: str) -> Minutes:
    """Trains a run for so long, or to its end.

    Args:
      workdir: of the run, which goes on where it stopped.
      minutes: at most, in all calls together.
      config: a file, with knobs.
      *fields: such as `--config.seed=1`.

    Returns:
      How long it has been trained in all calls.

    Raises:
      SystemExit: the run failed.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    before = Minutes.of(workdir)
    if before.wall >= minutes:
        return before
    start, cores = time.monotonic(), _core_seconds()
    command = [sys.executable, "-m", "lm_research", "train", f"--config={config}"]
    # Not of this group: Control-C comes to it once, from here.
    process = subprocess.Popen([*command, f"--workdir={workdir}", *fields], process_group=0)
    with _passed_on(process) as told:
        try:
            process.wait(60 * (minutes - before.wall))
        except subprocess.TimeoutExpired:
            process.terminate()  # it saves, and the next call goes on from there
            process.wait()
    if process.returncode not in (0, RESUME, -signal.SIGTERM):  # the last, before it has begun
        raise SystemExit(f"{workdir}: train exited with status {process.returncode}")
    total = Minutes(
        before.wall + (time.monotonic() - start) / 60,
        before.cores + (_core_seconds() - cores) / 60,
        process.returncode == 0,
    )
    log.write_text(workdir / "minutes.json", json.dumps(dataclasses.asdict(total)))
    if told:
        raise SystemExit(f"{workdir}: stopped; the same command goes on")
    return total


@contextlib.contextmanager
def _passed_on(process: subprocess.Popen):
    """A block in which what tells this process to stop tells another one; gives what has come."""
    told: list[int] = []

    def tell(number: int, frame: Any) -> None:
        told.append(number)
        process.terminate()

    names = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
    before = {number: signal.signal(number, tell) for number in names}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _core_seconds() -> float:
    """What processes that this one has started, and that have ended, took of all cores."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def spent(workdir: Path) -> str:
    """How long a run has been trained, in words: `2,000 steps, 67 minutes`."""
    return f"{log.rows(workdir)[-1]['step']:,} steps, {Minutes.of(workdir).wall:.0f} minutes"


def evaluated(workdir: Path, *flags: str) -> tuple[dict[str, float], list[str]]:
    """What `evaluate` prints of a run, given such flags as `--part=test`.

    Returns:
      Numbers by name, and the lines that say by which program, such as sacreBLEU, they are.
    """
    command = [sys.executable, "-m", "lm_research", "evaluate", f"--checkpoint={workdir}"]
    found = subprocess.run([*command, *flags], check=True, capture_output=True, text=True).stdout
    numbers, signatures = {}, []
    for line in found.splitlines():
        name, colon, value = line.partition(": ")
        if " by " in line:
            signatures.append(line)
        elif colon:
            numbers[name.replace(" ", "_")] = float(value.split()[0])
    return numbers, signatures
