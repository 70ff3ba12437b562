"""`Profile`: a trace of a few steps for xprof, and what it says in a few lines."""

import contextlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lm_research import log

STEP, DATA = "train", "wait for data"  # annotations of the host's own time
COSTLIEST = 10
# Operations that do nothing themselves but hold others.
HOLDERS = re.compile(r"(while|conditional|call)(\.|$)")
COLLECTIVE = re.compile(
    r"(ragged-)?(all-reduce|all-gather|all-to-all|reduce-scatter|collective|send|recv)|nccl", re.I
)
Spans = np.ndarray  # [N, 2] where each begins and ends, in nanoseconds


class Profile:
    """Traces the dispatches of some steps, the first of a program's left out, within a block.

    Args:
      steps: the first and the last one to trace; None traces nothing.
      total: steps of the run.
      workdir: the run's; the trace goes under `profile`, of each process of several its own.
    """

    def __init__(self, steps: tuple[int, int] | None, total: int, workdir: Path):
        self.steps, self.total = steps, total
        own = f"process{jax.process_index()}" if jax.process_count() > 1 else ""
        self.workdir, self.directory = workdir, workdir / "profile" / own
        self._made: set[int] = set()  # how many steps the dispatches had that were made
        self._first: int | None = None  # step of the trace that is going on

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *error) -> None:
        if self._first is not None:
            with contextlib.suppress(RuntimeError):
                jax.profiler.stop_trace()

    def begin(self, step: int, count: int, state: Any) -> None:
        """Starts to trace, if a dispatch of `count` steps after `step` is to be the first of it."""
        if self.steps is None:
            return
        compiled, last = count in self._made, self.steps[1]
        self._made.add(count)
        if step >= last:
            asked, got = f"a trace of steps {self.steps[0]} to {last}", "none"
            log.fallback(asked, got, f"this process was at step {step} when it could begin")
            self.steps = None
        elif self._first is None and compiled and step + 1 >= self.steps[0]:
            jax.block_until_ready(state)
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # it takes so long that nothing else would be seen
            jax.profiler.start_trace(self.directory, profiler_options=options)
            self._first = step + 1

    def end(self, step: int, state: Any, tell: Callable[[str], None]) -> None:
        """Ends the trace, if `step` is the last of it; writes and tells what it says, by lines."""
        if self._first is None or step < min(self.steps[1], self.total):
            return
        jax.block_until_ready(state)
        jax.profiler.stop_trace()
        steps, self._first, self.steps = (self._first, step), None, None
        traces = self.directory.glob("plugins/profile/*/*.xplane.pb")
        newest = max(traces, key=lambda path: path.stat().st_mtime_ns, default=None)
        try:
            if newest is None:
                raise ValueError("the profiler wrote none")
            found = summary(newest, steps)
        except (ValueError, RuntimeError) as error:  # no reason to end a run
            log.fallback("what a trace says", f"what is in {self.directory}", str(error))
            return
        lines = told(found)
        log.write_text(self.directory / "profile.json", json.dumps(found, indent=2) + "\n")
        log.write_text(self.directory / "profile.md", "\n".join(_markdown(found)) + "\n")
        log.note(profile=found)
        if jax.process_index() == 0:
            log.write_facts(self.workdir)
        for line in (*lines, f"trace: {self.directory}, which xprof opens"):
            tell(line)


class Operations(NamedTuple):
    """What one device did, of which nothing is counted twice."""

    spans: Spans
    names: list[str]
    collective: np.ndarray  # bool [N]


