"""How commands end, and what of a run must not depend on what happened to it."""

import json

SPEEDS = ("tokens_per_second", "flops_per_second", "data_wait", "mfu", "goodput", "time")


def line(result, *parts, status=2):
    """Checks that a command ended with one line that has `parts` in it."""
    got, _, err = result
    last = err.splitlines()[-1]
    assert got == status and last.startswith("lm_research: ") and "Traceback" not in err, result
    for part in parts:
        assert part in last
    return last


def lasting(workdir, without=()):
    """Rows of metrics but for speeds, and for those of some kinds."""
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    kept = [row for row in rows if row["kind"] not in without]
    return [{k: v for k, v in row.items() if k not in SPEEDS} for row in kept]


def outcome(workdir, without=()):
    """The last step, what lies beside its state (with a hash of each leaf), rows and samples."""
    last = max(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    meta = json.loads((workdir / "checkpoints" / str(last) / "meta" / "metadata").read_text())
    return last, meta, lasting(workdir, without), (workdir / "samples.md").read_text()
