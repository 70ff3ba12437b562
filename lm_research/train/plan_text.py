"""A plan as text."""

from lm_research.train.plan import Plan, traffic
from lm_research.train.roofline import DAY

UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def text(plan: Plan) -> str:
    """A plan, for a terminal."""
    axes = (
        " ".join(f"{name}={size}" for name, size in plan.mesh.items() if size > 1) or "one device"
    )
    joined = f" in {plan.slices} slices" if plan.slices > 1 else ""
    memory = plan.memory
    beside = f" of {memory.shared} devices together" if memory.shared > 1 else ""
    lines = [
        f"devices      {plan.pod}{joined}; mesh {axes}",
        f"parameters   {plan.parameters:,}, {plan.trained:,} of them trained",
        f"FLOPs        {plan.flops_per_token:.4g} per token; {plan.tokens:,} tokens a step",
        "",
        f"memory of a device, of {size(memory.limit)}{beside}",
        *(
            f"  {name:<12} {size(getattr(memory, name)):>12}"
            for name in ("weights", "gradients", "optimizer", "activations", "batch")
        ),
        f"  {'total':<12} {size(memory.total):>12}   {'fits' if memory.fits else 'DOES NOT FIT'}",
        "",
        "a device sends in a step",
    ]
    found = traffic(plan.collectives)
    for (kind, over), (times, sent) in found.items():
        lines.append(f"  {kind:<18} {over:<16} {times:>7} times {size(sent):>12}")
    lines += [] if found else ["  nothing"]
    if plan.roofline is not None:
        lines += ["", *_time(plan)]
    return "\n".join([*lines, "", *(f"note: {line}" for line in plan.assumptions.split("\n"))])


def _time(plan: Plan) -> list[str]:
    line, chip = plan.roofline, plan.pod.chip
    lines = [
        "seconds of a step, at least",
        f"  compute            {line.compute:.4g} at {chip.peak / 1e12:g} TFLOP/s a chip",
        f"  memory             {line.memory:.4g} at {chip.hbm / 1e9:g} GB/s",
    ]
    for what, spent, rate in (
        ("links", line.links, chip.link),
        ("network", line.network, chip.network),
    ):
        for axes, seconds in ((axes, n) for axes, n in spent.items() if n):
            lines.append(f"  {what + ', ' + axes:<18} {seconds:.4g} at {rate / 1e9:g} GB/s")
    for name, seconds in (("overlapped", line.overlapped), ("one by one", line.apart)):
        day = DAY / seconds * plan.tokens
        lines.append(
            f"  {name:<18} {seconds:.4g}: MFU {line.useful / seconds:.1%}, "
            f"{day / 1e9:.4g} billion tokens a day"
        )
    return lines


def size(count: float) -> str:
    """Bytes in the unit that suits them."""
    power = 0
    while count >= 1024 and power < len(UNITS) - 1:
        count, power = count / 1024, power + 1
    return f"{count:,.0f} {UNITS[power]}" if not power else f"{count:,.2f} {UNITS[power]}"
