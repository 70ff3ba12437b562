"""Eight virtual devices stand in for a pod; absl flags count as parsed, as Grain needs."""

import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from absl import flags

flags.FLAGS.mark_as_parsed()

import sys
from pathlib import Path

import absl.logging
import grain
import jax
import pytest

from lm_research import log

DEFINED = set(flags.FLAGS)  # by absl and Grain, on import


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


@pytest.fixture(scope="session")
def compiled_once(tmp_path_factory):
    """A cache of compiled programs, for tests that run the same experiment several times."""
    from jax._src.compilation_cache import reset_cache

    values = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in values}
    for name, value in values.items():
        jax.config.update(name, value)
    reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    reset_cache()


def text(lines=60):
    """Sentences, always the same."""
    words = "the cat sat on a mat and saw two red birds fly over old green hills".split()
    return "".join(
        " ".join(words[(i * i + 7 * j * j + i * j) % len(words)] for j in range(12)) + ".\n"
        for i in range(lines)
    )
