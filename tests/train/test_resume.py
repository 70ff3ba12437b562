"""A run that is killed, stopped or damaged, and goes on, ends in the bits of one that was not."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from outcomes import lasting
from variants import long

ROOT = Path(__file__).parents[2]

# `python -c DRIVER SIGNAL WHAT NUMBER train --flags` sends itself a signal at the given draw of
# data, or at the given operation on files of the run; the audit events of the latter are also
# counted.
DRIVER = """
import os, signal, sys
from lm_research.__main__ import main
from lm_research.train import loop

number, what, at = signal.Signals[sys.argv[1]], sys.argv[2], int(sys.argv[3])
workdir = next(a for a in sys.argv if a.startswith("--workdir=")).partition("=")[2]
count, draw = 0, loop.draw

def happened(kind):
    global count
    count += kind == what
    if kind == what and count == at:
        os.kill(os.getpid(), number)

def drawn(*arguments):
    happened("draw")
    return draw(*arguments)

def audited(event, arguments):
    if event in ("open", "os.mkdir", "os.rename", "os.remove", "shutil.rmtree"):
        if workdir in str(arguments[0]):
            happened("file")

loop.draw = drawn
sys.addaudithook(audited)
status = main(sys.argv[4:])
print("file operations:", count)
sys.exit(status)
"""


class Runs:
    """Runs of one experiment in processes of their own."""

    def __init__(self, directory: Path, knobs: str):
        self.directory, self.knobs = directory, knobs
        (directory / "text.txt").write_text("The cat sat. A bird flew over it, and over me.\n" * 60)

    def start(self, name: str, *how: object) -> subprocess.Popen:
        flags = [
            f"--config={ROOT / 'tests' / 'tiny.py'}:{self.knobs}",
            f"--config.data.source.paths={self.directory / 'text.txt'}",
            f"--workdir={self.directory / name}",
        ]
        begin = ["-c", DRIVER, *map(str, how)] if how else ["-m", "lm_research"]
        environment = {
            **{key: value for key, value in os.environ.items() if key != "XLA_FLAGS"},
            "PYTHONPATH": str(ROOT),
            "GLIBC_TUNABLES": "",  # or else it starts twice
        }
        return subprocess.Popen(
            [sys.executable, *begin, "train", *flags],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, name: str, *how: object) -> tuple[int, str, str]:
        """Exit status and both streams."""
        process = self.start(name, *how)
        out, err = process.communicate(timeout=120)
        assert "Traceback" not in err, err
        return process.returncode, out, err

    def __call__(self, name: str) -> Path:
        return self.directory / name


def steps(workdir: Path) -> list[int]:
    return sorted(
        int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()
    )


def saved(workdir: Path, step: int):
    """Every leaf of a checkpoint, and what lies beside it."""
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        found = reader.restore(
            workdir / "checkpoints" / str(step),
            ocp.args.Composite(state=ocp.args.StandardRestore(), meta=ocp.args.JsonRestore()),
        )
    return {name: np.asarray(leaf) for name, leaf in found["state"].items()}, found["meta"]


def same(workdir: Path, straight: Path, last: int) -> None:
    """Checks that two finished runs are the same bit for bit."""
    assert steps(workdir)[-1] == steps(straight)[-1] == last
    (got, meta), (want, expected) = saved(workdir, last), saved(straight, last)
    assert got.keys() == want.keys() and any("/mu/" in name for name in want)
    for name in want:
        assert got[name].tobytes() == want[name].tobytes(), name
    assert meta == expected and meta["position"] == 8 * last
    assert lasting(workdir, ("waiting",)) == lasting(straight, ("waiting",))
    for name in ("samples.md", "config.json"):
        assert (workdir / name).read_bytes() == (straight / name).read_bytes()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs with dropout, two steps per dispatch, which do not divide those between saves.

    One of them was never stopped.
    """
    knobs = "steps=12,every=3,dropout=0.1,dispatch=2"
    made = Runs(tmp_path_factory.mktemp("runs"), knobs)
    status, out, _ = made.run("straight", "SIGUSR1", "file", 0)
    assert status == 0
    made.operations = int(out.rpartition("file operations: ")[2])
    return made


@long
def test_killed_at_random_moments(runs):
    """From outside at some time, and from inside at operations on files, most of them in saves."""
    seed = int(os.environ.get("LM_RESEARCH_TEST_SEED", random.randrange(10**6)))
    print("LM_RESEARCH_TEST_SEED =", seed)
    rng = random.Random(seed)
    process = runs.start("killed")
    deadline = time.monotonic() + 60
    while not (runs("killed") / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(rng.uniform(0, 1))
    process.kill()
    process.communicate()
    for _ in range(2):
        at = rng.randrange(1, runs.operations)
        status, _, err = runs.run("killed", "SIGKILL", "file", at)
        assert status in (0, -signal.SIGKILL), err
    status, _, err = runs.run("killed")
    assert status == 0, err
    same(runs("killed"), runs("straight"), 12)


def test_killed_just_before_a_save_is_complete(runs):
    """The rename that ends a save of step 6 never comes: the run goes on at step 3."""
    code = DRIVER.replace('happened("file")', "ending(event, arguments)").replace(
        "loop.draw = drawn",
        """
def ending(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith("/checkpoints/6"):
        os.kill(os.getpid(), number)

loop.draw = drawn""",
    )
    assert code.count("ending") == 2
    name = "unsaved"
    try:
        driver, globals()["DRIVER"] = DRIVER, code
        status, _, err = runs.run(name, "SIGKILL", "file", 0)
    finally:
        globals()["DRIVER"] = driver
    assert status == -signal.SIGKILL, err
    assert steps(runs(name)) == [3]
    assert any("tmp" in path.name for path in (runs(name) / "checkpoints").iterdir())
    status, _, err = runs.run(name)
    assert status == 0 and "going on at step 3" in err
    same(runs(name), runs("straight"), 12)
    assert not any("tmp" in path.name for path in (runs(name) / "checkpoints").iterdir())


@long
def test_told_to_stop_and_then_damaged(runs):
    """SIGTERM and SIGINT save between regular saves; a flipped bit costs at most a step back."""
    name = "stopped"
    status, out, _ = runs.run(name, "SIGTERM", "draw", 1)  # draws end at 2, 3, 4, 6, 8, 9, ...
    assert status == 75 and "stopped at step 2 of 12; the same command goes on" in out
    assert steps(runs(name)) == [2]
    status, out, err = runs.run(name, "SIGINT", "draw", 2)
    assert status == 75 and "going on at step 2" in err and "stopped at step 4 of 12" in out
    assert steps(runs(name)) == [2, 3, 4]
    flip(runs(name) / "checkpoints" / "4")
    status, _, err = runs.run(name)
    assert status == 0 and "going on at step 3" in err
    lines = [line for line in err.splitlines() if line.startswith("fallback")]
    assert len(lines) == 1 and "step 4" in lines[0] and "step 3" in lines[0]
    same(runs(name), runs("straight"), 12)
    facts = json.loads((runs(name) / "facts.json").read_text())
    assert "step 4" in facts["fallbacks"][0]["asked"]


def flip(step: Path) -> None:
    """Flips a bit in the middle of the largest file of a checkpoint's state."""
    path = max(
        (p for p in (step / "state").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
