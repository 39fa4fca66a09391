"""rows of base -> how well lengths alone predict a missing oracle (label leakage), and how many passages are in two splits.

A student that can predict from lengths whether its oracle is among the passages learns that instead of reading them. So a
small classifier is trained on one half of a sample of rows, and the area under its ROC curve (AUC) is measured on the other
half: 0.5 is a guess, 1 is always right.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

SAMPLE_ROWS = 20_000  # those with the lowest hashes of pubid
BINS = 8
RIDGE = 1.0

_LENGTHS = "transform(documents, d -> length(d.text))"
LENGTHS: Mapping[str, str] = {  # features of a row that need no reading of its passages
    "passages": "size(documents)",
    "characters": f"aggregate({_LENGTHS}, 0, (sum, n) -> sum + n)",
    "shortest": f"array_min({_LENGTHS})",
    "longest": f"array_max({_LENGTHS})",
    "first": "length(documents[0].text)",
    "last": "length(element_at(documents, -1).text)",
}
SECTIONS: Mapping[str, str] = {  # which parts of their abstracts the passages are
    "openings": "size(filter(documents, d -> d.passage = 0))",
    "kinds": "size(array_distinct(documents.passage))",
    "deepest": "array_max(documents.passage)",
}
ORACLE_POSITION = (  # mean position of the oracle passages in their row: 0 = first, 1 = last
    "aggregate(transform(documents, (d, i) -> IF(d.oracle, i, 0)), 0, (sum, i) -> sum + i)"
    " / nullif(size(filter(documents, d -> d.oracle)) * (size(documents) - 1), 0)"
)


def measure(base: DataFrame) -> dict[str, Any]:
    """Measure the leakage of a base table, on a sample of its rows.

    Return the `area` under the ROC curve by feature and for classifiers on several features; the mean `oracle_place`
    (0 = first, 1 = last; None if no row has an oracle); and the number of passages that are `in_two_splits`, over all rows.
    """
    columns = {**LENGTHS, **SECTIONS, "position": ORACLE_POSITION}
    rows = base.where("size(documents.passage) > 0")
    order = F.xxhash64("pubid", "distracted")
    lowest = rows.select("pubid", "distracted").orderBy(order).limit(SAMPLE_ROWS)  # few rows are measured and sorted
    sampled = rows.join(F.broadcast(lowest), ["pubid", "distracted"], "left_semi").orderBy(order)
    sample = sampled.select("distracted", *(F.expr(text).alias(name) for name, text in columns.items())).collect()
    is_missing = np.array([row.distracted for row in sample], bool)
    features = {name: np.array([row[name] for row in sample], float) for name in columns}
    position = features.pop("position")[~is_missing]
    areas = {name: auc(features[name], is_missing) for name in features}
    for name, chosen in {"lengths": LENGTHS, "lengths and sections": features}.items():
        areas[name] = _classifier_auc(np.array([features[feature] for feature in chosen]), is_missing)
    has_position = ~np.isnan(position)
    return {
        "rows": len(sample),
        "area": {name: round(value, 4) for name, value in areas.items()},
        "oracle_place": round(float(position[has_position].mean()), 4) if has_position.any() else None,
        "in_two_splits": _in_two_splits(base),
    }


def auc(scores: NDArray[Any], positive: NDArray[np.bool_], rows: NDArray[Any] | None = None) -> float:
    """Return the area under the ROC curve (Mann and Whitney): ties count half, and it is 0.5 if only one class is present.

    `rows` says how many rows have each score, by default one.
    """
    counts = np.ones(len(scores)) if rows is None else rows
    _, rank = np.unique(scores, return_inverse=True)
    positives, negatives = (np.bincount(rank, counts * in_class) for in_class in (positive, ~positive))
    pairs = positives.sum() * negatives.sum()
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / pairs) if pairs else 0.5


def _classifier_auc(features: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Fit a ridge regression on every other row and return its AUC on the other rows. `features` has the shape (features, rows).

    Each feature is one-hot encoded by which of BINS quantiles it is in.
    """
    inner = np.linspace(0, 1, BINS + 1)[1:-1]
    binned = (
        [np.searchsorted(np.unique(np.quantile(row, inner)), row, "right") for row in features] if features.size else []
    )
    columns = np.concatenate([np.eye(BINS)[row] for row in binned] + [np.ones((len(positive), 1))], axis=1)
    train, test = columns[::2], columns[1::2]
    squares = train.T @ train + RIDGE * np.eye(columns.shape[1])
    return auc(test @ np.linalg.solve(squares, train.T @ positive[::2].astype(float)), positive[1::2])


def _in_two_splits(base: DataFrame) -> int:
    """Count the passages, each named by its article and its place there, that stand in rows of two splits."""
    passages = base.select("split", F.explode(F.arrays_zip("documents.pubid", "documents.passage")).alias("passage"))
    code = F.xxhash64("split")  # Spark aggregates numbers by a hash table, texts by sorting
    splits = passages.groupBy("passage.pubid", "passage.passage").agg((F.min(code) < F.max(code)).alias("in_two"))
    return splits.where("in_two").count()
