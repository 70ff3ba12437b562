"""How long training stands still for its checkpoints: 1.5 GB, GPT-2 small's size with AdamW.

    python benchmarks/checkpoint.py --seconds=60 --saves=3

Steps of a stand-in follow each other for `seconds`, then the state is saved, over and over. The
loop stands still in `due`, in `save` and in its wait for a save that is not done when the next is
due. The first save, which also compiles the fingerprints, is told apart.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import record

from lm_research import tree
from lm_research.train.checkpoint import Checkpoint
from lm_research.train.fingerprint import fingerprint

BAR = 0.05
SHAPES = {  # L=12, D=768, N=12, H=64, F=3072, V=50257, T=1024
    "embedding": (50257, 768),
    "position": (1024, 768),
    "norms": (50, 768),
    "attention": (12, 4, 768, 12, 64),
    "mlp": (12, 2, 768, 3072),
    "biases": (12, 9 * 768),
}


def first_state():
    """Parameters and AdamW's two moments, random."""

    def draw(key):
        keys = jax.random.split(key, 3 * len(SHAPES))
        leaves = [jax.random.normal(k, s) for k, s in zip(keys, [*SHAPES.values()] * 3)]
        n = len(SHAPES)
        parts = [dict(zip(SHAPES, leaves[i * n : (i + 1) * n])) for i in range(3)]
        return {
            "step": jnp.int32(0),
            "trained": parts[0],
            "optimizer": {"mu": parts[1], "nu": parts[2]},
        }

    return jax.jit(draw)(jax.random.key(0))


def step(state, work):
    """AdamW on a made-up gradient, and as many products of matrices as `work` is long."""
    noise = jax.lax.scan(lambda x, _: (jnp.tanh(x @ x * 1e-3), None), work, length=16)[0].mean()
    mean = jax.tree.map(
        lambda m, p: 0.9 * m + 0.1 * (p * 1e-3 + noise), state["optimizer"]["mu"], state["trained"]
    )
    square = jax.tree.map(lambda v, m: 0.95 * v + 0.05 * m * m, state["optimizer"]["nu"], mean)
    update = lambda p, m, v: p * 0.9999 - 1e-4 * m * jax.lax.rsqrt(jnp.abs(v) + 1e-8)
    trained = jax.tree.map(update, state["trained"], mean, square)
    return {
        "step": state["step"] + 1,
        "trained": trained,
        "optimizer": {"mu": mean, "nu": square},
    }


def measure(directory: Path, seconds: float, saves: int) -> dict:
    """Trains for `saves` intervals with a save after each, the first of which is told apart."""
    state, work = first_state(), jnp.ones((1024, 1024)) * 1e-2
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    advance = jax.jit(step, donate_argnums=0)
    state = jax.block_until_ready(advance(state, work))
    stood, steps, still, count = [], {True: [], False: []}, 0.0, 0
    checkpoints = Checkpoint(every=1 << 30, keep=1).open(directory)
    for _ in range(saves + 1):
        began, still = time.monotonic(), 0.0
        while time.monotonic() - began < seconds:
            start = time.monotonic()
            state = jax.block_until_ready(advance(state, work))
            done = time.monotonic()
            count += 1
            writing = any("tmp" in path.name for path in directory.iterdir())
            steps[writing].append(done - start)
            checkpoints.due(count)
            still += time.monotonic() - done
        start = time.monotonic()
        checkpoints.save(count, state, count)
        stood.append(still + time.monotonic() - start)
    start = time.monotonic()
    checkpoints.close()
    written = time.monotonic() - start
    first, *later = stood
    process, wall = time.process_time(), time.monotonic()
    fingerprint(state)
    process, wall = time.process_time() - process, time.monotonic() - wall
    return {
        "state_gigabytes": round(size / 1e9, 3),
        "parameters": tree.count(state["trained"]),
        "seconds_between_saves": seconds,
        "saves": saves,
        "stood_still_seconds": [round(s, 3) for s in later],
        "first_save_seconds": round(first, 3),
        "stood_still": round(statistics.mean(later) / seconds, 5),
        "step_seconds": round(statistics.median(steps[False]), 4),
        "step_seconds_while_writing": round(statistics.median(steps[True] or [0.0]), 4),
        "written": round(written, 3),
        "fingerprint_seconds": round(wall, 4),
        "fingerprint_processor_seconds": round(process, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="between two saves")
    parser.add_argument("--saves", type=int, default=3)
    parser.add_argument(
        "--directory", default=None, help="where to write; default: a temporary one"
    )
    parser.add_argument("--output", type=Path, default=record.RESULTS / "checkpoint.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        found = measure(Path(directory), arguments.seconds, arguments.saves)
    what = f"checkpoint of {found['state_gigabytes']} GB every {arguments.seconds:g} s"
    rows = [
        record.Row(f"{what}: the loop stands still", 100 * found["stood_still"], "%", 100 * BAR),
        record.Row(f"{what}: time to write it, meanwhile", found["written"], "s"),
    ]
    command = f"python benchmarks/checkpoint.py --seconds={arguments.seconds:g}"
    record.write(arguments.output, f"{command} --saves={arguments.saves}", rows, **found)


if __name__ == "__main__":
    main()
