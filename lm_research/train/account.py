"""`Account`: what the time since a run's first start went into, over all of its processes.

At every moment exactly one entry runs, so they add up to the whole. Clocks are monotonic: one that
is set changes nothing, unless it happens between two boots of the machine.
"""

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# What a moment is spent on, and what the watchdog says of it.
PLACES = {
    "start": "starting: data, checkpoint, compilation",
    "steps": "waiting for the device: a step, or a collective of it",
    "data": "waiting for data",
    "evaluation": "evaluating",
    "samples": "writing samples",
    "saving": "saving a checkpoint",
    "profile": "ending a trace",
}
LOST = "lost"  # steps that were made, and had to be made again
DOWN = "down"  # nothing ran


class Account:
    """Seconds by what they went into.

    Useful are those of `steps`: made once and kept. The first dispatch of a process, which is
    compiled, belongs to its start; waiting for data counts where the host waits, though the device
    may be at work.
    """

    def __init__(self):
        self.seconds = dict.fromkeys((*PLACES, LOST, DOWN), 0.0)
        self.starts = 1
        self.begun = time.monotonic()
        self.now = ("start", self.begun)  # what runs, and since when

    def switch(self, what: str) -> str:
        """Lets `what` run from now on; returns what ran."""
        before, since = self.now
        self.now = (what, time.monotonic())
        self.seconds[before] += self.now[1] - since
        return before

    @contextlib.contextmanager
    def during(self, what: str):
        """Lets `what` run within a block."""
        before = self.switch(what)
        try:
            yield
        finally:
            self.switch(before)

    def told(self) -> dict[str, Any]:
        """Numbers of a row: goodput, which is useful over all time, and under `time` the rest."""
        self.switch(self.now[0])
        seconds = {name: round(value, 3) for name, value in self.seconds.items()}
        useful, whole = self.seconds["steps"], sum(self.seconds.values())
        more = {"starts": self.starts, "clock": round(self.now[1], 3)}
        return {"goodput": useful / max(whole, 1e-9), "time": {**seconds, **more}}

    def carry(
        self, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], step: int, down: float
    ) -> None:
        """Adds what earlier processes of the run told, which goes on at `step`.

        Args:
          rows: of metrics, also those after `step`.
          facts: what facts.json says.
          step: to go on from.
          down: seconds since their last word, where the machine has been started again since.
        """
        told = [row["time"] for row in rows if "time" in row]
        told += [facts["time"]] if "time" in facts else []
        if not told:
            return
        last = max(told, key=lambda one: sum(one.get(name, 0.0) for name in self.seconds))
        same = facts.get("boot") == boot()
        for name in self.seconds:
            self.seconds[name] += last.get(name, 0.0)
        since = last["clock"] if same else time.monotonic() - down
        self.seconds[DOWN] += max(0.0, self.begun - since)
        self.starts += last["starts"]
        own, self.seconds["steps"] = self.seconds["steps"] - last["steps"], last["steps"]
        self.redo(rows, step)
        self.seconds["steps"] += own

    def redo(self, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        """Counts the time of the steps after `step` as lost."""
        known = [(0, 0.0)] + [(row["step"], row["time"]["steps"]) for row in rows if "time" in row]
        before = max((pair for pair in known if pair[0] <= step), key=lambda pair: pair[0])
        after = min((pair for pair in known if pair[0] > step), default=None)
        if after is None:  # nothing was told of them
            return
        share = (step - before[0]) / (after[0] - before[0])
        kept = before[1] + share * (after[1] - before[1])
        lost = max(0.0, self.seconds["steps"] - kept)
        self.seconds["steps"] -= lost
        self.seconds[LOST] += lost


def boot() -> str | None:
    """What tells one boot of this machine from another, since whose start monotonic clocks run."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.is_file() else None


def silent(path: Path) -> float:
    """Seconds since a file was written, by the clocks of wall and file system; 0 at least."""
    return max(0.0, time.time() - path.stat().st_mtime) if path.is_file() else 0.0
