"""Two processes on one machine are one run, also when one of them is lost or told to stop."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lm_research.errors import RESTART, RESUME

ROOT = Path(__file__).parents[2]


class Runs:
    """Runs of one experiment, of two processes each."""

    def __init__(self, directory):
        self.directory = directory
        self.text = directory / "text.txt"
        self.text.write_text("The cat sat. A bird flew over it, and over me.\n" * 60)

    def flags(self, name, samples=2):
        return [
            f"--config={ROOT / 'tests' / 'tiny.py'}:steps=6,every=2",
            f"--config.data.source.paths={self.text}",
            f"--config.log.samples.every={samples}",
            f"--workdir={self.directory / name}",
        ]

    def started(self, name, **more):
        """The two processes."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
        environment |= {"PYTHONPATH": str(ROOT), "GLIBC_TUNABLES": ""}
        environment |= {"LM_RESEARCH_COORDINATOR": f"127.0.0.1:{port}"}
        command = [sys.executable, "-m", "lm_research", "train", *self.flags(name, **more)]
        return [
            subprocess.Popen(
                [*command, "--processes=2", f"--process={number}"],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for number in range(2)
        ]

    def losses(self, name):
        path = self.directory / name / "metrics.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return [row.get("loss", row.get("heldout/loss")) for row in rows]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("processes"))


@pytest.fixture
def straight(runs, command):
    """The losses of a run of one process that nothing happened to."""
    if not (runs.directory / "straight").exists():
        assert command("train", *runs.flags("straight"))[0] == 0
    return runs.losses("straight")


def ended(processes, *statuses):
    """What all of them printed."""
    printed = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == list(statuses), printed
    assert not any("Traceback" in text or "*** Check failure" in text for text in printed), printed
    return printed


def when(process, there):
    """Waits until something is there, and while the process lives."""
    while process.poll() is None and not there():
        time.sleep(0.01)


def test_one_of_two_is_killed_and_the_run_finishes_on_one(runs, straight, command):
    """Process 1 dies behind the first save; what two have made goes on, on other devices."""
    processes = runs.started("killed")
    when(processes[0], (runs.directory / "killed" / "checkpoints" / "2").exists)
    processes[1].kill()
    begun = time.monotonic()
    printed = ended(processes, RESTART, -signal.SIGKILL)
    assert time.monotonic() - begun < 30
    assert "lm_research: process 1 on " in printed[0] and "is gone" in printed[0]
    fault = json.loads((runs.directory / "killed" / "faults.jsonl").read_text())
    assert fault["process"] == 1
    status, _, err = command("train", *runs.flags("killed"))
    assert status == 0 and "going on at step" in err
    np.testing.assert_allclose(runs.losses("killed"), straight, rtol=1e-5)
    for name in ("samples.md", "config.json"):
        same = [(runs.directory / run / name).read_text() for run in ("killed", "straight")]
        assert same[0] == same[1]


def test_one_of_two_is_told_to_stop_while_both_compile(runs, straight):
    """Both stop at the same step and save; then both go on, and end well."""
    processes = runs.started("stopped", samples=0)
    when(processes[0], (runs.directory / "stopped" / "config.json").exists)
    processes[1].send_signal(signal.SIGTERM)
    printed = ended(processes, RESUME, RESUME)
    [saved] = (runs.directory / "stopped" / "checkpoints").iterdir()
    assert f"stopped at step {saved.name} of 6" in printed[0] and int(saved.name) < 3
    printed = ended(runs.started("stopped", samples=0), 0, 0)
    assert f"going on at step {saved.name}" in printed[0] and "going on" not in printed[1]
    np.testing.assert_allclose(runs.losses("stopped"), straight, rtol=1e-5)
