"""rows of base -> how well a missing oracle is predicted without reading (label leakage), and how many passages are in two splits.

A student that can predict from lengths, sections or shared words whether its oracle is among the passages learns that instead
of reading them. So a small classifier is trained on one half of a sample of rows, and the area under its ROC curve (AUC) is
measured on the other half: 0.5 is a guess, 1 is always right.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession

from raft_spark.common import arrays, hashing
from raft_spark.common.hashing import Int64Array, Stream
from raft_spark.config import Lake
from raft_spark.lake import blobs, dataframes, parquet, schemas, tables
from raft_spark.lake.tasks import collect_objects, map_in_arrow

SAMPLE_ROWS = 20_000  # those with the lowest hashes of pubid and distracted
SPARE = 1.1  # times as many rows are looked at, since hashes fall by chance
LENGTH_BIN = 256  # characters in a bin of the histogram of lengths
BINS = 8
RIDGE = 1.0

# Features of a row that need no reading of its passages
LENGTHS = ("passages", "characters", "shortest", "longest", "first", "last")
SECTIONS = ("openings", "kinds", "deepest")  # which parts of their abstracts the passages are
WORDS = ("shared", "common")  # the shares of a row's words that stand in two, in three or more of its passages
ALL = "lengths, sections and words"
CLASSIFIERS: Mapping[str, Sequence[str]] = {
    "lengths": LENGTHS,
    "lengths and sections": [*LENGTHS, *SECTIONS],
    ALL: [*LENGTHS, *SECTIONS, *WORDS],
}
_TEXTS = ["pubid", "distracted", *(f"documents.list.element.{name}" for name in ("passage", "text", "oracle"))]
_PASSAGES = [f"documents.list.element.{name}" for name in ("pubid", "passage")]
_measured: dict[tuple[str, str], "Leakage"] = {}  # by lake and version: a refresh measures before its dataset does


@dataclass
class Leakage:
    """What a table of base gives away.

    `tells` holds the number of `rows` in the sample, and of those that a classifier has `learned_from`; the `area` under the
    ROC curve by feature and for CLASSIFIERS, with the `interval` of 95 % of the one that knows ALL; the mean `oracle_place`
    (0 = first, 1 = last; None if no row has an oracle); and the number of passages that are `in_two_splits`, over all rows.
    `histogram` has the rows by (oracle is missing, passages, characters // LENGTH_BIN).
    """

    tells: dict[str, Any] = field(default_factory=dict)
    histogram: Counter[tuple[int, ...]] = field(default_factory=Counter)


def measure(spark: SparkSession, lake: Lake, base: tables.Version) -> Leakage:
    """Measure the leakage of a version of base, once in a process."""
    key = (lake.root, base.id)
    if key not in _measured:
        tasks = dataframes.row_group_tasks(spark, lake, base)
        share = SAMPLE_ROWS * SPARE / max(1, sum(file.rows for file in base.data()))
        looked = collect_objects(tasks, partial(_look, share=share))
        found = _leakage(pa.concat_tables(sample for sample, _ in looked).sort_by("order")[:SAMPLE_ROWS])
        for _, histogram in looked:
            found.histogram.update(histogram)
        found.tells["in_two_splits"] = _in_two_splits(tasks)
        _measured[key] = found
    return _measured[key]


def _look(batches: Iterator[pa.RecordBatch], share: float) -> Iterator[tuple[pa.Table, Counter[tuple[int, ...]]]]:
    """Yield the features of a share of the rows of each row group, and the histogram of all its rows."""
    for _, groups in parquet.by_task(batches):
        for group in groups:
            rows = parquet.read_row_group(group, _TEXTS)
            yield _sample(rows, share), _histogram(rows)


def _sample(rows: pa.Table, share: float) -> pa.Table:
    """Return the features of the rows with the lowest hashes, about a `share` of all; rows without passages have none."""
    distracted = rows["distracted"].to_numpy()
    order = hashing.spark_xxhash64(rows["pubid"].to_numpy(), distracted)
    documents = pa.concat_arrays(rows["documents"].chunks)
    chosen = (order < (min(1.0, share) - 0.5) * 2.0**64) & (pc.list_value_length(documents).to_numpy() > 0)
    columns = features(documents.filter(pa.array(chosen)))
    return pa.table({"order": order[chosen], "distracted": distracted[chosen], **columns})


def features(documents: pa.ListArray) -> dict[str, NDArray[np.float64]]:
    """Return LENGTHS, SECTIONS and `position` of rows, each of shape (rows,); no row is without passages.

    `position` is the mean position of the oracle passages in their row, 0 = first, 1 = last; NaN if there is none.
    """
    passages, counts = documents.flatten(), pc.list_value_length(documents).to_numpy()
    length = pc.utf8_length(passages.field("text")).to_numpy()
    passage, is_oracle = (passages.field(name).to_numpy(zero_copy_only=False) for name in ("passage", "oracle"))
    start = np.cumsum(counts) - counts
    row = np.repeat(np.arange(len(counts)), counts)
    count = partial(np.bincount, minlength=len(counts))
    oracle_rows, kinds = row[is_oracle], arrays.distinct(row << 32 | passage) >> 32
    places = count(oracle_rows, (np.arange(len(row)) - start[row])[is_oracle])
    with np.errstate(invalid="ignore", divide="ignore"):
        position = places / (count(oracle_rows) * (counts - 1))
    columns = {
        "passages": counts,
        "characters": count(row, length),
        "shortest": np.minimum.reduceat(length, start),
        "longest": np.maximum.reduceat(length, start),
        "first": length[start],
        "last": length[start + counts - 1],
        "openings": count(row[passage == 0]),
        "kinds": count(kinds),
        "deepest": np.maximum.reduceat(passage, start),
        "position": position,
        **_shared_words(passages.field("text"), row, len(counts)),
    }
    return {name: column.astype(float) for name, column in columns.items()}


def _shared_words(texts: pa.StringArray, row: Int64Array, rows: int) -> dict[str, NDArray[np.float64]]:
    """Return WORDS of rows; `row` has the row of each text. Words are what stands between blanks, in lower case."""
    words = pc.utf8_split_whitespace(pc.utf8_lower(texts))
    code = words.flatten().dictionary_encode().indices.to_numpy().astype(np.int64)
    passage = np.repeat(np.arange(len(texts)), pc.list_value_length(words).to_numpy())
    in_passage = arrays.distinct(passage << 32 | code)
    in_row, passages = arrays.counted(row[in_passage >> 32] << 32 | in_passage & 0xFFFFFFFF)
    count = partial(np.bincount, minlength=rows)
    distinct = np.maximum(1, count(in_row >> 32))
    return {name: count(in_row[passages >= least] >> 32) / distinct for name, least in zip(WORDS, (2, 3), strict=True)}


def _histogram(rows: pa.Table) -> Counter[tuple[int, ...]]:
    documents = pa.concat_arrays(rows["documents"].chunks)
    counts = pc.list_value_length(documents).to_numpy()
    lengths = np.concatenate([[0], np.cumsum(pc.utf8_length(documents.flatten().field("text")).to_numpy())])
    ends = np.cumsum(counts)
    bins = (lengths[ends] - lengths[ends - counts]) // LENGTH_BIN
    found, rows_of = np.unique(np.stack([rows["distracted"].to_numpy(), counts, bins], 1), axis=0, return_counts=True)
    return Counter(dict(zip(map(tuple, found.tolist()), rows_of.tolist(), strict=True)))


def _leakage(sample: pa.Table) -> Leakage:
    is_missing = sample["distracted"].to_numpy()
    columns = {name: sample[name].to_numpy() for name in (*LENGTHS, *SECTIONS, *WORDS)}
    position = sample["position"].to_numpy()[~is_missing]
    areas = {name: auc(column, is_missing) for name, column in columns.items()}
    for name, chosen in CLASSIFIERS.items():
        areas[name] = _classifier_auc(np.array([columns[feature] for feature in chosen]), is_missing)
    has_position = ~np.isnan(position)
    low, high = interval(areas[ALL], is_missing[1::2])
    tells = {
        "rows": len(sample),
        "learned_from": len(is_missing[::2]),
        "area": {name: round(value, 4) for name, value in areas.items()},
        "interval": [round(low, 4), round(high, 4)],
        "oracle_place": round(float(position[has_position].mean()), 4) if has_position.any() else None,
    }
    return Leakage(tells)


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


def interval(area: float, positive: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the interval of 95 % of an area under the ROC curve (Hanley and McNeil 1982), 0 to 1 if a class is missing."""
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives * negatives:
        return 0.0, 1.0
    spread = area * (1 - area)
    spread += (positives - 1) * (area / (2 - area) - area**2)
    spread += (negatives - 1) * (2 * area**2 / (1 + area) - area**2)
    margin = 1.96 * (spread / (positives * negatives)) ** 0.5
    return max(0.0, area - margin), min(1.0, area + margin)


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


def _in_two_splits(tasks: DataFrame) -> int:
    """Count the passages, each named by its article and its place there, that stand in rows of two splits."""
    count = tasks.rdd.getNumPartitions()
    places = dataframes.partition_values(tasks.sparkSession, count)
    packed = map_in_arrow(tasks, partial(_pack_passages, places=places), blobs.BLOBS)
    return sum(blobs.collect_parts(packed, count, _count_shared))


def _pack_passages(batches: Iterator[pa.RecordBatch], places: Sequence[int]) -> Iterator[pa.RecordBatch]:
    """Yield the distinct passages that a task's rows of each split show, as hashes, in blobs by hash."""
    for _, groups in parquet.by_task(batches):
        for split in sorted({group["split"] for group in groups}):
            codes = arrays.distinct(np.concatenate([_codes(group) for group in groups if group["split"] == split]))
            yield blobs.pack(pa.table({"code": codes}), codes % len(places), places, schemas.SPLITS.index(split))


def _codes(group: Mapping[str, Any]) -> Int64Array:
    documents = parquet.read_row_group(group, _PASSAGES)["documents"].combine_chunks().flatten()
    pubid, passage = (documents.field(name).to_numpy() for name in ("pubid", "passage"))
    return hashing.hash64(0, Stream.COMPARE, pubid, passage).astype(np.int64)


def _count_shared(parts: blobs.Parts) -> Iterator[int]:
    for _, of_split in parts:
        distinct = [arrays.distinct(codes["code"].to_numpy()) for codes in of_split.values()]
        _, splits = arrays.counted(np.concatenate(distinct))
        yield int((splits > 1).sum())
