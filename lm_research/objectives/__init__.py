"""Objectives: what an example is, and how a batch of them is scored."""

from lm_research.objectives.causal import Causal
from lm_research.objectives.masked import Masked
from lm_research.objectives.permutation import Permutation
from lm_research.objectives.sentence_pairs import NextSentence, SentenceOrder

__all__ = ["Causal", "Masked", "NextSentence", "Permutation", "SentenceOrder"]
