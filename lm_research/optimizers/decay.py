"""Which parameters weight decay leaves alone."""

from collections.abc import Callable
from typing import Any

import jax

from lm_research import tree

UNDECAYED = r"norm|bias|embedding|position"


def decayed(skip: str) -> Callable[[Any], Any]:
    """A mask over parameters: false where the regular expression `skip` is found in the name."""
    return lambda params: jax.tree.map(lambda skipped: not skipped, tree.matching(skip, params))
