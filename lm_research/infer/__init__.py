"""Text from a model: sampling, cached decoding, and scoring of given text."""

from lm_research.infer.decode import Result, generate, separate
from lm_research.infer.sample import Sampler
from lm_research.infer.score import score

__all__ = ["Result", "Sampler", "generate", "score", "separate"]
