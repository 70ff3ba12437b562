"""Train the experiment that a config declares, or what is left of it."""

import os
import platform
from pathlib import Path

from absl import flags

from lm_research.commands import config_flag, processes_flag


def define() -> None:
    """--config, --workdir, --strict, and those of several processes."""
    config_flag.define()
    processes_flag.define()
    flags.DEFINE_string("workdir", None, "where the run keeps everything; a run there goes on")
    flags.DEFINE_bool("strict", False, "whether a fallback is an error")
    flags.mark_flags_as_required(["config", "workdir"])


def run(values: flags.FlagValues) -> int:
    """Trains; returns 75 where the run was told to stop and can go on."""
    from lm_research import log
    from lm_research.train.loop import train
    from lm_research.train.processes import together

    log.strict(values.strict)
    if values.config.get("reductions") == "ordered":
        without_avx512()
    workdir = Path(values.workdir)
    with together(processes_flag.place(values), values.config, workdir):
        return train(values.config, workdir)


def without_avx512() -> None:
    """Tells XLA, before its first use: with AVX-512 the loops of JAX 0.12 round by their length,
    and so by how many devices share an array."""
    given = os.environ.get("XLA_FLAGS", "")
    if platform.machine() in ("x86_64", "AMD64") and "xla_cpu_max_isa" not in given:
        os.environ["XLA_FLAGS"] = f"{given} --xla_cpu_max_isa=AVX2".strip()
