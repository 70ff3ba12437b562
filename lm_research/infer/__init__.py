"""Text from a model: sampling, cached decoding, and scoring of given text."""

from lm_research.infer.decode import Result, generate
from lm_research.infer.sample import Sampler


__all__ = ["Result", "Sampler", "generate"]
