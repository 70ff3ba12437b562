"""A training step of a tiny Mixtral against that of a dense model with the same active parameters.

    python benchmarks/experts.py --rounds=30

Eight experts of which two read each token, against one MLP of twice an expert's width. Steps of the
two alternate in one process; the ratio is the median over pairs. On CPU it should be 1.5 at most.
"""

import argparse
import functools
import statistics
import time
from pathlib import Path

import jax
import numpy as np
import record
from steps import trainer

from lm_research.mesh import single
from lm_research.models import Llama, Mixtral
from lm_research.objectives import Causal
from lm_research.train.step import train_step

BAR = 1.5
# Mixtral 8x7B's proportions: four queries per key, and experts of 3.5 times the width.
SHAPE = dict(vocab=8192, width=256, layers=4, heads=8, kv_heads=2)
HIDDEN, LENGTH, ROWS = 896, 512, 16
MODELS = {
    "experts": Mixtral(**SHAPE, hidden=HIDDEN, experts=8, active=2),
    "dense": Llama(**SHAPE, hidden=2 * HIDDEN),
}


def prepared(model):
    """A compiled step of a model, and its first state."""
    made = trainer(model, Causal(LENGTH), 3e-4)
    state = made.init()
    step = jax.jit(functools.partial(train_step, made), donate_argnums=0)
    return step.lower(state, batch(0)).compile(), state


def batch(seed: int) -> dict[str, np.ndarray]:
    """Tokens drawn evenly, which a router at its start sends everywhere."""
    tokens = np.random.default_rng(seed).integers(0, SHAPE["vocab"], (ROWS, LENGTH + 1), np.int32)
    weights = np.ones((ROWS, LENGTH), np.float32)
    return {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "weights": weights}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--output", type=Path, default=record.RESULTS / "experts.json")
    options = parser.parse_args()
    seconds = {name: [] for name in MODELS}
    with single():
        steps, states = {}, {}
        for name, model in MODELS.items():
            steps[name], states[name] = prepared(model)
        for turn in range(options.rounds + 2):
            given = batch(turn)
            for name in MODELS:
                start = time.perf_counter()
                states[name], _ = steps[name](states[name], given)
                jax.block_until_ready(states[name])
                if turn >= 2:  # the first steps warm caches up
                    seconds[name].append(time.perf_counter() - start)
    ratio = statistics.median(a / b for a, b in zip(*seconds.values(), strict=True))
    rows = [
        record.Row("training step, 2 of 8 experts over dense", ratio, "x", BAR),
        *(
            record.Row(f"training step, {name}", statistics.median(found), "s")
            for name, found in seconds.items()
        ),
    ]
    command = f"python benchmarks/experts.py --rounds={options.rounds}"
    record.write(options.output, command, rows, shape=SHAPE | {"hidden": HIDDEN}, seconds=seconds)


if __name__ == "__main__":
    main()
