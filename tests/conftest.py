"""Eight virtual devices stand in for a pod; absl flags count as parsed, as Grain needs."""

import gc
import os
import platform
import shutil
import tempfile
from importlib import metadata

# Tests compile for longer than they compute. Without the emitters of fusions it takes a third of
# the time, beside the option.
FLAGS = ["--xla_force_host_platform_device_count=8"]
if metadata.version("jaxlib").startswith("0.10."):  # later ones do not know the flag
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
elif platform.machine() in ("x86_64", "AMD64"):
    FLAGS.append("--xla_cpu_max_isa=AVX2")  # as `train` has it where sums are ordered
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch's threads wait for each other at full speed

# What one test has compiled, every other finds, in the processes of all workers.
CACHE = "JAX_COMPILATION_CACHE_DIR"
MINE = CACHE not in os.environ
if MINE:
    os.environ[CACHE] = tempfile.mkdtemp(prefix="lm_research-compiled-")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# Traces make millions of objects beside the millions of three frameworks, and as often as Python
# does by itself, looking through them for garbage takes a sixth of the time.
gc.set_threshold(100_000, 20, 20)

from absl import flags

flags.FLAGS.mark_as_parsed()

import sys
from pathlib import Path

import absl.logging
import grain
import jax
import pytest

from lm_research import curves, log

DEFINED = set(flags.FLAGS)  # by absl and Grain, on import


def pytest_unconfigure():
    """Removes the compiled programs at the end of the process that made room for them."""
    if MINE:
        shutil.rmtree(os.environ[CACHE], ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def programs(request):
    """Those that a module has compiled go with it; layers round as their users' do."""
    fully = request.path.parent.name == "layers" or request.path.stem == "test_sample"
    quick = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1"
    yield from compiled(quick and not fully)
    jax.clear_caches()  # thousands of programs in one process exhaust its memory maps
    gc.collect()


def compiled(quickly):
    """A block in which programs are compiled without optimizations, or with those of users."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", quickly)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def quickly():
    """A test whose large programs are compiled without optimizations, in a module with them."""
    yield from compiled(True)


@pytest.fixture
def optimized():
    """A test whose programs are compiled as those of users are."""
    yield from compiled(False)


@pytest.fixture(autouse=True)
def plain_pages(request, monkeypatch):
    """Pages of runs have no curves, which take longer to draw than tiny runs; those of logs do."""
    if request.path.stem != "test_log":
        monkeypatch.setattr(curves, "drawn", lambda *_: [])


@pytest.fixture
def command(capfd, monkeypatch):
    """Runs a command line in this process: its exit status, and what it printed on both streams."""
    from lm_research.__main__ import main

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", list(sys.argv))
        capfd.readouterr()
        log.forget()
        try:
            status = main([str(argument) for argument in arguments])
        finally:
            for name in set(flags.FLAGS) - DEFINED:
                delattr(flags.FLAGS, name)
            log.forget()
        return status, *capfd.readouterr()

    return run


@pytest.fixture
def tiny(command, tmp_path):
    """Runs `train` or `prepare` with the tiny config; knobs as one text, then other flags."""

    def run(knobs="", *arguments, name="train", workdir=None, paths=None, config=None):
        if paths is None:
            paths = tmp_path / "text.txt"
            paths.write_text(text())
        config = f"--config={config or Path(__file__).parent / 'tiny.py'}" + (
            f":{knobs}" if knobs else ""
        )
        source = f"--config.data.source.paths={paths}"
        workdir = f"--workdir={workdir or tmp_path / 'run'}"
        return command(name, config, source, workdir, *arguments)

    return run


def text(lines=60):
    """Sentences, always the same."""
    words = "the cat sat on a mat and saw two red birds fly over old green hills".split()
    return "".join(
        " ".join(words[(i * i + 7 * j * j + i * j) % len(words)] for j in range(12)) + ".\n"
        for i in range(lines)
    )
