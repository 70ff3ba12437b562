"""Evaluators: settings with `every`, bound once to a run's data, then called with a model and parameters."""

from lm_research.evals.heldout import HeldOut

__all__ = ["HeldOut"]
