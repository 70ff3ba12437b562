"""Seconds to trace and compile the training step of a GPT-2, its layers scanned or unrolled.

    python benchmarks/compile_time.py --rounds=3

Every measurement is a process of its own, without a compilation cache; rounds are interleaved, a
ratio is the median over rounds. Scanned, 48 layers should cost no more than 1.3 times 12 layers.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import record

CASES = {  # execution, layers
    "scanned, 12 layers": ("scan", 12),
    "scanned, 48 layers": ("scan", 48),
    "unrolled, 12 layers": ("unroll", 12),
}
BAR = 1.3
VOCAB, WIDTH, HEADS, LENGTH, ROWS = 512, 64, 4, 64, 2


def measure(execution: str, layers: int) -> dict[str, float]:
    """Seconds to trace and to compile one training step."""
    import functools
    import time

    import jax
    import jax.numpy as jnp
    from steps import trainer as training

    from lm_research.models import GPT2
    from lm_research.objectives import Causal
    from lm_research.train.step import train_step

    model = GPT2(VOCAB, WIDTH, layers, HEADS, context=LENGTH, execution=execution)
    trainer = training(model, Causal(LENGTH), 3e-4)
    state = trainer.abstract()  # traces the model once, and so imports what tracing needs
    names = {"tokens": jnp.int32, "targets": jnp.int32, "weights": jnp.float32}
    batch = {name: jax.ShapeDtypeStruct((ROWS, LENGTH), kind) for name, kind in names.items()}
    start = time.perf_counter()
    lowered = jax.jit(functools.partial(train_step, trainer), donate_argnums=0).lower(state, batch)
    traced = time.perf_counter()
    lowered.compile()
    return {"trace": traced - start, "compile": time.perf_counter() - traced}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=record.RESULTS / "compile_time.json")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        from lm_research.mesh import Mesh

        with Mesh().activate():
            return print(json.dumps(measure(*json.loads(options.measure))))
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    rounds = {name: [] for name in CASES}
    for _ in range(options.rounds):
        for name, case in CASES.items():
            command = [sys.executable, __file__, "--measure", json.dumps(case)]
            printed = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True, env=environment
            ).stdout
            rounds[name].append(json.loads(printed.splitlines()[-1]))
            print(f"{name}: {rounds[name][-1]}", flush=True)
    totals = {name: [sum(turn.values()) for turn in turns] for name, turns in rounds.items()}
    shallow, deep, unrolled = totals.values()
    ratio = lambda these, those: statistics.median(a / b for a, b in zip(these, those, strict=True))
    rows = [
        record.Row("trace and compile, scanned, 48 layers over 12", ratio(deep, shallow), "x", BAR),
        record.Row(
            "trace and compile, 12 layers, unrolled over scanned", ratio(unrolled, shallow), "x"
        ),
        *(
            record.Row(f"trace and compile, {name}", statistics.median(seconds), "s")
            for name, seconds in totals.items()
        ),
    ]
    command = f"python benchmarks/compile_time.py --rounds={options.rounds}"
    record.write(options.output, command, rows, rounds=rounds)


if __name__ == "__main__":
    main()
