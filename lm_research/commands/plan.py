"""Say what a run needs and costs on devices that need not be there, before it starts."""

from pathlib import Path

from absl import flags

from lm_research.commands import config_flag


def define() -> None:
    """--config, --devices, --vocab, --json."""
    config_flag.define()
    flags.DEFINE_string(
        "devices",
        None,
        "NAME-N as the maker names a slice (v5p-256 counts TensorCores, two a chip; H100-8), "
        "NxNAME or NAMExN for chips (8xH100), or a number of this machine's devices",
    )
    flags.DEFINE_integer("vocab", None, "V, where the config does not say it: no data is read", 1)
    flags.DEFINE_string("json", None, "a file that gets all numbers")
    flags.mark_flags_as_required(["config", "devices"])


def run(values: flags.FlagValues) -> int:
    """Prints the plan; returns 1 where it does not fit."""
    import json

    from lm_research import log
    from lm_research.train.chips import pod
    from lm_research.train.plan import plan
    from lm_research.train.plan_text import text
    from lm_research.train.remedy import remedy

    devices = pod(values.devices)
    found = plan(values.config, devices, values.vocab)
    print(text(found), flush=True)
    numbers = found.json()
    if not found.memory.fits:
        change = remedy(values.config, devices, values.vocab, found)
        numbers["remedy"] = change or None
        what = f"it would with {change}" if change else "and no smaller batch does; take more chips"
        print(f"refused: the plan does not fit; {what}")
    if values.json:
        log.write_text(Path(values.json), json.dumps(numbers, indent=2) + "\n")
    return 0 if found.memory.fits else 1
