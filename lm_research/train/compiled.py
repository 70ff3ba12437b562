"""The training step, compiled ahead of time: its memory and its partitioned program."""

import math
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax

from lm_research import log
from lm_research.train.step import State, Trainer, train_steps

# What nobody runs need not be fast: a sixth of the time, and the same buffers.
UNOPTIMIZED = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
if metadata.version("jaxlib").startswith("0.10."):  # later ones do not know the flag
    UNOPTIMIZED["xla_cpu_use_fusion_emitters"] = False
PARTITIONED = "after_spmd-partitioning"


class Program(NamedTuple):
    """A step's program on each device.

    Attributes:
      memory: XLA's account of it.
      text: the partitioned module, before anything that only this backend does to it.
    """

    memory: Any
    text: str


def program(trainer: Trainer, state: State, batches: Any) -> Program:
    """Compiles one step for the current mesh; no array is made.

    Args:
      trainer: makes the step.
      state, batches: shapes with shardings.
    """

    def step(state, batches):
        return train_steps(trainer, state, batches)

    with tempfile.TemporaryDirectory() as directory:
        # The name keeps a compilation cache from giving back a program without its text.
        step.__name__ = f"planned_{Path(directory).name}"
        options = UNOPTIMIZED | {
            "xla_dump_to": directory,
            "xla_dump_hlo_as_text": True,
            "xla_dump_hlo_pass_re": "spmd-partitioning",
        }
        lowered = jax.jit(step, donate_argnums=0).lower(state, batches)
        compiled = lowered.compile(compiler_options=options)
        texts = sorted(Path(directory).glob(f"*planned*{PARTITIONED}*"))
        text = texts[0].read_text() if texts else compiled.as_text()
    if not texts and jax.sharding.get_mesh().size > 1:
        why = "XLA did not write the partitioned module"
        log.fallback("the program as it was partitioned", "the one that the CPU runs", why)
    return Program(compiled.memory_analysis(), text)


def placed_bytes(tree: Any) -> int:
    """Bytes that each device holds of a tree of shapes with shardings."""
    size = lambda leaf: leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
    return sum(map(size, jax.tree.leaves(tree)))
