"""Faults at random moments of short runs, and whether each ends as one that nothing happened to.

    python benchmarks/faults/run.py --only killed two_killed --count=20 [--minutes=30]

Counts add up over several sittings, in results.json beside this file, of which table.md is made. A
run is judged by its last checkpoint (the content of every leaf, the position in the data) and by
the loss of every step, bit for bit unless its row says otherwise. Nothing is ever repaired by hand:
the same command is given again, as a launcher would. A failure stays in the results; `since`
says, by hand, what was done about its cause.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESUME, RESTART = 75, 76  # see lm_research/errors.py
STEPS, EVERY = 40, 5
WITHIN = 60.0  # seconds in which a lost process is to be noticed

# `python -c PATCHED PATCH train --flags`: the command, with something done to Python before.
PATCHED = """
import sys
exec(sys.argv.pop(1))
from lm_research.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
STALLED = """
import time
from lm_research.data import pipeline
made = pipeline.Plan.batch
def stalled(self, number):
    if number == {number}:
        time.sleep({seconds})
    return made(self, number)
pipeline.Plan.batch = stalled
"""
JUMPED = """
import time, threading
real, start, ahead = time.time, time.monotonic(), {ahead}
time.time = lambda: real() + (ahead if time.monotonic() - start > {after} else 0)
"""


class Failed(Exception):
    """How a run did not end as promised."""


class Runs:
    """Runs of one experiment in one directory, and the undisturbed ones that they are held to."""

    def __init__(self, directory: Path, rng: random.Random):
        self.directory, self.rng = directory, rng
        self.text = directory / "text.txt"
        words = "the cat sat on a mat and saw two red birds fly over old green hills".split()
        lines = (" ".join(rng.choices(words, k=12)) for _ in range(300))
        self.text.write_text("".join(f"{line}.\n" for line in lines))
        self._expected: dict[tuple, tuple[Any, float]] = {}
        self._numbers = iter(range(10**6))

    def new(self) -> Path:
        """A workdir that is not there yet."""
        return self.directory / f"run{next(self._numbers)}"

    def flags(self, workdir: Path, *more: str) -> list[str]:
        """Those of `train`."""
        return [
            f"--config={ROOT / 'tests' / 'tiny.py'}:steps={STEPS},every={EVERY},dropout=0.1",
            f"--config.data.source.paths={self.text}",
            f"--workdir={workdir}",
            "--config.log.samples.every=0",
            *more,
        ]

    def environment(self, devices: int = 1) -> dict[str, str]:
        """One compile cache for all, so that runs are short."""
        cache = str(self.directory / "compiled")
        # A busy core may let devices wait for each other longer than the 40 s that XLA allows.
        patient = "--xla_cpu_collective_call_terminate_timeout_seconds=600"
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {patient}",
        }

    def started(
        self, workdir: Path, *more: str, devices: int = 1, patch: str = ""
    ) -> subprocess.Popen:
        """One process that trains."""
        program = ["-c", PATCHED, patch] if patch else ["-m", "lm_research"]
        return self._popen([*program, "train", *self.flags(workdir, *more)], devices)

    def together(self, workdir: Path, *more: str, restarts: int = 0) -> subprocess.Popen:
        """The launcher of two processes."""
        launcher = str(ROOT / "tpu" / "together.py")
        settings = ["--processes=2", f"--restarts={restarts}", "--"]
        return self._popen([launcher, *settings, *self.flags(workdir, *more)], 1)

    def _popen(self, arguments: list[str], devices: int) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, *arguments],
            env=self.environment(devices),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def expected(self, *more: str, processes: int = 1, devices: int = 1) -> tuple[Any, float]:
        """The outcome of an undisturbed run, and how long it takes."""
        key = (more, processes, devices)
        if key not in self._expected:
            for _ in range(2):  # the second finds what the first has compiled
                workdir, start = self.new(), time.monotonic()
                if processes == 1:
                    process = self.started(workdir, *more, devices=devices)
                else:
                    process = self.together(workdir, *more)
                ended(process, 0)
                seconds = time.monotonic() - start
            self._expected[key] = outcome(workdir), seconds
        return self._expected[key]


