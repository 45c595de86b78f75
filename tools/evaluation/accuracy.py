"""How well predicted classes agree with true ones, with every class weighing the same."""

import numpy as np


def balanced_accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Mean share of correct predictions of each class that occurs in `labels`, both int64 (N,). Source: Brodersen 2010."""
    return float(np.mean([(predicted[labels == label] == label).mean() for label in np.unique(labels)]))
