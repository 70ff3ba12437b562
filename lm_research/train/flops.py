"""FLOPs per token and peak FLOP/s, with the convention stated."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax

from lm_research import tree
from lm_research.layers import Experts, Repeated, Stack
from lm_research.layers.stack import runs
from lm_research.models.trunk import OnTrunk
from lm_research.train import chips

CONVENTION = (
    "forward and backward: 6 per parameter that multiplies (all products, the vocabulary head "
    "included as if every token were predicted, also where few are; embedding lookups not; layers "
    "that share parameters each; what reads one vector of a text divided by its tokens) plus "
    "12 L N H T for attention scores and values, without a discount for causality "
    "(Chowdhery et al., 2022, appendix B)"
)
# Reads one vector of a text: BERT's pooler, and a classifier that does not judge each token.
OF_TEXT = r"(^|/)pooler/|^(dense/)?kernel$"


def flops_per_token(model: nn.Module, params: Any, length: int) -> float:
    """FLOPs that training spends on one token in a sequence of `length`.

    Args:
      model: whose parameters they are.
      params: parameters or their shapes; stacked kernels are [L, ...].
      length: T.
    """
    head = r"^(trunk/)?embedding/table$" if getattr(model, "tied", True) else r"(^|/)head/table$"
    multiplies = rf"kernel$|{head}" if predicts(model) else "kernel$"
    each = getattr(model, "pool", None) == "each"
    within = dict(blocks(model))
    total = 0.0
    for name, w in tree.named_leaves(params).items():
        if not re.search(multiplies, name):
            continue
        block = next((one for path, one in within.items() if name.startswith(path)), None)
        times = block.times if isinstance(block, Repeated) else 1
        share = active_share(block) if "/experts_" in name else 1.0
        if re.search(OF_TEXT, name) and not each:
            share = 1 / length
        total += 6 * w.size * times * share
        if name.endswith("query/kernel"):
            total += 12 * w.size // w.shape[-3] * times * length  # L N H T
    return total


def predicts(model: nn.Module) -> bool:
    """Whether a model has a vocabulary head, which a trunk's is not."""
    if isinstance(model, OnTrunk):
        return False
    model = getattr(model, "trunk", model)  # an encoder-decoder, which writes
    return getattr(getattr(model, "decoder", model), "predicts", True)


def blocks(model: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The blocks of all stacks, and how the names of their parameters begin."""
    if isinstance(model, Stack):
        for names, _ in runs(model.layers, len(model.period), model.opening is not None):
            chosen = (model.opening,) if names == ("first",) else model.period
            yield from ((f"{path}{name}/", block) for name, block in zip(names, chosen))
        return
    yield from ((f"{path}ahead_{i}/", one) for i, one in enumerate(getattr(model, "ahead", ())))
    for name in (field.name for field in dataclasses.fields(model) if field.name != "parent"):
        if isinstance(part := getattr(model, name), nn.Module):
            yield from blocks(part, f"{path}{name}/")


def active_share(block: nn.Module) -> float:
    """The share of a block's experts that read a token; 1 where there are none."""
    mlp = getattr(getattr(block, "block", block), "mlp", None)
    return mlp.active / mlp.experts if isinstance(mlp, Experts) else 1.0


def peak_flops() -> float | None:
    """Dense bfloat16 peak of all devices together; None on hardware that is not in the table."""
    chip = chips.of_kind(jax.devices()[0].device_kind)
    return chip and chip.peak * jax.device_count()
