"""Runs of an experiment as processes of their own: trained for so long, and then evaluated."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from lm_research import log


def trained(workdir: Path, minutes: float, config: str, *fields: str) -> float:
    """Trains a run for so long, or to its end; the minutes it has been trained for in all.

    Args:
      workdir: of the run, which goes on where it stopped.
      minutes: at most, in all calls together.
      config: a file, with knobs.
      *fields: such as `--config.seed=1`.

    Raises:
      SystemExit: the run failed.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    spent = workdir / "minutes.json"
    before = json.loads(spent.read_text()) if spent.is_file() else 0.0
    if before >= minutes:
        return before
    start = time.monotonic()
    command = [sys.executable, "-m", "lm_research", "train", f"--config={config}"]
    process = subprocess.Popen([*command, f"--workdir={workdir}", *fields])
    try:
        process.wait(60 * (minutes - before))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # it saves, and the next call goes on from there
        process.wait()
    if process.returncode not in (0, 75):
        raise SystemExit(f"{workdir}: train exited with status {process.returncode}")
    total = before + (time.monotonic() - start) / 60
    log.write_text(spent, json.dumps(total))
    return total


def spent(workdir: Path) -> str:
    """How long a run has been trained, in all calls of `trained`: `2,000 steps, 67 minutes`."""
    minutes = json.loads((workdir / "minutes.json").read_text())
    return f"{log.rows(workdir)[-1]['step']:,} steps, {minutes:.0f} minutes"


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
