"""Every family trained for five steps on eight virtual devices, however they share out the work.

    python benchmarks/meshes.py [--only gpt2 t5 ...] [--out FILE]
Each family trains with the objective that it was made for, from the same weights and on the same
batches of the documentation that Python carries: on one device, and with every axis of the mesh,
alone and with others. What is told is the largest relative difference between the losses of a mesh
and those of one device. An axis that a family has no use for (experts) or that does not divide it
is told, too, with the reason. Results go to results/meshes.json, and add up family by family.
"""

import argparse
import functools
import inspect
import json
import math
import tempfile
from pathlib import Path

import jax
from absl import flags
from record import RESULTS, Row, write

from lm_research import mesh, models
from lm_research.commands.config_flag import loaded
from lm_research.data import pipeline
from lm_research.errors import UserError
from lm_research.models.sizes import SIZED
from lm_research.train import loop
from lm_research.train.experiment import experiment
from lm_research.train.step import Trainer, train_steps

CONFIG = Path(__file__).parents[1] / "configs" / "pretrain.py"
KNOBS = "width=64,layers=2,heads=8,vocab=512,length=16,batch=8,steps=100,dtype=float32"
STEPS = 5
MESHES = {
    "data 8": dict(data=8),
    "fsdp 8": dict(fsdp=8),
    "tensor 8": dict(tensor=8),
    "sequence 8": dict(sequence=8),
    "pipeline 2": dict(pipeline=2),
    "expert 8": dict(expert=8),
    "data 2 x fsdp 2 x tensor 2": dict(data=2, fsdp=2, tensor=2),
}


def losses(x, data, sizes: dict[str, int]) -> list[float]:
    """Of the first steps, on so many of the devices."""
    count = math.prod(size for name, size in sizes.items() if name != "slices")
    with mesh.Mesh(**sizes).activate(jax.devices()[:count]):
        trainer = Trainer.of(x)
        state, found = trainer.init(), []
        step = jax.jit(functools.partial(train_steps, trainer), donate_argnums=0)
        with pipeline.batches(data.train, x.objective, seed=0, size=x.batch.size) as stream:
            for _ in range(STEPS):
                batches = pipeline.together([next(stream)[1]])
                state, numbers = step(state, mesh.place(batches, leading=1))
                found += numbers["loss"].tolist()
    return found


def compared(family: str) -> dict[str, float | str]:
    """The largest relative difference from one device, by mesh; or why there is none."""
    with tempfile.TemporaryDirectory() as scratch:
        config = loaded(f"{CONFIG}:family={family},{KNOBS}")
        dropout = inspect.signature(getattr(models, config.model.kind)).parameters
        for name in {"dropout", "attention_dropout"} & set(dropout):
            config.model[name] = (
                0.0  # stages draw what they drop for a piece of the batch at a time
            )
        resolved, data = loop.prepare(config, Path(scratch))
        x = experiment(resolved).bound(data.tokenizer)
        expected, found = losses(x, data, {}), {}
        for name, sizes in MESHES.items():
            if "expert" in sizes and family != "mixtral":
                found[name] = "it has no experts"
                continue
            try:
                got = losses(x, data, sizes)
                found[name] = max(abs(a - b) / b for a, b in zip(got, expected, strict=True))
            except UserError as error:
                found[name] = str(error)
            print(f"{family}, {name}: {found[name]}", flush=True)
            jax.clear_caches()
    return found


def main() -> None:
    """Trains, compares, and writes what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=list(SIZED), default=list(SIZED))
    parser.add_argument("--out", type=Path, default=RESULTS / "meshes.json")
    options = parser.parse_args()
    flags.FLAGS.mark_as_parsed()  # as Grain needs
    jax.config.update("jax_num_cpu_devices", 8)
    # Ten programs for each family, which compute for less time than they take to compile.
    jax.config.update("jax_disable_most_optimizations", True)
    found = json.loads(options.out.read_text())["families"] if options.out.is_file() else {}
    for family in options.only:
        found[family] = compared(family)
        write(options.out, "python benchmarks/meshes.py", told(found), knobs=KNOBS, families=found)


def told(found: dict[str, dict[str, float | str]]) -> list[Row]:
    """The largest difference on each mesh, of all families that it divides."""
    return [
        Row(
            f"{name}: largest difference of a loss, {len(numbers)} families",
            max(numbers),
            "relative",
            1e-5,
        )
        for name in MESHES
        if (numbers := [v[name] for v in found.values() if not isinstance(v[name], str)])
    ]


if __name__ == "__main__":
    main()
