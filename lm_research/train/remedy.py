"""The smallest change to a config with which it would fit."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from lm_research import config
from lm_research.errors import UserError
from lm_research.train.chips import Pod
from lm_research.train.plan import Plan, fits, limit, plan, state_memory

Change = dict[str, Any]
AGAIN = 16  # of what activations take, computing again spares so much at most


def remedy(given: Mapping[str, Any], pod: Pod, vocab: int | None, first: Plan) -> str:
    """The flags of the first change that fits, in the order of what they cost; empty if none does.

    Weights spread further cost communication; microbatches fuller devices; computing again up to a
    third more; a smaller batch is another run.

    Args:
      given: the config.
      pod: the devices.
      vocab: as `plan` takes it.
      first: the plan of the config as it is, which does not fit.
    """
    given = config.plain(given)
    for change in changes(given, first):
        if not all(_declared(given, path) for path in change):
            continue  # the command takes no such flag
        if _promises(change, given, first) and _fits(changed(given, change), pod, vocab):
            return " ".join(f"--config.{path}={value}" for path, value in change.items())
    return ""


def changes(given: Mapping[str, Any], first: Plan) -> Iterator[Change]:
    """What may be changed, the cheapest first."""
    spread = [_spread(given, first, size) for size in _doublings(first.mesh, given)]
    whole = spread[-1] if spread else {}
    yield from spread
    rows = given["batch"]["size"]
    now = given["batch"].get("microbatches") or 1
    cuts = [now * 2**i for i in range(1, rows.bit_length()) if rows % (now * 2**i) == 0]
    micro = [{"batch.microbatches": count} for count in cuts]
    yield from micro
    yield from ({**whole, **one} for one in micro if whole)
    for policy in ("dots", "full"):
        one = {f"{_model(given)}.remat": policy}
        yield one
        yield from ([{**whole, **one}] if whole else [])
    yield from ({**whole, **one, **cut} for cut in micro)
    for smaller in (rows // 2**i for i in range(1, rows.bit_length())):
        yield {**whole, **one, "batch.size": smaller}


def changed(given: Mapping[str, Any], change: Change) -> dict[str, Any]:
    """A config with some fields replaced."""
    result = copy.deepcopy(dict(given))
    for path, value in change.items():
        *sections, last = path.split(".")
        here = result
        for name in sections:
            here = here[name]
        here[last] = value
    return result


def _declared(given: Mapping[str, Any], path: str) -> bool:
    """Whether a config has a field, so that its value can be replaced."""
    for name in path.split("."):
        if not isinstance(given, Mapping) or name not in given:
            return False
        given = given[name]
    return True


def _promises(change: Change, given: Mapping[str, Any], first: Plan) -> bool:
    """Whether fewer rows at a time may be few enough, so that it is worth a compilation."""
    rows = lambda batch: batch["size"] / (batch.get("microbatches") or 1)
    ratio = rows(changed(given, change)["batch"]) / rows(given["batch"])
    spared = AGAIN if f"{_model(given)}.remat" in change else 1 / ratio**0.25
    memory = first.memory
    return ratio == 1 or fits(int(memory.activations * ratio / spared), memory.limit, memory.shared)


def _fits(given: Mapping[str, Any], pod: Pod, vocab: int | None) -> bool:
    """Whether a config fits; one that means nothing does not."""
    try:
        if not fits(state_memory(given, pod, vocab), *limit(pod)):
            return False
        return plan(given, pod, vocab).memory.fits
    except UserError:
        return False


def _doublings(sizes: Mapping[str, int], given: Mapping[str, Any]) -> list[int]:
    """Larger sizes of fsdp that the axis data can give."""
    if sizes.get("data", 1) == 1:
        return []
    slices = given["mesh"].get("slices") or 1
    most = sizes["fsdp"] * sizes["data"] // slices
    found = [sizes["fsdp"] * 2**i for i in range(1, most.bit_length() + 1)]
    return [size for size in found if size <= most and most % size == 0]


def _spread(given: Mapping[str, Any], first: Plan, size: int) -> Change:
    data = first.mesh["data"] * first.mesh["fsdp"] // size
    named = given["mesh"].get("data", -1)
    return {"mesh.fsdp": size} | ({} if named == -1 else {"mesh.data": data})


def _model(given: Mapping[str, Any]) -> str:
    return "model.trunk" if "trunk" in given["model"] else "model"
