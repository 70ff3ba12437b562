"""Two processes on one machine are one run: the same losses, texts and checkpoints."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

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


def run(workdir, text, count):
    """Trains in `count` processes, and waits for all."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = [
        f"--config={ROOT / 'tests' / 'tiny.py'}:steps=4,every=2",
        f"--config.data.source.paths={text}",
        f"--workdir={workdir}",
    ]
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    environment |= {"PYTHONPATH": str(ROOT), "GLIBC_TUNABLES": ""}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MAIN, str(number), str(count), str(port), "train", *flags],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(count)
    ]
    for process in processes:
        printed, _ = process.communicate(timeout=120)
        assert process.returncode == 0, printed
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row.get("loss", row.get("heldout/loss")) for row in rows]


def test_two_processes_are_one_run(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("The cat sat. A bird flew over it, and over me.\n" * 60)
    one, two = tmp_path / "one", tmp_path / "two"
    np.testing.assert_allclose(run(two, text, 2), run(one, text, 1), rtol=1e-5)
    for name in ("samples.md", "config.json"):
        assert (two / name).read_text() == (one / name).read_text()
    assert (two / "checkpoints" / "4").is_dir()
