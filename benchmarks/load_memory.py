"""Peak memory of reading a sharded Hugging Face directory onto the mesh, over its parameters'.

    python benchmarks/load_memory.py

A Llama is written into a temporary directory, a file at a time, and read from there by a process of
its own. What counts is the most that was resident (VmHWM), less what it was in a process that does
all the same but for the reading. Pages of a mapped file count as long as they are mapped; the
system's cache of files, which it gives up when memory is short, does not.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import record

from lm_research import config, mesh, tree
from lm_research.hub import load, names, safetensors, save

# One model, its largest parameter while that is copied to its devices (a fifth of this model), and
# a tenth for what is read at once and for what allocators keep.
BAR = 1.3
# TinyLlama's shapes (Zhang et al., 2024); eight of its 22 layers make 2 GB.
LAYERS = 8
SHAPES = dict(vocab=32_000, width=2048, heads=32, kv_heads=4, hidden=5632, tied=False)
FILE = 250_000_000  # bytes; the hub's are larger, and as many
ONE = "one device"
CASES = (("float32", ONE), ("bfloat16", ONE), ("float32", "fsdp=2,tensor=2"))


def write(directory: Path, layers: int, dtype: str) -> None:
    """A Llama's config.json, and random weights in several files with an index."""
    section = {"kind": "Llama", **SHAPES, "layers": layers}
    given = names.parameters(names.abstract(config.build(section, save.CONTENTS, "model")))
    family = names.fitting(section, given)
    shapes = {name: tensor.shape for name, tensor in names.layout(family, given).items()}
    rng = np.random.default_rng(0)
    make = lambda name: rng.standard_normal(shapes[name], np.float32).astype(jnp.dtype(dtype))
    described = save.described_as(family, section, names.sizes(given))
    safetensors.dump({**described, "dtype": dtype}, directory / "config.json")
    safetensors.write(directory, shapes, make, FILE)


def resident() -> int:
    """Bytes: the most that was ever resident of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(dict(line.split(":") for line in lines)["VmHWM"].split()[0])


def axes(where: str) -> dict[str, int]:
    """The sizes of a mesh's axes, of `fsdp=2,tensor=2`."""
    pairs = [] if where == ONE else [axis.split("=") for axis in where.split(",")]
    return {name: int(size) for name, size in pairs}


def read(directory: Path, where: str, reads: bool) -> dict[str, Any]:
    """In a process of its own: builds the model, reads its weights or not, and tells the peak."""
    model = config.build(load.section(directory), save.CONTENTS, "model")
    with mesh.Mesh(**axes(where)).activate():
        shapes = tree.unboxed(names.abstract(model))
        jax.block_until_ready(jnp.zeros(8))  # starts the devices
        start = time.perf_counter()
        params = load.load(directory, model) if reads else {}
        seconds = time.perf_counter() - start
        peak = resident()
        del params
    sizes = [4 * leaf.size for leaf in jax.tree.leaves(shapes)]
    return {"peak": peak, "bytes": sum(sizes), "largest": max(sizes), "seconds": seconds}


def apart(directory: Path, where: str, reads: bool) -> dict[str, Any]:
    """What `read` tells, in a fresh process with as many devices as the mesh has."""
    devices = math.prod(axes(where).values())
    flags = f"--xla_force_host_platform_device_count={devices}"
    command = [sys.executable, __file__, f"--read={directory}", f"--mesh={where}"]
    made = subprocess.run(
        command if reads else [*command, "--skip"],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(made.stdout.splitlines()[-1])


def measured(directory: Path, layers: int, dtype: str, where: str) -> tuple[list[Any], dict]:
    """Rows, and what they are made of."""
    write(directory, layers, dtype)
    files = list(directory.glob("*.safetensors"))
    without, found = (apart(directory, where, reads) for reads in (False, True))
    stored = sum(path.stat().st_size for path in files)
    what = f"reading {stored / 1e9:.2f} GB of {dtype} in {len(files)} files onto {where}"
    more = found["peak"] - without["peak"]
    rows = [
        record.Row(f"{what}: peak memory over the parameters'", more / found["bytes"], "x", BAR),
        record.Row(f"{what}: the parameters", found["bytes"] / 1e9, "GB"),
        record.Row(f"{what}: time, files cached", found["seconds"], "s"),
    ]
    largest = round(found["largest"] / found["bytes"], 3)
    return rows, {"largest_parameter": largest, "without": without, "found": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--directory", help="where to write; default: a temporary one")
    parser.add_argument("--output", type=Path, default=record.RESULTS / "load_memory.json")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--mesh", help=argparse.SUPPRESS)
    parser.add_argument("--skip", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        return print(json.dumps(read(options.read, options.mesh, not options.skip)))
    rows, details = [], {}
    for dtype, where in CASES:
        with tempfile.TemporaryDirectory(dir=options.directory) as directory:
            found, detail = measured(Path(directory), options.layers, dtype, where)
        rows += found
        details[f"{dtype}, {where}"] = detail
    record.write(options.output, "python benchmarks/load_memory.py", rows, cases=details)


if __name__ == "__main__":
    main()
