"""How well predictions agree with labels: metrics that are no means over examples."""

import numpy as np


def confusion(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """How often a class [rows] was taken for another [columns]: float64 [classes, classes]."""
    found = np.zeros((classes, classes))
    np.add.at(found, (labels, predicted), 1)
    return found


def accuracy(table: np.ndarray) -> float:
    """The share of examples whose class was told, of a confusion table."""
    return float(table.trace() / table.sum())


def f1(table: np.ndarray, positive: int) -> float:
    """2 right / (told + there) of one class; 0 where it was neither told nor there."""
    both = table[positive].sum() + table[:, positive].sum()
    return float(2 * table[positive, positive] / both) if both else 0.0


def macro_f1(table: np.ndarray) -> float:
    """The mean of F1 over the classes that were told or there."""
    seen = np.flatnonzero(table.sum(0) + table.sum(1))
    return float(np.mean([f1(table, positive) for positive in seen]))


def matthews(table: np.ndarray) -> float:
    """Matthews' correlation, of any number of classes (Gorodkin, 2004); 0 where it has none."""
    told, there, all_ = table.sum(0), table.sum(1), table.sum()
    spread = (all_**2 - told @ told) * (all_**2 - there @ there)
    return float((table.trace() * all_ - told @ there) / spread**0.5) if spread else 0.0


def pearson(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Pearson's correlation; 0 where one of both never changes."""
    x, y = (
        np.asarray(values, np.float64) - np.mean(values, dtype=np.float64)
        for values in (predicted, labels)
    )
    spread = (x @ x) * (y @ y)
    return float(x @ y / spread**0.5) if spread else 0.0


def spearman(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Pearson's correlation of ranks, of which equal values share the mean."""
    return pearson(ranks(predicted), ranks(labels))


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 on; equal values have the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]
