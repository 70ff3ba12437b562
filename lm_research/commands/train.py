"""Train the experiment that a config declares, or what is left of it."""

from pathlib import Path

from absl import flags
from ml_collections import config_flags


def define() -> None:
    """--config, --workdir, --strict."""
    config_flags.DEFINE_config_file(
        "config", None, "a config file, with knobs after a colon: configs/gpt2_small.py:width=512"
    )
    flags.DEFINE_string("workdir", None, "where the run keeps everything; a run there goes on")
    flags.DEFINE_bool("strict", False, "whether a fallback is an error")
    flags.mark_flags_as_required(["config", "workdir"])


def run(values: flags.FlagValues) -> int:
    """Trains; returns 75 where the run was told to stop and can go on."""
    from lm_research import log
    from lm_research.train.loop import train

    log.strict(values.strict)
    return train(values.config, Path(values.workdir))
