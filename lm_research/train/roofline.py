"""How long a step takes at least, by the peak rates of the devices: the roofline model.

Williams et al. (2009). A hierarchy of links is used as collectives use it: inside a domain (a
slice, or a host of GPUs) first, and beyond it each device sends its own part alone.
"""

import dataclasses
import math
from collections.abc import Sequence

from lm_research.train.chips import Chip
from lm_research.train.collectives import Collective, factor

DAY = 24 * 60 * 60
RECOMPUTED = {"none": 0.0, "dots": 0.0, "full": 2.0}  # FLOPs per parameter and token, besides 6


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of a step.

    Attributes:
      compute: at the bfloat16 peak, what is computed again included.
      memory: of traffic to and from HBM.
      links: of collectives over each set of mesh axes.
      network: of what they send beyond a slice or host.
      useful: of the model's own FLOPs at the peak.
    """

    compute: float
    memory: float
    links: dict[str, float]
    network: dict[str, float]
    useful: float

    @property
    def overlapped(self) -> float:
        """Where all four go on at the same time."""
        sent = sum(self.links.values()), sum(self.network.values())
        return max(self.compute, self.memory, *sent)

    @property
    def apart(self) -> float:
        """Where the devices wait for every collective."""
        sent = sum(self.links.values()) + sum(self.network.values())
        return max(self.compute, self.memory) + sent


def roofline(
    chip: Chip,
    count: int,
    slices: int,
    useful: float,
    remat: str,
    traffic: float,
    collectives: Sequence[Collective],
) -> Roofline:
    """The least time of a step.

    Args:
      chip: the device.
      count: of them.
      slices: that a slower network joins.
      useful: FLOPs of a step, of all devices.
      remat: what the backward pass computes again.
      traffic: bytes that a device reads from its memory and writes to it.
      collectives: of the step's program.
    """
    seconds = useful / count / chip.peak
    links: dict[str, float] = {}
    network: dict[str, float] = {}
    domain = min(chip.domain or count, count // slices)
    for one in collectives:
        name = "*".join(one.axes)
        inside, beyond = divided(one, domain)
        links[name] = links.get(name, 0.0) + inside / chip.link
        if beyond:
            network[name] = network.get(name, 0.0) + beyond / chip.network
    again = 1 + RECOMPUTED[remat] / 6
    return Roofline(seconds * again, traffic / chip.hbm, links, network, seconds)


def divided(one: Collective, domain: int) -> tuple[float, float]:
    """Bytes that a device sends inside its domain of so many devices, and beyond it."""
    total = one.times * one.volume
    places = [place // domain for place in one.members]
    domains = set(places)
    if one.kind == "collective-permute":
        return (one.most, 0.0) if places[::2] == places[1::2] else (0.0, one.most)
    if len(domains) == 1:
        return one.most, 0.0
    inside = math.ceil(len(one.members) / len(domains))
    return (
        total * factor(one.kind, inside),
        total / inside * factor(one.kind, len(domains)),
    )
