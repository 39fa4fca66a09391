"""New versions beside the ones before -> what changed, and whether readers may have it: what a refresh looks at.

A gate is a number and the range it must be in. Those of articles and base are looked at before a request is paid for.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from raft_spark import config
from raft_spark.lake import dataframes, schemas, tables
from raft_spark.recipe import leakage

SIGMAS = 5.0  # a share may be so far from what the settings say by chance alone: once in two million refreshes
LENGTH_BIN = 256  # characters: lengths of rows are compared in steps of this size


@dataclass(frozen=True, slots=True)
class GateResult:
    """What was looked at, what was found, and the range it must be in, both ends allowed."""

    name: str
    found: float
    low: float
    high: float

    @property
    def passed(self) -> bool:
        """Say whether the number is in its range; one that is none is not."""
        return self.low <= self.found <= self.high

    def __str__(self) -> str:
        """Say it in a few words."""
        return f"{self.name} is {self.found:.4g}, it must be in {self.low:.4g}..{self.high:.4g}"


@dataclass(frozen=True, slots=True)
class Changes:
    """Rows of a table by what became of them since the version before."""

    new: int
    changed: int
    withdrawn: int
    same: int

    @property
    def before(self) -> int:
        """How many rows the version before had."""
        return self.changed + self.withdrawn + self.same


def changes(spark: SparkSession, lake: config.Lake, old: tables.Version | None, new: tables.Version) -> Changes:
    """Compare two versions of articles or base, pubid by pubid."""
    if old is None:
        return Changes(sum(file.rows for file in new.data()), 0, 0, 0)
    before, after = (_hashed(dataframes.read(spark, lake, version)) for version in (old, new))
    both = before.withColumnRenamed("hash", "old").join(after.withColumnRenamed("hash", "new"), "pubid", "full")
    kind = (
        F.when(F.col("old").isNull(), "new")
        .when(F.col("new").isNull(), "withdrawn")
        .when(F.col("old") == F.col("new"), "same")
        .otherwise("changed")
    )
    found = {row.kind: row["count"] for row in both.groupBy(kind.alias("kind")).count().collect()}
    return Changes(**{name: found.get(name, 0) for name in Changes.__slots__})


def _hashed(rows: DataFrame) -> DataFrame:
    """Return (pubid, hash of all that its rows say); an article's number is not said by its source."""
    columns = [name for name in rows.columns if name != "number"]
    return rows.groupBy("pubid").agg(F.bit_xor(F.xxhash64(*columns)).alias("hash"))


def check_rows(spark: SparkSession, conf: config.Config, new: Mapping[str, tables.Version]) -> list[GateResult]:
    """Look at articles and base by themselves."""
    articles, base = new[schemas.ARTICLES], new[schemas.BASE]
    rows = sum(base.counts["rows"].values())
    counts, is_twice = articles.counts, conf.base.variants == "both"
    accounted = sum(counts[name] for name in ("articles", "quarantined", "duplicates", "beyond_limit"))
    gates = [
        GateResult("records read beyond those accounted for", counts["read"] - accounted, 0, 0),
        GateResult("articles beyond those of base", counts["articles"] - rows / (2 if is_twice else 1), 0, 0),
        GateResult(
            "share of records in quarantine",
            _share(counts["quarantined"], counts["read"]),
            0,
            conf.refresh.max_quarantined_share,
        ),
        _oracle_share(0.5 if is_twice else conf.base.oracle_share, rows, sum(base.counts["distracted"].values())),
    ]
    gates += [_schema(conf.lake, version) for version in new.values()]
    shown = dataframes.read(spark, conf.lake, base)
    told = leakage.measure(shown)
    gates.append(GateResult("texts in rows of more than one split", told["in_two_splits"], 0, 0))
    if not conf.base.equal_length:
        return gates
    return [*gates, *_tells(shown, conf.refresh.max_tell), _learned(told, conf)]


