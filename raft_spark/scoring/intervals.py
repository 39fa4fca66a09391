"""Samples of a metric -> 95 % intervals, p-values and their correction for many comparisons, in NumPy.

A share of answers has Wilson's interval (1927), and a difference of two shares of the same articles that of Bonett and Price
(2012): both are right where no answer, or every one, is of the kind. All other metrics have intervals of a bootstrap.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from raft_spark.common import hashing
from raft_spark.common.hashing import Stream

Array = NDArray[np.float64]
Kind = Literal[
    "share", "clustered", "mean"
]  # a share of answers, a share of what answers have several of, any other metric
LOW, HIGH = 2.5, 97.5  # percentiles
ROUNDING = 1e-12  # of sums: a smaller difference is none
Z = NormalDist().inv_cdf(HIGH / 100)
T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # Student's, for 1 to 9 degrees of freedom


@dataclass(frozen=True, slots=True)
class Sample:
    """A metric, or a difference of metrics, with what its interval is computed from.

    `values` has it over all articles, then over each resample; NaN where it has no value. `answers` has the share that each
    article's answers are of the kind, or a difference of such shares; NaN for an article that does not count.
    """

    values: Array
    answers: Array
    kind: Kind
    seeds: int = 1  # trainings that the metric is a mean of

    def __sub__(self, other: "Sample") -> "Sample":
        seeds = max(self.seeds, other.seeds)
        return replace(self, values=self.values - other.values, answers=self.answers - other.answers, seeds=seeds)


def over_seeds(samples: Sequence[Sample], seed: int, recipe: int) -> Sample:
    """Return the mean of a metric over the trainings of one recipe that have a value; `recipe` is a number of its own.

    Trainings are resampled together with the articles, as in the multi-bootstrap (Sellam et al. 2022).
    """
    known = [sample for sample in samples if not np.isnan(sample.values[0])] or list(samples[:1])
    weights = seed_weights(len(known[0].values) - 1, len(known), seed, recipe)
    values = np.stack([sample.values for sample in known], axis=-1)
    answers = np.mean([sample.answers for sample in known], axis=0)
    return Sample((values * weights).mean(axis=-1), answers, known[0].kind, len(samples))


def seed_weights(resamples: int, trainings: int, seed: int, recipe: int) -> Array:
    """Return the weight of each training in the metric over all articles (1), then in each resample, shape (1 + resamples, trainings).

    How often a training is drawn would show too little of the spread between few trainings. So its distance from 1 is
    stretched, to the variance that n - 1 degrees of freedom give (Rao and Wu 1988), and to Student's t.
    """
    if trainings == 1:
        return np.ones((1 + resamples, 1))
    slots, limits = np.arange(trainings), np.full(trainings, trainings)
    bits = hashing.hash64(seed, Stream.RESAMPLE_SEEDS, recipe, np.arange(resamples)[:, None], slots)
    drawn = (hashing.randbelow(bits, limits)[..., None] == slots).sum(axis=1)
    stretch = math.sqrt(trainings / (trainings - 1)) * T[min(trainings - 1, len(T)) - 1] / Z
    return np.concatenate([np.ones((1, trainings)), 1 + stretch * (drawn - 1)])


def of_metric(sample: Sample) -> dict[str, float | None]:
    """Return value, low and high of a metric, which lies in 0..1; None for all three when it has no value."""
    value, resampled = float(sample.values[0]), _known(sample.values[1:])
    if math.isnan(value) or not len(resampled):
        return {"value": None, "low": None, "high": None}
    low, high = (
        _around(value, float(resampled.std())) if sample.seeds > 1 else np.percentile(resampled, [LOW, HIGH]).tolist()
    )
    if sample.kind != "mean":
        count = len(_known(sample.answers))
        is_simple = sample.kind == "share" and sample.seeds == 1
        low, high = wilson(value, count if is_simple else _effective_count(value, resampled, count))
    return {"value": value, "low": max(low, 0.0), "high": min(high, 1.0)}


def of_difference(sample: Sample) -> dict[str, float | None]:
    """Return value, low, high and p of a difference; p is that of a Wald test against 0. None for all when it has no value."""
    value, resampled = float(sample.values[0]), _known(sample.values[1:])
    if math.isnan(value) or not len(resampled):
        return {"value": None, "low": None, "high": None, "p": None}
    middle, error = value, float(resampled.std())
    low, high = np.percentile(resampled, [LOW, HIGH]).tolist()
    is_paired = sample.kind == "share" or (sample.kind == "clustered" and not error)
    if is_paired:
        of_articles = paired_shares(_known(sample.answers))
        middle, error = of_articles if sample.seeds == 1 else (value, max(error, of_articles[1]))
    if is_paired or sample.seeds > 1:
        low, high = _around(middle, error)
    if is_paired:
        most = float(np.abs(_known(sample.answers)).max(initial=1))
        low, high = max(low, -most), min(high, most)
    return {"value": value, "low": low, "high": high, "p": p_value(middle, error)}


def wilson(share: float, count: float) -> tuple[float, float]:
    """Return Wilson's interval of a share of `count` independent answers."""
    middle = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2)) / (1 + Z**2 / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def paired_shares(differences: Array) -> tuple[float, float]:
    """Return the middle of the interval of a difference of shares, and its standard error, from each article's difference.

    Bonett and Price add two articles, one in favour of each side: no difference among 48 articles is not one of exactly 0.
    """
    count = len(differences) + 2
    middle = float(differences.sum()) / count
    return middle, math.sqrt((float((differences**2).sum() + 2) / count - middle**2) / count)


def p_value(difference: float, error: float) -> float:
    """Return the two-sided p of a difference with a standard error, by the normal distribution."""
    if error < ROUNDING:
        return float(abs(difference) < ROUNDING)
    return math.erfc(abs(difference) / error / math.sqrt(2))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected by Holm (1979): those below 0.05 hold together, with 5 % at most for one false among them."""
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(np.asarray(p_values)[order] * np.arange(len(order), 0, -1))
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(stepped, 1)
    return corrected.tolist()


def _known(values: Array) -> Array:
    return values[~np.isnan(values)]


def _around(middle: float, error: float) -> tuple[float, float]:
    return middle - Z * error, middle + Z * error


def _effective_count(share: float, resampled: Array, articles: int) -> float:
    """Return how many independent answers would give a share the variance of the resamples (Franco et al. 2019); `articles` where there is none."""
    variance = float(resampled.var())
    return share * (1 - share) / variance if variance and 0 < share < 1 else articles
