"""Training steps of ours and of PyTorch's, which benchmarks let take turns.

Both sides run as processes of their own, round by round; a ratio is the median over rounds of peer
time / our time. Both get huge pages (glibc.malloc.hugetlb=1), which `python -m lm_research` sets
for itself.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import record

TURN = 3  # steps that are timed
PEER = "PyTorch float32"
SIDES = {
    PEER: dict(side="torch", dtype="float32"),
    "float32": dict(side="ours", dtype="float32"),
    "bfloat16": dict(side="ours", dtype="bfloat16"),
}


def trainer(model: Any, objective: Any, rate: float) -> Any:
    """Trains all weights with AdamW at a constant rate."""
    from lm_research.optimizers import AdamW
    from lm_research.train.experiment import Batch, Experiment
    from lm_research.train.step import Trainer

    optimizer = AdamW(rate, shape="constant")
    return Trainer.of(
        Experiment(
            model=model, objective=objective, optimizer=optimizer, steps=1000, batch=Batch(1)
        )
    )


def our_step(
    model: Any, objective: Any, batch: dict, rate: float, dispatch: int = 1
) -> Callable[[], float]:
    """A function that makes `dispatch` steps on a batch and returns the last loss."""
    import jax
    import numpy as np

    from lm_research.train.step import train_steps

    made = trainer(model, objective, rate)
    state = made.init()
    batches = jax.tree.map(lambda x: np.broadcast_to(x, (dispatch, *x.shape)), batch)
    step = jax.jit(functools.partial(train_steps, made), donate_argnums=0)

    def run() -> float:
        nonlocal state
        state, numbers = step(state, batches)
        return float(numbers["loss"][-1])

    return run


def their_step(model: Any, loss: Callable[[], Any], rate: float) -> Callable[[], float]:
    """A function that makes one step of a torch model and returns its loss."""
    import torch

    optimizer = torch.optim.AdamW(
        model.parameters(), rate, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )

    def run() -> float:
        found = loss()
        optimizer.zero_grad(set_to_none=True)
        found.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return found.item()

    return run


def work(run, per: int) -> None:
    """One side: reads a number of steps from standard input, makes them, writes seconds a step.

    The first call after another side's turn finds its memory cold, and is not timed.
    """
    first = run()
    for _ in range(2):
        last = run()
    print(json.dumps({"first": first, "last": last}), flush=True)
    for line in sys.stdin:
        turns = max(1, int(line) // per)
        run()
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(turns):
            run()
        steps = turns * per
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(json.dumps({"wall": wall / steps, "cpu": cpu / steps}), flush=True)


def side(spec: dict, runner) -> None:
    """`work` of one side, ours on the mesh of this machine."""
    if spec["side"] == "torch":
        return work(*runner(spec))
    from lm_research.mesh import Mesh

    with Mesh().activate():
        return work(*runner(spec))


def compare(shape: str, sides: dict, rounds: int, steps: int, program: str) -> dict:
    """Seconds per step of every side, wall and CPU, in interleaved rounds of so many steps each."""
    environment = {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    processes, seconds = {}, {}
    for name, spec in sides.items():
        command = [sys.executable, program, "--work", json.dumps({"shape": shape, **spec})]
        processes[name] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        losses = json.loads(processes[name].stdout.readline())
        print(f"  {name}: loss {losses['first']:.3f} -> {losses['last']:.3f}", flush=True)
        seconds[name] = {"wall": [], "cpu": []}
    for _ in range(rounds):
        for name, process in processes.items():
            process.stdin.write(f"{steps}\n")
            process.stdin.flush()
            for kind, value in json.loads(process.stdout.readline()).items():
                seconds[name][kind].append(value)
    for process in processes.values():
        process.stdin.close()
        process.wait()
    return seconds


def ratio(seconds: dict, peer: str, name: str, kind: str = "wall") -> float:
    """Median over rounds of the peer's time / this side's time."""
    pairs = zip(seconds[peer][kind], seconds[name][kind], strict=True)
    return statistics.median(theirs / own for theirs, own in pairs)


def times(seconds: dict) -> dict[str, dict[str, float]]:
    """What each side took: a step's time, and how its processor time is to the peer's."""
    return {
        name: {
            "milliseconds": round(1e3 * statistics.median(found["wall"]), 1),
            f"CPU time, times as fast as {PEER}": round(ratio(seconds, PEER, name, "cpu"), 2),
        }
        for name, found in seconds.items()
    }


def beside_pytorch(
    description: str,
    program: str,
    shapes: dict[str, tuple],
    ours: Callable[[str, str], Callable[[], float]],
    torchs: Callable[[str], Callable[[], float]],
    described: Callable[[str], str],
    bars: dict[str, dict[str, float]],
    per: int = 1,
) -> None:
    """The whole of a benchmark of one shape against PyTorch in float32.

    Args:
      description: what it does.
      program: its file.
      shapes: by name; the first one is measured unless another is asked for.
      ours: a function that makes `per` steps of ours, by the shape's name and the dtype.
      torchs: PyTorch's.
      described: what a shape is called in the results.
      bars: of times as fast, by shape and side.
      per: steps that a call of such a function makes.
    """
    path = Path(program)
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--shape", default=next(iter(shapes)), choices=shapes)
    parser.add_argument("--rounds", type=int, default=9)
    dtypes = [name for name in SIDES if name != PEER]
    parser.add_argument("--dtypes", nargs="*", default=dtypes, choices=dtypes, help="of ours")
    parser.add_argument("--output", type=Path, default=record.RESULTS / f"{path.stem}.json")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        run = lambda spec: (
            torchs(spec["shape"]) if spec["side"] == "torch" else ours(spec["shape"], spec["dtype"])
        )
        return side(json.loads(options.work), lambda spec: (run(spec), per))
    shape = options.shape
    sides = {name: SIDES[name] for name in (PEER, *options.dtypes)}
    seconds = compare(shape, sides, options.rounds, TURN, program)
    rows = [
        record.Row(
            f"{described(shape)}, {name}",
            ratio(seconds, PEER, name),
            f"times as fast as {PEER}",
            bars.get(shape, {}).get(name),
            False,
        )
        for name in options.dtypes
    ]
    command = f"python benchmarks/{path.name} --shape={shape} --rounds={options.rounds}"
    if options.dtypes != dtypes:
        command += f" --dtypes {' '.join(options.dtypes)}"
    record.write(options.output, command, rows, sides=times(seconds))
