"""base -> what gives a missing oracle away, or a text of another split, without reading: the report of tells and leaks.

A student that can guess from lengths whether its oracle is there learns to do that. So a small classifier is trained to, on
one half of a sample of rows, and the area under its ROC curve is taken on the other: 0.5 is a guess, 1 always right.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

ROWS = 20_000  # of a sample, by a hash of pubid
BINS = 8
RIDGE = 1.0

_LENGTHS = "transform(documents, d -> length(d.text))"
LENGTHS: Mapping[str, str] = {  # of a row; all that can be told from its passages without reading them
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
PLACE = (  # of the oracle passages among those of their row, in the mean: 0 = first, 1 = last
    "aggregate(transform(documents, (d, i) -> IF(d.oracle, i, 0)), 0, (sum, i) -> sum + i)"
    " / nullif(size(filter(documents, d -> d.oracle)) * (size(documents) - 1), 0)"
)


def measure(base: DataFrame) -> dict[str, Any]:
    """Return the areas by what is looked at, the mean place of oracle passages (0 = first, 1 = last; None where no row has any),
    and how many texts stand in rows of more than one split.
    """
    columns = {**LENGTHS, **SECTIONS, "place": PLACE}
    rows = base.where("size(documents) > 0").orderBy(F.xxhash64("pubid", "distracted")).limit(ROWS)
    found = rows.select("distracted", *(F.expr(text).alias(name) for name, text in columns.items())).collect()
    missing = np.array([row.distracted for row in found], bool)
    values = {name: np.array([row[name] for row in found], float) for name in columns}
    place = values.pop("place")[~missing]
    seen = {name: auc(values[name], missing) for name in values}
    for name, looked_at in {"lengths": LENGTHS, "lengths and sections": values}.items():
        seen[name] = _learned(np.array([values[each] for each in looked_at]), missing)
    is_placed = ~np.isnan(place)
    return {
        "rows": len(found),
        "area": {name: round(value, 4) for name, value in seen.items()},
        "oracle_place": round(float(place[is_placed].mean()), 4) if is_placed.any() else None,
        "in_two_splits": _in_two_splits(base),
    }


def auc(scores: NDArray[Any], positive: NDArray[np.bool_], rows: NDArray[Any] | None = None) -> float:
    """Return the area under the ROC curve, ties counted half (Mann and Whitney); 0.5 where all are of one kind.

    Each score is that of one row, or of as many as `rows` says.
    """
    counts = np.ones(len(scores)) if rows is None else rows
    _, which = np.unique(scores, return_inverse=True)
    own, other = (np.bincount(which, counts * kind) for kind in (positive, ~positive))
    pairs = own.sum() * other.sum()
    below = np.cumsum(other) - other
    return float((own * (below + other / 2)).sum() / pairs) if pairs else 0.5


def _learned(values: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Fit a ridge regression on which eighth each value is in, on every other row; return its area on the rest.

    `values` has the shape (features, rows).
    """
    inner = np.linspace(0, 1, BINS + 1)[1:-1]
    binned = (
        [np.searchsorted(np.unique(np.quantile(row, inner)), row, "right") for row in values] if values.size else []
    )
    columns = np.concatenate([np.eye(BINS)[row] for row in binned] + [np.ones((len(positive), 1))], axis=1)
    learn, tell = columns[::2], columns[1::2]
    squares = learn.T @ learn + RIDGE * np.eye(columns.shape[1])
    return auc(tell @ np.linalg.solve(squares, learn.T @ positive[::2].astype(float)), positive[1::2])


def _in_two_splits(base: DataFrame) -> int:
    texts = base.select("split", F.explode("documents.text").alias("text"))
    splits = texts.groupBy(F.xxhash64("text")).agg(F.countDistinct("split").alias("splits"))
    return splits.where("splits > 1").count()
