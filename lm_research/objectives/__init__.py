"""Objectives: what an example is, and how a batch of them is scored."""

from lm_research.objectives.balanced import Balanced
from lm_research.objectives.causal import Causal
from lm_research.objectives.choose import Choose
from lm_research.objectives.classify import Classify
from lm_research.objectives.contrast import Contrast
from lm_research.objectives.fill_in_the_middle import FillInTheMiddle
from lm_research.objectives.masked import Masked
from lm_research.objectives.multi_token import MultiToken
from lm_research.objectives.permutation import Permutation
from lm_research.objectives.prefix import Prefix
from lm_research.objectives.regress import Regress
from lm_research.objectives.replaced_tokens import ReplacedTokens
from lm_research.objectives.sentence_pairs import NextSentence, SentenceOrder
from lm_research.objectives.seq2seq import Seq2Seq
from lm_research.objectives.span import Span
from lm_research.objectives.span_corruption import Denoisers, SpanCorruption
from lm_research.objectives.tag import Tag

__all__ = [
    "Balanced",
    "Causal",
    "Choose",
    "Classify",
    "Contrast",
    "Denoisers",
    "FillInTheMiddle",
    "Masked",
    "MultiToken",
    "NextSentence",
    "Permutation",
    "Prefix",
    "Regress",
    "ReplacedTokens",
    "SentenceOrder",
    "Seq2Seq",
    "Span",
    "SpanCorruption",
    "Tag",
]