def check_changes(articles: Changes, base: Changes, conf: config.Refresh) -> list[GateResult]:
    """Look at how much of what was there is gone or has become another."""
    return [
        GateResult(
            "share of articles withdrawn", _share(articles.withdrawn, articles.before), 0, conf.max_withdrawn_share
        ),
        GateResult("share of rows changed", _share(base.changed, base.before), 0, conf.max_changed_share),
    ]


def check_dataset(conf: config.Config, new: Mapping[str, tables.Version]) -> list[GateResult]:
    """Look at the answers and what was made of them."""
    counts, answers = new[schemas.DATASET].counts, new[schemas.COMPLETIONS].counts
    rows = sum(new[schemas.BASE].counts["rows"].values())
    kept, rejected = (sum(counts[name].values()) for name in ("kept", "rejected"))
    return [
        GateResult("rows of base beyond those kept and rejected", rows - kept - rejected, 0, 0),
        GateResult(
            "share of requests that failed",
            _share(answers["failed"], answers["asked"]),
            0,
            conf.completions.max_failed_share,
        ),
        GateResult("share of rows rejected", _share(rejected, rows), 0, conf.refresh.max_rejected_share),
    ]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _oracle_share(expected: float, rows: int, distracted: int) -> GateResult:
    margin = SIGMAS * math.sqrt(expected * (1 - expected) / max(1, rows))
    return GateResult(
        "share of rows with their oracle", 1 - _share(distracted, rows), expected - margin, expected + margin
    )


def _schema(lake: config.Lake, version: tables.Version) -> GateResult:
    """Count the files that have other columns than the table; one may lack those that came after it was written."""
    at = tables.storage(lake, version.table).at("versions", version.id)
    wrong = 0
    for file in version.data():
        with at.filesystem.open_input_file(at.path(file.path)) as stream:
            found = list(pq.read_schema(stream))
        wrong += found != list(schemas.SCHEMAS[version.table])[: len(found)]
    return GateResult(f"files of {version.table} with other columns", wrong, 0, 0)


def _tells(base: DataFrame, most: float) -> list[GateResult]:
    """Look whether length tells that the oracle is missing: the area under the ROC curve, 0.5 = not at all."""
    length = F.aggregate("documents.text", F.lit(0), lambda sum_, text: sum_ + F.length(text))
    binned = base.groupBy(
        "distracted", F.size("documents").alias("passages"), F.floor(length / LENGTH_BIN).alias("characters")
    )
    found = binned.count().collect()
    return [
        _tell(name, [(row[name], row["distracted"], row["count"]) for row in found], most)
        for name in ("passages", "characters")
    ]


def _learned(told: Mapping[str, Any], conf: config.Config) -> GateResult:
    """Judge what a classifier makes of all lengths; half of the sample's rows were told."""
    kept = 0.5 if conf.base.variants == "both" else conf.base.oracle_share
    most = conf.refresh.max_learned_tell + _noise(told["rows"] / 2, kept)
    return GateResult("how well all lengths tell a missing oracle", told["area"]["lengths"], 0, min(1.0, 0.5 + most))


def _noise(rows: float, share: float) -> float:
    """Return how far the area may be from 0.5 by chance alone (Mann and Whitney), where this share of the rows is of one kind."""
    pairs = rows * share * rows * (1 - share)
    return SIGMAS * math.sqrt((rows + 1) / (12 * pairs)) if pairs else 0.5


def _tell(name: str, counted: Sequence[tuple[int, bool, int]], most: float) -> GateResult:
    """Judge one length by its histogram: (length, is the oracle missing, rows)."""
    lengths, rows = (np.array([row[place] for row in counted], float) for place in (0, 2))
    distracted = np.array([is_missing for _, is_missing, _ in counted], bool)
    noise = _noise(rows.sum(), rows[~distracted].sum() / max(1, rows.sum()))
    low, high = max(0.0, 0.5 - most - noise), min(1.0, 0.5 + most + noise)
    return GateResult(
        f"how well the number of {name} tells a missing oracle", leakage.auc(lengths, distracted, rows), low, high
    )


def failed(gates: Sequence[GateResult]) -> Iterator[GateResult]:
    """Yield the gates that do not let the new versions pass."""
    return (gate for gate in gates if not gate.passed)
