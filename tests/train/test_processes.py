"""Two processes on one machine are one run: the same losses, texts and checkpoints."""

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

from lm_research.train.loop import RESUME

ROOT = Path(__file__).parents[2]

# `python -c MAIN NUMBER COUNT PORT train --flags`, one of COUNT processes.
MAIN = """
import sys
import jax
from lm_research.__main__ import main

number, count, port = map(int, sys.argv[1:4])
jax.config.update("jax_cpu_collectives_implementation", "gloo")
if count > 1:
    jax.distributed.initialize(f"127.0.0.1:{port}", count, number)
sys.exit(main(sys.argv[4:]))
"""


def started(workdir, text, count, steps=4):
    """Processes that train together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = [
        f"--config={ROOT / 'tests' / 'tiny.py'}:steps={steps},every={steps // 2}",
        f"--config.data.source.paths={text}",
        f"--workdir={workdir}",
    ]
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    environment |= {"PYTHONPATH": str(ROOT), "GLIBC_TUNABLES": ""}
    return [
        subprocess.Popen(
            [sys.executable, "-c", MAIN, str(number), str(count), str(port), "train", *flags],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(count)
    ]


def ended(processes, status=0):
    """Waits for all of them."""
    for process in processes:
        printed, _ = process.communicate(timeout=120)
        assert process.returncode == status, printed


def losses(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row.get("loss", row.get("heldout/loss")) for row in rows]


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("The cat sat. A bird flew over it, and over me.\n" * 60)
    return path


def test_two_processes_are_one_run(tmp_path, text):
    one, two = tmp_path / "one", tmp_path / "two"
    ended(started(two, text, 2) + started(one, text, 1))
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-5)
    for name in ("samples.md", "config.json"):
        assert (two / name).read_text() == (one / name).read_text()
    assert (two / "checkpoints" / "4").is_dir()


def test_a_signal_to_one_process_stops_both_at_the_same_step(tmp_path, text):
    run, steps = tmp_path / "run", 10_000
    processes = started(run, text, 2, steps)
    deadline = time.monotonic() + 100
    while not (run / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGTERM)
    ended(processes, RESUME)
    [saved] = (run / "checkpoints").iterdir()
    assert 0 < int(saved.name) < steps
    assert len(losses(run)) == int(saved.name)
