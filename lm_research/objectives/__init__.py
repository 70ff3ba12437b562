"""Objectives: what an example is, and how a batch of them is scored."""

from lm_research.objectives.causal import Causal
from lm_research.objectives.masked import Masked
from lm_research.objectives.permutation import Permutation
from lm_research.objectives.replaced_tokens import ReplacedTokens
from lm_research.objectives.sentence_pairs import NextSentence, SentenceOrder
from lm_research.objectives.seq2seq import Seq2Seq
from lm_research.objectives.span_corruption import Denoisers, SpanCorruption

__all__ = [
    "Causal",
    "Denoisers",
    "Masked",
    "NextSentence",
    "Permutation",
    "ReplacedTokens",
    "SentenceOrder",
    "Seq2Seq",
    "SpanCorruption",
]
