"""Evaluators: settings with `every`, bound to a run's data, then called with parameters."""

from lm_research.evals.answer_scores import AnswerScores
from lm_research.evals.choice_scores import ChoiceScores
from lm_research.evals.generation import Generation
from lm_research.evals.heldout import HeldOut
from lm_research.evals.scores import Scores
from lm_research.evals.similarity import Retrieval, Similarity
from lm_research.evals.word_scores import WordScores

__all__ = [
    "AnswerScores",
    "ChoiceScores",
    "Generation",
    "HeldOut",
    "Retrieval",
    "Scores",
    "Similarity",
    "WordScores",
]
