"""What a whole run of the tests leaves out, to end in minutes, unless it is asked for every one."""

import os
from collections.abc import Sequence
from typing import Any

import pytest

EVERY = os.environ.get("LM_RESEARCH_VARIANTS") == "all"  # as benchmarks/parity.py does


# For a drill of half a minute, beside shorter tests of what it does.
long = pytest.mark.skipif(not EVERY, reason="a long drill: LM_RESEARCH_VARIANTS=all makes it")


def tried(every: Sequence[Any], some: Sequence[Any]) -> Sequence[Any]:
    """`some` of what is alike, or with LM_RESEARCH_VARIANTS=all `every` one."""
    return every if EVERY else some