def outcome(workdir: Path) -> dict[str, Any]:
    """What must not differ: the last checkpoint's content, and the loss of every step."""
    steps = sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    meta = json.loads((workdir / "checkpoints" / str(steps[-1]) / "meta" / "metadata").read_text())
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["loss"] for row in rows if row["kind"] == "train"}
    contents = {name: leaf["fingerprint"] for name, leaf in meta["leaves"].items()}
    return {
        "step": meta["step"],
        "position": meta["position"],
        "leaves": contents,
        "losses": losses,
    }


def ended(process: subprocess.Popen, *statuses: int) -> str:
    """What it printed; its exit status has to be one of these."""
    try:
        printed, _ = process.communicate(timeout=600)
    except subprocess.TimeoutExpired:
        gone(process)
        raise Failed("does not end within ten minutes") from None
    if process.returncode not in statuses or "Traceback" in printed:
        raise Failed(f"ended with {process.returncode}: {printed[-600:]}")
    return printed


def same(workdir: Path, expected: dict[str, Any], tolerance: float | None = None) -> None:
    """Holds a finished run to the undisturbed one; within a tolerance its losses alone."""
    found = outcome(workdir)
    if tolerance is None:
        for name, value in expected.items():
            if found[name] != value:
                raise Failed(f"{name} of {workdir.name} is not that of an undisturbed run")
        return
    for step, loss in expected["losses"].items():
        if abs(found["losses"][step] - loss) > tolerance * abs(loss):
            raise Failed(f"the loss of step {step} is {found['losses'][step]}, not {loss}")


def children(process: subprocess.Popen) -> list[int]:
    """The processes of a launcher, in their order."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def gone(process: subprocess.Popen) -> None:
    """Kills a process and those that it launched."""
    for pid in (process.pid, *children(process)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


def nap(rng: random.Random, process: subprocess.Popen, most: float) -> None:
    """Waits for a random time, or until the process has ended."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(rng.uniform(0, most))


def finished(runs: Runs, workdir: Path, *more: str, **how: Any) -> str:
    """Gives the command until the run is at its end."""
    return ended(runs.started(workdir, *more, **how), 0)


def killed(runs: Runs, *more: str) -> int:
    """SIGKILL again and again; the run goes on each time, and ends with the same bits."""
    expected, seconds = runs.expected(*more)
    workdir, kills = runs.new(), 0
    while kills < 5:
        process = runs.started(workdir, *more)
        nap(runs.rng, process, 1.05 * seconds)
        if process.poll() is not None:
            break
        gone(process)
        kills += 1
    finished(runs, workdir, *more)
    same(workdir, expected)
    return kills


