"""Text from a model: sampling, cached decoding, beam search, and scoring of given text."""

from lm_research.infer.beam import Beam, beam_search
from lm_research.infer.decode import Result, generate, separate
from lm_research.infer.sample import Sampler
from lm_research.infer.score import score

__all__ = ["Beam", "Result", "Sampler", "beam_search", "generate", "score", "separate"]
