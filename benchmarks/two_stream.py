"""XLNet's training step of two streams over one-stream causal steps of the same shape.

    python benchmarks/two_stream.py --shapes=small,base --pairs=9

Each model makes a step with AdamW on the same tokens; the models take turns, and a ratio is the
median over turns of XLNet's time over the other's. The bar is against a causal transformer with
learned positions, the cheaper of the two.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import record
from steps import our_step

from lm_research import mesh
from lm_research.data import pipeline
from lm_research.models import GPT2, XLNet
from lm_research.objectives import Causal, Permutation

SHAPES = {  # layers, width, heads, T, B, V
    "small": (6, 384, 6, 256, 8, 8192),
    "base": (12, 768, 12, 128, 8, 32_000),
    "long": (12, 768, 12, 512, 2, 32_000),
}
BAR = 2.2
TWO, CAUSAL, ONE = "XLNet, two streams", "causal transformer", "XLNet, one causal stream"


def sides(shape: tuple[int, ...], dtype: str) -> dict:
    """For each model and objective a function that makes a step."""
    layers, width, heads, length, _, vocab = shape
    sizes = dict(width=width, layers=layers, heads=heads, dtype=dtype)
    return {
        TWO: stepping(XLNet(vocab, **sizes), Permutation(length), shape),
        CAUSAL: stepping(GPT2(vocab, context=length, **sizes), Causal(length), shape),
        ONE: stepping(XLNet(vocab, causal=True, **sizes), Causal(length), shape),
    }


def stepping(model, objective, shape: tuple[int, ...]):
    """A function that makes a step and returns its loss."""
    *_, length, rows, vocab = shape
    rng = np.random.default_rng(0)
    records = [
        {
            "tokens": rng.integers(0, vocab, length + 1, np.int32),
            "weights": np.ones(length + 1, np.float32),
        }
        for _ in range(rows)
    ]
    batch = pipeline.stacked(objective.example(record, rng) for record in records)
    return our_step(model, objective, batch, 3e-4)


def seconds(run) -> float:
    """Of one step."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default="small,base,long")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--output", type=Path, default=record.RESULTS / "two_stream.json")
    options = parser.parse_args()
    with mesh.single():
        measured(options)


def measured(options: argparse.Namespace) -> None:
    """Measures and writes."""
    rows, times = [], {}
    for name in options.shapes.split(","):
        runs = sides(SHAPES[name], options.dtype)
        for run in runs.values():
            run(), run()  # compiles, and grows what it needs
        turns = [{side: seconds(run) for side, run in runs.items()} for _ in range(options.pairs)]
        times[name] = turns
        layers, width, heads, length, size, vocab = SHAPES[name]
        where = f"L {layers}, D {width}, N {heads}, T {length}, B {size}, V {vocab:,}"
        for side in (CAUSAL, ONE):
            ratio = statistics.median(turn[TWO] / turn[side] for turn in turns)
            bar = BAR if side == CAUSAL else None
            what = f"step of {TWO}, over {side}, {options.dtype}, {where}"
            rows.append(record.Row(what, ratio, "x", bar))
        middle = statistics.median(turn[TWO] for turn in turns)
        rows.append(record.Row(f"step of {TWO}, {options.dtype}, {where}", middle, "s"))
    command = (
        f"python benchmarks/two_stream.py --shapes={options.shapes} --pairs={options.pairs} "
        f"--dtype={options.dtype}"
    )
    record.write(options.output, command, rows, times=times)


if __name__ == "__main__":
    main()
