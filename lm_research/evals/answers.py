"""Exact match and F1 of answers as SQuAD defines them (Rajpurkar et al., 2016 and 2018)."""

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = set(string.punctuation)


def normalised(text: str) -> str:
    """In lower case, without punctuation and articles, one space between words."""
    kept = "".join(character for character in text.lower() if character not in PUNCTUATION)
    return " ".join(ARTICLES.sub(" ", kept).split())


def exact(predicted: str, answer: str) -> float:
    """1 where both are the same, normalised."""
    return float(normalised(predicted) == normalised(answer))


def f1(predicted: str, answer: str) -> float:
    """F1 of words, normalised; where one of both has none, whether both have none."""
    told, there = normalised(predicted).split(), normalised(answer).split()
    if not told or not there:
        return float(told == there)
    both = sum((Counter(told) & Counter(there)).values())
    return 2 * both / (len(told) + len(there))


def best_of(measure, predicted: str, answers: Sequence[str]) -> float:
    """The best over several answers; those that normalise to nothing are none, unless all do."""
    given = [text for text in answers if normalised(text)] or [""]
    return max(measure(predicted, text) for text in given)


def judged(
    predicted: Sequence[str],
    answers: Sequence[Sequence[str]],
    differences: Sequence[float],
    threshold: float = 0.0,
) -> dict[str, float]:
    """Exact match and F1 in hundredths, over all questions.

    Where some questions have no answer, they are those of version 2.0: a question whose difference
    is above the threshold is taken to have none. Further numbers are of those that have answers and
    of those that have none, and the best of each over all thresholds, with the threshold.

    Args:
      predicted: the best answer to each question that is no empty one.
      answers: several for each, or none.
      differences: how much likelier it is that there is no answer.
      threshold: of the differences.
    """
    has = np.array([bool(given) for given in answers])
    raw = {
        name: np.array([best_of(measure, *pair) for pair in zip(predicted, answers)])
        for name, measure in (("exact", exact), ("f1", f1))
    }
    if has.all():
        return {name: 100 * float(values.mean()) for name, values in raw.items()}
    refused = np.array(differences) > threshold
    numbers = {}
    for name, values in raw.items():
        found = np.where(refused, ~has, values)
        numbers[name] = 100 * float(found.mean())
        if has.any():
            numbers[f"has_answer_{name}"] = 100 * float(found[has].mean())
        numbers[f"no_answer_{name}"] = 100 * float(found[~has].mean())
    for name, values in raw.items():
        best, where = best_threshold(predicted, values, has, np.array(differences))
        numbers |= {f"best_{name}": best, f"best_{name}_threshold": where}
    return numbers


def best_threshold(
    predicted: Sequence[str], scores: np.ndarray, has: np.ndarray, differences: np.ndarray
) -> tuple[float, float]:
    """The best mean in hundredths that a threshold gives, and the threshold; 0 refuses all.

    Going through the questions from the least difference on, each that is answered in place of
    being refused adds its score if it has an answer, and takes one if it has none and is answered.
    """
    order = np.argsort(differences, kind="stable")
    answered = np.array([bool(text) for text in predicted])
    change = np.where(has, scores, np.where(answered, -1.0, 0.0))[order]
    totals = (~has).sum() + np.cumsum(change)
    place = int(totals.argmax())
    if totals[place] <= (~has).sum():
        return 100 * float((~has).mean()), 0.0
    return 100 * float(totals[place]) / len(has), float(differences[order[place]])
