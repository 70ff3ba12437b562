"""Which of many things that are alike a test tries: some of them, or every one."""

import os
from collections.abc import Sequence
from typing import Any

EVERY = os.environ.get("LM_RESEARCH_VARIANTS") == "all"  # as benchmarks/parity.py does


def tried(every: Sequence[Any], some: Sequence[Any]) -> Sequence[Any]:
    """`some`, or with LM_RESEARCH_VARIANTS=all `every` one."""
    return every if EVERY else some
