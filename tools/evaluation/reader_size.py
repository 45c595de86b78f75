"""How many readers and images a study takes, from the variance of the mean AUC over readers. Knows no data.

The model is Obuchowski and Rockette's for one modality: AUC_j = A + R_j + e_j with reader variance, and errors of
variance v that correlate between readers because they see the same cases. Hence
Var(mean AUC) = (reader variance + v (1 - r)) / J + v r.
Sources: Obuchowski and Rockette 1995, Communications in Statistics 24:285; Hillis, Obuchowski, Schartz and Berbaum 2005,
Statistics in Medicine 24:1579 (one modality); Hillis 2007, Statistics in Medicine 26:596 (degrees of freedom).
"""

import math
from dataclasses import dataclass

from scipy.stats import nct, norm, t

READER_SD = 0.05  # of the true AUC between readers
CORRELATION = 0.4  # of two readers' errors; both are plain assumptions until a pilot study gives better ones
MOST_CASES = 1000  # of each arm: more than a reader will look at


@dataclass(frozen=True)
class StudyDesign:
    """What is assumed (the AUC, how readers differ, how their errors correlate) and how sure one wants to be."""

    auc: float
    reader_sd: float = READER_SD
    correlation: float = CORRELATION
    confidence: float = 0.95


def case_variance(auc: float, num_positive: int, num_negative: int) -> float:
    """Variance of one reader's AUC over cases. Source: Hanley and McNeil 1982, Radiology 143:29."""
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    return (auc * (1 - auc) + (num_positive - 1) * (q1 - auc**2) + (num_negative - 1) * (q2 - auc**2)) / (
        num_positive * num_negative)


def mean_auc_variance(design: StudyDesign, num_readers: int, num_cases: int) -> tuple[float, float]:
    """Variance of the mean AUC of readers who each see `num_cases` real and as many synthetic images, and its degrees of
    freedom. One reader: over cases alone, with infinite degrees of freedom."""
    error = case_variance(design.auc, num_cases, num_cases)
    if num_readers == 1:
        return error, math.inf
    own = design.reader_sd**2 + error * (1 - design.correlation)
    shared = num_readers * error * design.correlation
    return (own + shared) / num_readers, (own + shared) ** 2 * (num_readers - 1) / own**2


def interval_width(design: StudyDesign, num_readers: int, num_cases: int) -> float:
    """Full width of the confidence interval that such a study is to be expected to give."""
    variance, freedom = mean_auc_variance(design, num_readers, num_cases)
    tail = (1 + design.confidence) / 2
    quantile = norm.ppf(tail) if math.isinf(freedom) else t.ppf(tail, freedom)
    return float(2 * quantile * math.sqrt(variance))


def power(design: StudyDesign, num_readers: int, num_cases: int) -> float:
    """Probability that a two-sided test finds the mean AUC to differ from 0.5 when it is `design.auc`."""
    variance, freedom = mean_auc_variance(design, num_readers, num_cases)
    effect = (design.auc - 0.5) / math.sqrt(variance)
    tail = (1 + design.confidence) / 2
    if math.isinf(freedom):
        quantile = norm.ppf(tail)
        return float(norm.sf(quantile - effect) + norm.cdf(-quantile - effect))
    quantile = t.ppf(tail, freedom)
    return float(nct.sf(quantile, freedom, effect) + nct.cdf(-quantile, freedom, effect))


def fewest_cases(
    design: StudyDesign, num_readers: int, *, width: float | None = None, wanted_power: float | None = None
) -> int | None:
    """Images of each arm, one a group, that give an interval of `width` at most and the wanted power; None where
    MOST_CASES do not."""
    for num_cases in range(2, MOST_CASES + 1):  # one by one: with few readers the degrees of freedom fall as cases are added
        narrow = width is None or interval_width(design, num_readers, num_cases) <= width
        if narrow and (wanted_power is None or power(design, num_readers, num_cases) >= wanted_power):
            return num_cases
    return None
