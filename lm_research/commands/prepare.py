"""Prepare a config's data: train its tokenizer and write its token shards."""

from pathlib import Path

from absl import flags

from lm_research.commands import config_flag


def define() -> None:
    """--config, --workdir."""
    config_flag.define()
    flags.DEFINE_string("workdir", None, "the directory of the run that will use the data")
    flags.mark_flags_as_required(["config", "workdir"])


def run(values: flags.FlagValues) -> None:
    """Prepares the data and prints what it is."""
    from lm_research.train.loop import prepare

    _, data = prepare(values.config, Path(values.workdir))
    for name, value in data.facts.items():
        print(f"{name}: {value}")