def summary(path: Path, steps: tuple[int, int]) -> dict[str, Any]:
    """Shares of the time of a trace, and its costliest operations, as means over its devices.

    A device computes, or else waits for others in a collective, or else is idle; while it is idle
    the host waits for data, or else it is the host that it waits for.

    Args:
      path: an `.xplane.pb` of the profiler.
      steps: the first and the last one in it.

    Raises:
      ValueError: no operation of a device is in it.
    """
    planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
    devices = _devices(planes)
    if not devices:
        raise ValueError(f"{path} has no operation of a device")
    host = [
        (event.name, event.start_ns, event.start_ns + event.duration_ns)
        for plane in planes
        if plane.name.startswith("/host:")
        for line in plane.lines
        for event in line.events
        if event.name in (STEP, DATA)
    ]
    spans = np.concatenate([one.spans for one in devices.values()])
    begin = min([spans[:, 0].min(), *(start for name, start, _ in host if name == STEP)])
    whole = spans[:, 1].max() - begin
    waits = union(np.array([span for name, *span in host if name == DATA]).reshape(-1, 2))
    shares, costs = defaultdict(float), defaultdict(float)
    for one in devices.values():
        computing = union(one.spans[~one.collective])
        busy = union(one.spans)
        waiting = length(union(np.concatenate([busy, waits]))) - length(busy)
        shares["compute"] += length(computing)
        shares["collectives"] += length(busy) - length(computing)
        shares["data"] += waiting
        shares["host"] += whole - length(busy) - waiting
        for name, (start, end) in zip(one.names, one.spans.tolist()):
            costs[name] += end - start
    every, count = len(devices), steps[1] - steps[0] + 1
    costliest = sorted(costs.items(), key=lambda pair: -pair[1])[:COSTLIEST]
    return {
        "first": steps[0],
        "last": steps[1],
        "devices": every,
        "milliseconds_per_step": float(whole / 1e6 / count),
        "shares": {name: max(0.0, float(t / every / whole)) for name, t in shares.items()},
        "costliest": [
            {
                "operation": name,
                "milliseconds_per_step": float(cost / 1e6 / every / count),
                "share": float(cost / every / whole),
            }
            for name, cost in costliest
        ],
    }


def _devices(planes: list[Any]) -> dict[str, Operations]:
    """The operations of each device, by its name; on a host's plane lie those of its processors."""
    accelerators = [plane for plane in planes if re.match(r"/device:(GPU|TPU)", plane.name)]
    found: dict[str, list[tuple[str, float, float, bool]]] = defaultdict(list)
    for plane in accelerators or [plane for plane in planes if plane.name == "/host:CPU"]:
        for event in _events(plane):
            stats = dict(event.stats)
            if not accelerators and "hlo_op" not in stats:
                continue
            name = str(stats.get("hlo_op") or event.name).removeprefix("%").partition(" = ")[0]
            if not HOLDERS.match(name):
                own = plane.name if accelerators else f"CPU {stats.get('device_ordinal', 0)}"
                alone = bool(COLLECTIVE.match(name) or COLLECTIVE.match(event.name))
                span = event.start_ns, event.start_ns + event.duration_ns
                found[own].append((name, *span, alone))
    return {
        device: Operations(
            np.array([(start, end) for _, start, end, _ in events], np.float64),
            [name for name, *_ in events],
            np.array([alone for *_, alone in events]),
        )
        for device, events in found.items()
    }


def _events(plane: Any) -> Iterator[Any]:
    """What a plane's lines hold of operations, once: TPUs have a line for them, GPUs streams."""
    lines = list(plane.lines)
    chosen = [line for line in lines if line.name == "XLA Ops"]
    streams = [line for line in lines if line.name.startswith("Stream")]
    for line in streams or chosen or lines:
        yield from line.events


def union(spans: Spans) -> Spans:
    """Spans that do not meet and cover the same."""
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    if not len(spans):
        return spans
    ends = np.maximum.accumulate(spans[:, 1])
    new = np.append(True, spans[1:, 0] > ends[:-1])
    return np.stack([spans[new, 0], ends[np.append(new[1:], True)]], axis=1)


def length(spans: Spans) -> float:
    """How much spans that do not meet cover."""
    return float((spans[:, 1] - spans[:, 0]).sum())


def told(found: dict[str, Any]) -> list[str]:
    """A summary as lines."""
    shares = ", ".join(f"{name} {share:.1%}" for name, share in found["shares"].items())
    first = (
        f"profile of steps {found['first']} to {found['last']}: "
        f"{found['milliseconds_per_step']:.3f} ms each: {shares}"
    )
    rows = (
        f"{one['share']:7.1%} {one['milliseconds_per_step']:10.3f} ms  {one['operation']}"
        for one in found["costliest"]
    )
    return [first, *rows]


def _markdown(found: dict[str, Any]) -> list[str]:
    rows = (
        f"| `{one['operation']}` | {one['milliseconds_per_step']:.3f} | {one['share']:.1%} |"
        for one in found["costliest"]
    )
    head = ["| operation | ms a step | of the time |", "|---|---|---|"]
    return [told(found)[0], "", *head, *rows]
