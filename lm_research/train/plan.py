"""What a run costs before it starts: its memory, its traffic, and its time at best."""

import contextlib
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from lm_research import tree
from lm_research.errors import UserError
from lm_research.target import tracing_for
from lm_research.train import unread
from lm_research.train.chips import Pod, check_slices
from lm_research.train.collectives import Collective, collectives
from lm_research.train.compiled import placed_bytes, program
from lm_research.train.flops import CONVENTION, flops_per_token
from lm_research.train.roofline import DAY, Roofline, roofline
from lm_research.train.step import Trainer

KEPT = 0.05  # of a chip's memory, for its runtime and for what lies between arrays


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each device.

    Attributes:
      weights: trained and held.
      gradients: of what is trained, and their sums where there are microbatches.
      optimizer: its state.
      batch: of one step.
      activations: what is saved for the backward pass, and all other temporaries.
      limit: what there is; of a CPU, of all devices together.
      shared: devices that share it.
    """

    weights: int
    gradients: int
    optimizer: int
    batch: int
    activations: int
    limit: int
    shared: int = 1

    @property
    def state(self) -> int:
        """What a step cannot do without, whatever its batch."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        """All of it."""
        return self.state + self.batch + self.activations

    @property
    def fits(self) -> bool:
        """Whether there is room for it, and for `KEPT`."""
        return fits(self.total, self.limit, self.shared)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `plan` found.

    Attributes:
      pod: the devices.
      mesh: its axes' sizes.
      slices: that a slower network joins.
      parameters, trained: how many.
      flops_per_token: as in a run's facts.
      tokens: of a step.
      memory: on each device.
      collectives: of a step.
      roofline: None where the device's peaks are not known.
    """

    pod: Pod
    mesh: dict[str, int]
    slices: int
    parameters: int
    trained: int
    flops_per_token: float
    tokens: int
    memory: Memory
    collectives: tuple[Collective, ...]
    roofline: Roofline | None

    @property
    def assumptions(self) -> str:
        """How the numbers were come by."""
        chip = self.pod.chip
        if chip is None:
            return (
                "all memory is that of XLA's program for this CPU, on which activations are "
                "float32; collectives are those of the partitioned program\n"
                "rows are as long as objective.length; this CPU has no published peak, so there "
                "is no time"
            )
        return (
            f"weights, gradients and optimizer: exactly, by their shardings; activations: by XLA's "
            f"buffers for this step as {chip.backend.upper()} layers trace it, with a stand-in for "
            f"flash attention, assigned on a CPU, which keeps float32 copies of bfloat16 operands: "
            "rather too much\n"
            f"{KEPT:.0%} of memory stays free; rows are as long as objective.length; an all-reduce "
            "of which a device keeps its part alone is a reduce-scatter; times are at the peak "
            f"rates of the data sheet ({chip.source}), so no step is faster"
        )

    def json(self) -> dict[str, Any]:
        """All numbers as plain data: bytes, seconds, FLOPs."""
        found = {
            "devices": self.pod.name,
            "chips": self.pod.count,
            "kind": self.pod.chip and self.pod.chip.kind,
            "mesh": self.mesh,
            "slices": self.slices,
            "parameters": self.parameters,
            "trained_parameters": self.trained,
            "flops_per_token": self.flops_per_token,
            "flops_convention": CONVENTION,
            "tokens_per_step": self.tokens,
            "memory": dataclasses.asdict(self.memory)
            | {"total": self.memory.total, "fits": self.memory.fits},
            "collectives": [
                {"kind": kind, "axes": axes, "times": times, "bytes": sent}
                for (kind, axes), (times, sent) in traffic(self.collectives).items()
            ],
            "assumptions": self.assumptions,
        }
        if (line := self.roofline) is None:
            return found
        speed = {
            name: {
                "seconds": seconds,
                "mfu": line.useful / seconds,
                "tokens_per_day": DAY / seconds * self.tokens,
            }
            for name, seconds in (("overlapped", line.overlapped), ("apart", line.apart))
        }
        return found | {"roofline": dataclasses.asdict(line) | speed}


def fits(total: int, limit: int, shared: int) -> bool:
    """Whether so many bytes on each of the devices that share a memory leave `KEPT` of it."""
    return total * shared <= (1 - KEPT) * limit


def traffic(found: Sequence[Collective]) -> dict[tuple[str, str], tuple[int, float]]:
    """By kind and axes: how many there are in a step, and the bytes that each device sends."""
    sums: dict[tuple[str, str], tuple[int, float]] = {}
    for one in found:
        key = one.kind, "*".join(one.axes)
        times, sent = sums.get(key, (0, 0.0))
        sums[key] = times + one.times, sent + one.sent
    return dict(sorted(sums.items(), key=lambda item: -item[1][1]))