def killed_in_a_save(runs: Runs) -> int:
    """SIGKILL while Orbax writes."""
    expected, _ = runs.expected()
    workdir = runs.new()
    process = runs.started(workdir)
    chosen = runs.rng.randrange(STEPS // EVERY)
    seen: set[str] = set()
    while process.poll() is None and len(seen) <= chosen:
        seen |= {p.name for p in (workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*")}
    time.sleep(runs.rng.uniform(0, 0.05))
    gone(process)
    finished(runs, workdir)
    same(workdir, expected)
    return 1


def two_killed(runs: Runs) -> int:
    """SIGKILL to one of two processes; the other says who, the launcher starts both again."""
    expected, seconds = runs.expected(processes=2)
    workdir, kills = runs.new(), 0
    launcher = runs.together(workdir, restarts=8)
    printed = []
    reader = threading.Thread(target=lambda: printed.append(launcher.stdout.read()))
    reader.start()
    while kills < 4:
        nap(runs.rng, launcher, 1.05 * seconds)
        victims = children(launcher)
        if launcher.poll() is not None or not victims:
            break
        with contextlib.suppress(ProcessLookupError):
            os.kill(runs.rng.choice(victims), signal.SIGKILL)
            kills += 1
    launcher.wait(600)
    reader.join()
    if launcher.returncode or "Traceback" in printed[0]:
        raise Failed(f"the launcher ended with {launcher.returncode}: {printed[0][-600:]}")
    same(workdir, expected)
    return kills


def two_frozen(runs: Runs) -> int:
    """SIGSTOP to one of two; the other notices within a minute and says who; both start again."""
    expected, seconds = runs.expected(processes=2)
    workdir = runs.new()
    launcher = runs.together(workdir, "--peer_seconds=20", restarts=2)
    while not (workdir / "metrics.jsonl").exists() and launcher.poll() is None:
        time.sleep(0.05)
    nap(runs.rng, launcher, 0.3 * seconds)
    victims = children(launcher)
    if launcher.poll() is not None or not victims:
        return 0  # it had ended
    frozen = runs.rng.randrange(len(victims))
    os.kill(victims[frozen], signal.SIGSTOP)
    start = time.monotonic()
    faults = workdir / "faults.jsonl"
    # One that is frozen when the others have finished is the launcher's to end.
    alone = lambda: children(launcher) == [victims[frozen]]
    while not faults.exists() and launcher.poll() is None and not alone():
        if time.monotonic() - start > WITHIN:
            raise Failed(f"nobody noticed within {WITHIN:.0f} s")
        time.sleep(0.1)
    printed = ended(launcher, 0)
    if f"process {frozen} on " not in printed and faults.exists():
        raise Failed(f"it was process {frozen}: {printed[-400:]}")
    same(workdir, expected)
    return 1


def two_told_to_stop(runs: Runs) -> int:
    """SIGTERM to one of two: both stop at the same step and save; then both go on."""
    expected, seconds = runs.expected(processes=2)
    workdir = runs.new()
    launcher = runs.together(workdir)
    while not (workdir / "metrics.jsonl").exists() and launcher.poll() is None:
        time.sleep(0.05)
    nap(runs.rng, launcher, 0.3 * seconds)
    victims = children(launcher)
    if launcher.poll() is None and victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(runs.rng.choice(victims), signal.SIGTERM)
    printed = ended(launcher, 0, RESUME)
    if launcher.returncode == RESUME:
        stopped = outcome(workdir)["step"]
        if f"stopped at step {stopped} of" not in printed:
            raise Failed(f"step {stopped} was saved: {printed[-400:]}")
        ended(runs.together(workdir), 0)
    same(workdir, expected)
    return 1


def other_processes(runs: Runs) -> int:
    """Two processes are killed; one goes on; ordered sums give the bits of two, and of one."""
    ordered = ("--config.reductions=ordered",)
    expected, seconds = runs.expected(*ordered)
    workdir = runs.new()
    launcher = runs.together(workdir, *ordered)
    nap(runs.rng, launcher, 1.3 * seconds)
    for pid in children(launcher):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    launcher.communicate()
    finished(runs, workdir, *ordered)
    same(workdir, expected)
    return 1


def other_mesh(runs: Runs) -> int:
    """Killed on one mesh, continued on another: the same losses, of ordered sums the same bits."""
    meshes = [{"data": 8}, {"data": 2, "fsdp": 4}, {"sequence": 2, "data": 4}]
    flags = ("--config.reductions=ordered",) if runs.rng.random() < 0.5 else ()
    if flags:
        meshes = [{"data": 8}, {"data": 4, "fsdp": 2}, {"fsdp": 8}]
    expected, seconds = runs.expected(*flags)
    workdir = runs.new()
    first, second = runs.rng.sample(meshes, 2)
    laid = lambda sizes: [
        f"--config.mesh.{name}={size}" for name, size in {"data": 1, **sizes}.items()
    ]
    process = runs.started(workdir, *flags, *laid(first), devices=8)
    nap(runs.rng, process, 2 * seconds)
    gone(process)
    finished(runs, workdir, *flags, *laid(second), devices=8)
    same(workdir, expected, None if flags else 2e-4)
    return 1


def damaged(runs: Runs) -> int:
    """A file of the newest checkpoint is changed, cut short or lost: the one before goes on."""
    expected, _ = runs.expected()
    workdir = runs.new()
    process = runs.started(workdir)
    _saved_and_killed(runs, process, workdir)
    _damage(runs.rng, workdir)
    finished(runs, workdir)
    same(workdir, expected)
    return 1


def two_damaged(runs: Runs) -> int:
    """Likewise, of a checkpoint that two processes wrote and read a half each of."""
    halves = "--config.mesh.data=1", "--config.mesh.fsdp=2"
    expected, _ = runs.expected(*halves, processes=2)
    workdir = runs.new()
    launcher = runs.together(workdir, *halves)
    _saved_and_killed(runs, launcher, workdir)
    _damage(runs.rng, workdir)
    ended(runs.together(workdir, *halves), 0)
    same(workdir, expected)
    return 1


def _saved_and_killed(runs: Runs, process: subprocess.Popen, workdir: Path) -> None:
    """Waits for one of the later saves, and kills the process and those that it launched."""
    wanted = workdir / "checkpoints" / str(EVERY * runs.rng.randrange(2, STEPS // EVERY))
    while process.poll() is None and not wanted.exists():
        time.sleep(0.02)
    gone(process)


def _damage(rng: random.Random, workdir: Path) -> None:
    """Flips a bit of a file of the newest checkpoint, cuts its end off, or deletes it."""
    saved = (workdir / "checkpoints").iterdir()
    newest = max((p for p in saved if p.name.isdigit()), key=lambda p: int(p.name))
    files = [p for p in newest.rglob("*") if p.is_file() and p.stat().st_size]
    chosen = rng.choice(sorted(files))
    content = bytearray(chosen.read_bytes())
    how = rng.choice(("flipped", "cut", "lost"))
    if how == "flipped":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del content[rng.randrange(len(content)) :]
    chosen.write_bytes(content) if how != "lost" else chosen.unlink()


def disk_full(runs: Runs) -> int:
    """So many bytes are left at some moment; space comes back by itself, or after the run stops."""
    expected, seconds = runs.expected()
    back = runs.rng.random() < 0.5
    disk = runs.directory / "disk"
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], check=True)
    try:
        workdir, filler = disk / "run", disk / "filler"
        process = runs.started(workdir, f"--config.checkpoint.retries={5 if back else 0}")
        while process.poll() is None and not (workdir / "metrics.jsonl").exists():
            time.sleep(0.02)
        nap(runs.rng, process, 0.3 * seconds)
        room = os.statvfs(disk)
        left = runs.rng.randrange(0, 120_000)
        with contextlib.suppress(OSError):
            filler.write_bytes(bytes(max(0, room.f_bavail * room.f_bsize - left)))
        if back:
            nap(runs.rng, process, 6.0)
            filler.unlink()
            ended(process, 0)
        else:
            printed = ended(process, 0, 1)
            filler.unlink()
            if process.returncode:
                if "No space left" not in printed:
                    raise Failed(f"it does not say why it stopped: {printed[-400:]}")
                finished(runs, workdir)
        same(workdir, expected)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    return 1


def spikes_and_kills(runs: Runs) -> int:
    """Batches whose loss leaps are skipped or gone back from, and the run is killed between."""
    policy = runs.rng.choice(("skip", "back"))
    flags = [f"--config.divergence.policy={policy}", "--config.divergence.spike=1.5"]
    flags += ["--config.divergence.limit=1000"]
    # Saves by the clock, too, come at other steps in each run, and change nothing.
    flags += ["--config.checkpoint.minutes=0.01"] if runs.rng.random() < 0.5 else []
    return killed(runs, *flags)


def stalled(runs: Runs) -> int:
    """The data stops coming for a while: the watchdog says that data is waited for; it goes on."""
    expected, _ = runs.expected()
    workdir, number = runs.new(), runs.rng.randrange(10, STEPS - 1)
    patch = STALLED.format(number=number, seconds=5)
    printed = ended(runs.started(workdir, "--config.log.watchdog=1.5", patch=patch), 0)
    if "data" not in next((line for line in printed.splitlines() if "wait" in line), ""):
        raise Failed(f"nothing says that data is waited for: {printed[-400:]}")
    same(workdir, expected)
    return 1


def clock_jumps(runs: Runs) -> int:
    """The wall clock jumps by up to ten years, back or ahead, at a random moment."""
    expected, seconds = runs.expected()
    workdir = runs.new()
    ahead = runs.rng.uniform(-3e8, 3e8)
    patch = JUMPED.format(ahead=ahead, after=runs.rng.uniform(0, seconds))
    ended(runs.started(workdir, patch=patch), 0)
    same(workdir, expected)
    return 1


FAULTS: dict[str, tuple[Callable[[Runs], int], int]] = {  # and how often each has to be tried
    "killed": (killed, 100),
    "killed_in_a_save": (killed_in_a_save, 20),
    "two_killed": (two_killed, 100),
    "two_frozen": (two_frozen, 20),
    "two_told_to_stop": (two_told_to_stop, 20),
    "other_processes": (other_processes, 20),
    "other_mesh": (other_mesh, 20),
    "damaged": (damaged, 20),
    "two_damaged": (two_damaged, 20),
    "disk_full": (disk_full, 20),
    "spikes_and_kills": (spikes_and_kills, 20),
    "stalled": (stalled, 20),
    "clock_jumps": (clock_jumps, 20),
}


def table(results: dict[str, dict[str, Any]]) -> str:
    """What table.md says."""
    lines = ["# Faults", "", "Made by `python benchmarks/faults/run.py`; see its functions.", ""]
    lines += ["| fault | what happens | times | wanted | runs | ended otherwise |"]
    lines += ["|---|---|---|---|---|---|"]
    for name, (function, wanted) in FAULTS.items():
        found = results.get(name, {"times": 0, "runs": 0, "failures": []})
        what = function.__doc__.splitlines()[0].rstrip(".")
        numbers = f"{found['times']} | {wanted} | {found['runs']} | {len(found['failures'])}"
        lines.append(f"| {name} | {what} | {numbers} |")
    failures = [
        f"- {name}, seed {one['seed']}: {one['how']}"
        + (f" **Since then: {one['since']}.**" if "since" in one else "")
        for name, found in results.items()
        for one in found["failures"]
    ]
    return "\n".join(
        [*lines, *(["", "Those that ended otherwise:", ""] if failures else []), *failures, ""]
    )


def main() -> None:
    """Tries faults, and adds what came of it to the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=list(FAULTS), default=list(FAULTS))
    parser.add_argument("--count", type=int, default=5, help="times each, in this sitting")
    parser.add_argument("--minutes", type=float, default=60.0, help="of this sitting, at most")
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    stored = HERE / "results.json"
    results = json.loads(stored.read_text()) if stored.is_file() else {}
    deadline = time.monotonic() + 60 * options.minutes
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        runs = Runs(Path(scratch), rng)
        for name in options.only:
            times = 0
            while times < options.count and time.monotonic() < deadline:
                found = results.setdefault(name, {"times": 0, "runs": 0, "failures": []})
                try:
                    happened = FAULTS[name][0](runs)
                except (Failed, subprocess.TimeoutExpired) as error:
                    happened = 1
                    how = " ".join(str(error).split())
                    for path in (scratch, f"{ROOT}/", f"{Path(sys.executable).parent}/"):
                        how = how.replace(path, "")
                    found["failures"].append({"seed": seed, "how": how})
                times += max(1, happened)
                found["times"] += happened
                found["runs"] += 1
                print(f"{name}: {found['times']} times, {len(found['failures'])} bad", flush=True)
                stored.write_text(json.dumps(results, indent=1) + "\n")
                (HERE / "table.md").write_text(table(results))
                for workdir in Path(scratch).glob("run*"):
                    shutil.rmtree(workdir, ignore_errors=True)


if __name__ == "__main__":
    main()
