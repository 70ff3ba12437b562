"""Draw a run's page of curves again."""

from pathlib import Path

from absl import flags


def define() -> None:
    """--workdir."""
    flags.DEFINE_string("workdir", None, "the run's directory")
    flags.mark_flag_as_required("workdir")


def run(values: flags.FlagValues) -> None:
    """Writes report.html."""
    from lm_research import log
    from lm_research.errors import UserError

    workdir = Path(values.workdir)
    if not (workdir / "metrics.jsonl").is_file():
        raise UserError(f"{workdir} holds no run: it has no metrics.jsonl")
    log.report(workdir)
    print(workdir / "report.html")
