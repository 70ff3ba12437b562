"""Objectives: what an example is, and how a batch of them is scored."""

from lm_research.objectives.causal import Causal

__all__ = ["Causal"]
