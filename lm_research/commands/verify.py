"""Compare a checkpoint with PyTorch `transformers`, and say where the two part."""

from pathlib import Path

from absl import flags


def define() -> None:
    """--checkpoint, --tolerance, --batch, --length, --gradient."""
    flags.DEFINE_string("checkpoint", None, "a run's directory or a Hugging Face directory")
    flags.DEFINE_float("tolerance", 1e-4, "of each difference, as a part of the largest entry", 0.0)
    flags.DEFINE_integer("batch", 3, "sequences in each comparison", 1)
    flags.DEFINE_integer("length", 64, "tokens in each sequence", 2)
    flags.DEFINE_bool("gradient", True, "whether to compare gradients, too: twice the memory")
    flags.mark_flag_as_required("checkpoint")


def run(values: flags.FlagValues) -> int:
    """Prints the comparison and stores it; returns 1 where the two part."""
    from lm_research import mesh
    from lm_research.hub.verify import Limits
    from lm_research.train.verified import verified

    limits = Limits(values.tolerance, values.batch, values.length, values.gradient)
    with mesh.single():
        report = verified(Path(values.checkpoint), limits)
    print(report)
    return 1 if report.parted else 0
