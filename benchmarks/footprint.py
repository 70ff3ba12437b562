"""Seconds until `python -m lm_research --help` has answered, and megabytes of a fresh environment.

    python benchmarks/footprint.py
    python benchmarks/footprint.py --environment=DIR

Without --environment, a temporary virtual environment is made with `pip install -e .`, which
downloads about half a gigabyte. Its size is that of all its files, links not followed; the base
interpreter, which it links to, is not in it.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from pathlib import Path

import record

ROOT = Path(__file__).resolve().parent.parent
SECONDS, MEGABYTES = 1.0, 1200.0
UNWANTED = ("tensorflow", "torch")


@contextlib.contextmanager
def environment(given: Path | None) -> Iterator[Path]:
    """The environment to measure: the given one, or one that is made and removed."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory() as directory:
        venv.create(directory, with_pip=True)
        python = Path(directory) / "bin" / "python"
        install = [python, "-m", "pip", "install", "--quiet", "--no-cache-dir", "-e", ROOT]
        subprocess.run(install, check=True)
        yield Path(directory)


def megabytes(directory: Path) -> float:
    """Size of all files, in units of 1e6 bytes; a hard link counts once."""
    sizes = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            stat = os.lstat(os.path.join(folder, name))
            sizes[stat.st_dev, stat.st_ino] = stat.st_size
    return sum(sizes.values()) / 1e6


def packages(directory: Path) -> dict[str, float]:
    """Megabytes of each top-level folder of the site packages, largest first."""
    (site,) = directory.glob("lib/python*/site-packages")
    sizes = {path.name: megabytes(path) for path in site.iterdir() if path.is_dir()}
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def help_seconds(python: Path, times: int) -> list[float]:
    """Wall seconds of `python -m lm_research --help`, once warmed up."""
    seconds = []
    for _ in range(times + 1):
        start = time.perf_counter()
        command = [python, "-m", "lm_research", "--help"]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", type=Path, help="a virtual environment that is there")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--output", type=Path, default=record.RESULTS / "footprint.json")
    options = parser.parse_args()
    with environment(options.environment) as directory:
        size, sizes = megabytes(directory), packages(directory)
        seconds = help_seconds(directory / "bin" / "python", options.times)
    found = [name for name in UNWANTED if name in sizes]
    rows = [
        record.Row(
            "python -m lm_research --help, median", statistics.median(seconds), "s", SECONDS
        ),
        record.Row("environment of pip install -e .", size, "MB", MEGABYTES),
        record.Row("TensorFlow and PyTorch in it", len(found), "packages", 0),
    ]
    largest = {name: round(value, 1) for name, value in list(sizes.items())[:12]}
    record.write(
        options.output,
        "python benchmarks/footprint.py",
        rows,
        help_seconds=seconds,
        measured_with=sys.version.split()[0],
        unwanted_found=found,
        largest_megabytes=largest,
    )


if __name__ == "__main__":
    main()