def devices(pod: Pod) -> list[jax.Device]:
    """As many simulated devices as the pod has.

    Raises:
      UserError: JAX was started with fewer.
    """
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # JAX has started, and counts no more
            jax.config.update("jax_num_cpu_devices", pod.count)
            jax.config.update("jax_platforms", "cpu")
    found = jax.devices("cpu")
    if len(found) < pod.count:
        raise UserError(
            f"--devices={pod.name} takes {pod.count} simulated devices, and JAX was started with "
            f"{len(found)} (XLA_FLAGS)"
        )
    return found[: pod.count]


def plan(given: Mapping[str, Any], pod: Pod, vocab: int | None = None) -> Plan:
    """Plans a config's training step on devices that need not be there.

    Args:
      given: the config.
      pod: the devices.
      vocab: V, where the config does not say it.

    Raises:
      UserError: the config cannot mean anything, or the mesh does not divide it or the devices.
    """
    resolved = unread.resolved(given, vocab)
    x = unread.bound(resolved)
    check_slices(pod, x.mesh.slices)
    with x.mesh.activate(devices(pod)) as here, tracing(pod):
        x.check_mesh()
        trainer = Trainer.of(x)
        state, batches = trainer.abstract(), unread.batches(x)
        compiled = program(trainer, state, batches)
        sizes = dict(here.shape)
        params = jax.eval_shape(x.weights.join, state.trained, state.held)
        found = collectives(compiled.text, sizes) if here.size > 1 else []
    memory = _memory(pod, state, batches, compiled.memory, x.batch.microbatches)
    flops = flops_per_token(x.model, params, x.objective.length)
    tokens = x.batch.size * x.objective.length
    slices = x.mesh.slices
    line = None
    if pod.chip is not None:
        remat = remat_of(resolved)
        moved = _moved(memory, found, x.batch.microbatches * (3 if remat == "full" else 2))
        line = roofline(pod.chip, pod.count, slices, flops * tokens, remat, moved, found)
    return Plan(
        pod,
        sizes,
        slices,
        tree.count(params),
        tree.count(state.trained),
        flops,
        tokens,
        memory,
        tuple(found),
        line,
    )


def tracing(pod: Pod):
    """A context in which layers choose as on the pod's chips."""
    if pod.chip is None:
        return contextlib.nullcontext()
    return tracing_for(pod.chip.backend, pod.chip.capability)


def remat_of(resolved: Mapping[str, Any]) -> str:
    """What the backward pass computes again, as the model section or its trunk's says."""
    model = resolved["model"]
    return model.get("trunk", model).get("remat", "none")


def state_memory(given: Mapping[str, Any], pod: Pod, vocab: int | None) -> int:
    """Bytes of weights, gradients and optimizer on each device; nothing is compiled.

    Raises:
      UserError: as `plan`.
    """
    x = unread.bound(unread.resolved(given, vocab))
    with x.mesh.activate(devices(pod)):
        state = Trainer.of(x).abstract()
    return sum(_kept(state, x.batch.microbatches))


def limit(pod: Pod) -> tuple[int, int]:
    """Bytes of memory, and how many of the pod's devices share them."""
    if pod.chip is not None:
        return pod.chip.memory, 1
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), pod.count


def _kept(state: Any, microbatches: int) -> tuple[int, int, int]:
    """Bytes of weights, gradients and optimizer."""
    trained = placed_bytes(state.trained)
    gradients = trained * (2 if microbatches > 1 else 1)
    return trained + placed_bytes(state.held), gradients, placed_bytes(state.optimizer)


def _memory(pod: Pod, state, batches, measured, microbatches: int) -> Memory:
    weights, gradients, optimizer = _kept(state, microbatches)
    # XLA counts gradients among the temporaries, and what outputs do not share with arguments.
    held = measured.temp_size_in_bytes
    held += measured.output_size_in_bytes - measured.alias_size_in_bytes
    activations = max(0, held - gradients)
    return Memory(
        weights, held - activations, optimizer, placed_bytes(batches), activations, *limit(pod)
    )


def _moved(memory: Memory, found: Sequence[Collective], passes: int) -> float:
    """Bytes between a device and its HBM.

    Weights are read in each pass, what is gathered is written and read; the update reads and writes
    weights, gradients and the optimizer's state; activations are written and read.
    """
    gathered = sum(one.times * one.volume for one in found if one.kind == "all-gather")
    return passes * memory.weights + 2 * (gathered + memory.state + memory.activations)
