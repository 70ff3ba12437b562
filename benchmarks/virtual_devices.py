"""The step of eight virtual devices that share two cores, beside that of one device.

    python benchmarks/virtual_devices.py [--pairs=10] [--out FILE]

The same model, batch and weights, in one process; steps take turns, and a ratio is the median over
pairs. What eight devices cost more is what their exchanges and smaller products cost. Results go to
results/virtual_devices.json.
"""

import argparse
import functools
import statistics
import time
from pathlib import Path

import jax
import numpy as np
from record import RESULTS, Row, write

from lm_research import mesh
from lm_research.models import GPT2
from lm_research.objectives import Causal
from lm_research.optimizers import AdamW
from lm_research.train.experiment import Batch, Experiment
from lm_research.train.step import Trainer, train_steps

V, T, B = 8192, 128, 64
MODEL = dict(vocab=V, width=256, layers=4, heads=8, context=T)
MESHES = {"data=8": dict(data=8), "fsdp=8": dict(data=1, fsdp=8), "data=2 fsdp=4": dict(fsdp=4)}


class Side:
    """A run on one mesh, a step at a time."""

    def __init__(self, x: Experiment, sizes: dict[str, int], count: int):
        self.mesh = functools.partial(mesh.Mesh(**sizes).activate, jax.devices()[:count])
        tokens = np.random.default_rng(0).integers(0, V, (1, B, T + 1), np.int32)
        batch = {"tokens": tokens[..., :-1], "targets": tokens[..., 1:]}
        batch["weights"] = np.ones((1, B, T), np.float32)
        with self.mesh():
            trainer = Trainer.of(x)
            self.state, self.batch = trainer.init(), mesh.place(batch, leading=1)
            self.run = jax.jit(functools.partial(train_steps, trainer), donate_argnums=0)
        self.seconds()

    def seconds(self) -> float:
        """Of the next step."""
        start = time.perf_counter()
        with self.mesh():
            self.state, numbers = self.run(self.state, self.batch)
            jax.block_until_ready((self.state, numbers))
        return time.perf_counter() - start


def main() -> None:
    """Measures, and writes what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--out", type=Path, default=RESULTS / "virtual_devices.json")
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 8)
    optimizer = AdamW(1e-3, warmup=2)
    x = Experiment(
        model=GPT2(**MODEL), objective=Causal(T), optimizer=optimizer, steps=100, batch=Batch(B)
    )
    one = Side(x, {}, 1)
    rows, pairs = [], {}
    for name, sizes in MESHES.items():
        eight = Side(x, sizes, 8)
        pairs[name] = [(one.seconds(), eight.seconds()) for _ in range(options.pairs)]
        ratio = statistics.median(b / a for a, b in pairs[name])
        rows.append(Row(f"a step on 8 virtual devices, {name}, over one", ratio, "times", 1.1))
    details = dict(model=MODEL, batch=B, length=T, seconds=pairs)
    write(options.out, "python benchmarks/virtual_devices.py", rows, **details)


if __name__ == "__main__":
    main()
