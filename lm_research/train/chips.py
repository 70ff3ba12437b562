"""What accelerators can do, from their makers' data sheets, and how a number of them is named."""

import dataclasses
import re

from lm_research.config import known
from lm_research.errors import UserError

GIB, GB = 2**30, 10**9


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator: one JAX device.

    Attributes:
      kind: words of its `device_kind`.
      backend: what JAX calls its platform.
      peak: dense bfloat16 FLOP/s (float16 where it has no bfloat16).
      memory: bytes of HBM.
      hbm: bytes/s of it.
      link: bytes/s that one chip sends to its neighbours along one mesh axis: both ways of a torus
        axis (ICI), or all of its NVLinks one way.
      network: bytes/s that one chip sends beyond `domain`, one way.
      domain: chips that `link` joins; None is a whole slice.
      cores: what the maker's names of slices count for each chip.
      capability: of CUDA; None elsewhere.
      source: of the numbers.
      most: chips of the largest slice; None where there are none.
      aliases: other words for the kind.
    """

    kind: str
    backend: str
    peak: float
    memory: int
    hbm: float
    link: float
    network: float
    domain: int | None = None
    cores: int = 1
    capability: float | None = None
    source: str = ""
    most: int | None = None
    aliases: tuple[str, ...] = ()


def _tpu(kind, peak, memory, hbm, link, network, cores, page, most, *aliases) -> Chip:
    numbers = peak * 1e12, memory * GIB, hbm * GB, link * GB, network * GB
    source = f"Google, Cloud TPU documentation, {page}"
    return Chip(kind, "tpu", *numbers, cores=cores, source=source, most=most, aliases=aliases)


def _gpu(kind, peak, memory, hbm, link, network, capability, source, domain=8, aliases=()) -> Chip:
    numbers = peak * 1e12, memory * GIB, hbm * GB, link * GB, network * GB
    source = f"NVIDIA, data sheet of {source}"
    return Chip(
        kind, "gpu", *numbers, domain, capability=capability, source=source, aliases=aliases
    )


# TFLOP/s, GiB, GB/s of memory, of links and of the network. A TPU's links are its ICI's
# one-way sum over its axes: three of a v4 and v5p, two of a v5e and v6e.
CHIPS = {
    "v4": _tpu("TPU v4", 275, 32, 1200, 100, 6.25, 2, "TPU v4", 4096),
    "v5e": _tpu("TPU v5 lite", 197, 16, 800, 100, 3.125, 1, "TPU v5e", 256, "TPU v5e"),
    "v5p": _tpu("TPU v5", 459, 95, 2765, 200, 6.25, 2, "TPU v5p", 6144, "TPU v5p"),
    "v6e": _tpu("TPU v6 lite", 918, 32, 1600, 200, 12.5, 1, "TPU v6e", 256, "TPU v6e"),
    "h200": _gpu("H200", 989, 141, 4800, 450, 50, 9.0, "H200 SXM; 400 Gb/s a GPU: DGX H200"),
    "h100": _gpu("H100", 989, 80, 3350, 450, 50, 9.0, "H100 SXM; 400 Gb/s a GPU: DGX H100"),
    "a100": _gpu(
        *("A100", 312, 80, 2039, 300, 25, 8.0),
        "A100 80GB SXM; 200 Gb/s a GPU: DGX A100",
        aliases=("A100 PCIe",),  # of the same peak
    ),
    "l4": _gpu("L4", 121, 24, 300, 32, 3.125, 8.9, "L4; PCIe Gen4 x16, one GPU a host", 1),
    "v100": _gpu("V100", 125, 32, 900, 150, 12.5, 7.0, "V100 32GB SXM2; 100 Gb/s a GPU: DGX-2"),
}
NAMES = {"v5litepod": "v5e"}  # what makers call slices of them, where that is another name
# Words that make another chip of a kind, or a part of one.
OTHERWISE = {"lite", "pcie", "nvl", "mig", "ada", "max"}


@dataclasses.dataclass(frozen=True)
class Pod:
    """So many devices of one kind.

    Attributes:
      name: as it was given, in small letters.
      chip: None is a CPU's virtual device.
      count: chips, which are as many JAX devices.
    """

    name: str
    chip: Chip | None
    count: int

    def __str__(self) -> str:
        if self.chip is None:
            return f"{self.count} devices of this machine's CPU"
        named = self.count * self.chip.cores
        told = f" ({self.name} counts its {named} TensorCores)" if self.cored else ""
        return f"{self.count} x {self.label}{told}"

    @property
    def label(self) -> str:
        """What the chip is called."""
        name = next(name for name, chip in CHIPS.items() if chip is self.chip)
        return f"TPU {name} chip" if self.chip.backend == "tpu" else name.upper()

    @property
    def cored(self) -> bool:
        """Whether its name counts cores, of which a chip has more than one."""
        return self.chip is not None and self.chip.cores > 1 and "-" in self.name


def pod(text: str) -> Pod:
    """The devices that a text names.

    `NAME-N` is the maker's own name of a slice: v4-N and v5p-N count TensorCores, two a chip, and
    all others chips. `NAMExN` and `NxNAME` count chips. `N` is so many devices of this machine.

    Raises:
      UserError: there is no such chip, or not so many.
    """
    given = text.strip().lower()
    if re.fullmatch(r"\d+", given):
        return Pod(given, None, _positive(int(given), text))
    first, last = re.fullmatch(r"(\d+)x(.+)", given), re.fullmatch(r"(.+?)(-|x)(\d+)", given)
    if not (first or last):
        raise UserError(
            f"--devices={text}; it takes NAME-N such as v5p-256, NxNAME such as 8xH100, or a "
            f"number of this machine's devices; names: {', '.join(CHIPS)}"
        )
    name, count = (first[2], int(first[1])) if first else (last[1], int(last[3]))
    name = NAMES.get(name, name)
    known(name, CHIPS, "chip")
    chip = CHIPS[name]
    _positive(count, text)
    if not first and last[2] == "-":
        if count % chip.cores:
            raise UserError(
                f"--devices={text}: {name}-N counts TensorCores, {chip.cores} a chip; it takes a "
                f"multiple of {chip.cores} (or {count}x{name} for so many chips)"
            )
        count //= chip.cores
    return Pod(given, chip, count)


def of_kind(kind: str) -> Chip | None:
    """The chip with a `device_kind`, such as `NVIDIA A100-SXM4-80GB`; None where it is unknown."""
    words = set(re.split(r"[\s-]+", kind.lower()))
    for chip in CHIPS.values():
        for name in (chip.kind, *chip.aliases):
            own = set(name.lower().split())
            if own <= words and not (words - own) & OTHERWISE:
                return chip
    return None


def check_slices(pod: Pod, slices: int) -> None:
    """Refuses slices that are larger than the maker's.

    Raises:
      UserError: says how many slices it takes.
    """
    most = pod.chip and pod.chip.most
    if most and pod.count > most * slices:
        raise UserError(
            f"--devices={pod.name}: a slice of {pod.label}s has at most {most}, and mesh.slices is "
            f"{slices}; {pod.count} chips take mesh.slices={-(-pod.count // most)} or more"
        )


def _positive(count: int, text: str) -> int:
    if count < 1:
        raise UserError(f"--devices={text}; it takes one device or more")
    return count
