"""FLOPs per token and peak FLOP/s, with the convention stated."""

import re
from typing import Any

import jax

from lm_research import tree
from lm_research.layers import Experts
from lm_research.train import chips

CONVENTION = (
    "forward and backward: 6 per parameter that multiplies (all products, the vocabulary head "
    "included, embedding lookups not) plus 12 L N H T for attention scores and values, without a "
    "discount for causality "
    "(Chowdhery et al., 2022, appendix B)"
)


def flops_per_token(params: Any, length: int, tied: bool, active: float = 1.0) -> float:
    """FLOPs that training spends on one token in a sequence of `length`.

    Args:
      params: parameters or their shapes; stacked kernels are [L, ...].
      length: T.
      tied: whether the embedding table is the vocabulary head, too.
      active: the share of a layer's experts that read a token.
    """
    leaves = tree.named_leaves(params)
    head = r"embedding/table$" if tied else r"head/table$"
    multiplying = sum(
        w.size * (active if "/experts_" in n else 1)
        for n, w in leaves.items()
        if re.search(rf"kernel$|{head}", n)
    )
    queries = sum(w.size // w.shape[-3] for n, w in leaves.items() if n.endswith("query/kernel"))
    return 6 * multiplying + 12 * queries * length  # queries: L N H


def active_share(model: Any) -> float:
    """The share of a layer's experts that read a token; 1 where there are none."""
    blocks = getattr(getattr(model, "stack", None), "period", ())
    found = [m for m in (getattr(block, "mlp", None) for block in blocks) if isinstance(m, Experts)]
    return found[0].active / found[0].experts if found else 1.0


def peak_flops() -> float | None:
    """Dense bfloat16 peak of all devices together; None on hardware that is not in the table."""
    chip = chips.of_kind(jax.devices()[0].device_kind)
    return chip and chip.peak * jax.device_count()
