"""Objectives: what an example is, and how a batch of them is scored."""

from lm_research.objectives.causal import Causal
from lm_research.objectives.permutation import Permutation

__all__ = ["Causal", "Permutation"]
