"""old and new versions -> what changed, and whether the new versions may be published: the quality gates of a refresh.

A gate is a number and the range it must be in. The gates of articles and base are checked before any request is paid for.
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

SIGMAS = 5.0  # how far chance alone may move a number: beyond that once in two million refreshes


@dataclass(frozen=True, slots=True)
class GateResult:
    """A number that was checked, the value `found`, and the range it must be in, with both ends."""

    name: str
    found: float
    low: float
    high: float

    @property
    def passed(self) -> bool:
        """Say whether the number is in its range; NaN is not."""
        return self.low <= self.found <= self.high

    def __str__(self) -> str:
        """Return the result as a clause of a sentence."""
        return f"{self.name} is {self.found:.4g}, it must be in {self.low:.4g}..{self.high:.4g}"


@dataclass(frozen=True, slots=True)
class Changes:
    """The numbers of rows that are new, changed, withdrawn or the same since the previous version."""

    new: int
    changed: int
    withdrawn: int
    same: int

    @property
    def before(self) -> int:
        """Return how many rows the previous version had."""
        return self.changed + self.withdrawn + self.same


def changes(spark: SparkSession, lake: config.Lake, old: tables.Version | None, new: tables.Version) -> Changes:
    """Compare two versions of articles or base by pubid."""
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
    counts = {row.kind: row["count"] for row in both.groupBy(kind.alias("kind")).count().collect()}
    return Changes(**{name: counts.get(name, 0) for name in Changes.__slots__})


def _hashed(rows: DataFrame) -> DataFrame:
    """Return (pubid, hash of its rows). The number of an article is left out, since it is not part of the source, and how a
    document was found, since scores change a little with every article.
    """
    columns = [F.col(name) for name in rows.columns if name not in ("number", "documents", "second_oracles")]
    if "documents" in rows.columns:
        columns.append(F.expr("transform(documents, d -> struct(d.pubid, d.passage, d.text, d.oracle))"))
    return rows.groupBy("pubid").agg(F.bit_xor(F.xxhash64(*columns)).alias("hash"))


def check_rows(spark: SparkSession, conf: config.Config, new: Mapping[str, tables.Version]) -> list[GateResult]:
    """Check the new versions of articles and base by themselves."""
    articles, base = new[schemas.ARTICLES], new[schemas.BASE]
    rows = sum(base.counts["rows"].values())
    counts, has_both_variants = articles.counts, conf.base.variants == "both"
    accounted = sum(counts[name] for name in ("articles", "quarantined", "duplicates", "beyond_limit"))
    gates = [
        GateResult("records read beyond those accounted for", counts["read"] - accounted, 0, 0),
        GateResult("articles beyond those of base", counts["articles"] - rows / (2 if has_both_variants else 1), 0, 0),
        GateResult(
            "share of records in quarantine",
            _share(counts["quarantined"], counts["read"]),
            0,
            conf.refresh.max_quarantined_share,
        ),
        _oracle_share(_expected_oracle_share(conf.base), rows, sum(base.counts["distracted"].values())),
    ]
    gates += [_schema(conf.lake, version) for version in new.values()]
    leaks = leakage.measure(spark, conf.lake, base)
    gates.append(GateResult("texts in rows of more than one split", leaks.tells["in_two_splits"], 0, 0))
    if conf.base.absent == "nothing":
        return gates
    return [*gates, *_length_gates(leaks, conf.refresh.max_tell), _classifier_gate(leaks.tells, conf)]


def check_changes(articles: Changes, base: Changes, conf: config.Refresh) -> list[GateResult]:
    """Check how many articles are withdrawn and how many rows of base have changed."""
    return [
        GateResult(
            "share of articles withdrawn", _share(articles.withdrawn, articles.before), 0, conf.max_withdrawn_share
        ),
        GateResult("share of rows changed", _share(base.changed, base.before), 0, conf.max_changed_share),
    ]


def check_lineage(published: Mapping[str, tables.Version]) -> GateResult:
    """Check that each table was made from the versions that are published with it."""
    mixed = [
        (version.table, name)
        for version in published.values()
        for name, made_from in version.inputs.items()
        if name in published and published[name].id != made_from
    ]
    return GateResult("inputs that differ from the versions published with them", len(mixed), 0, 0)


def check_dataset(conf: config.Config, new: Mapping[str, tables.Version]) -> list[GateResult]:
    """Check the answers and the dataset."""
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


def _expected_oracle_share(conf: config.Base) -> float:
    return 0.5 if conf.variants == "both" else conf.oracle_share


def _oracle_share(expected: float, rows: int, distracted: int) -> GateResult:
    margin = SIGMAS * math.sqrt(expected * (1 - expected) / max(1, rows))
    return GateResult(
        "share of rows with their oracle", 1 - _share(distracted, rows), expected - margin, expected + margin
    )


def _schema(lake: config.Lake, version: tables.Version) -> GateResult:
    """Count the files whose columns differ from the table's. A file may lack columns that were added after it was written."""
    at = tables.storage(lake, version.table).at("versions", version.id)
    count = 0
    for file in version.data():
        with at.open(file.path) as stream:
            columns = list(pq.read_schema(stream))
        count += columns != list(schemas.SCHEMAS[version.table])[: len(columns)]
    return GateResult(f"files of {version.table} with other columns", count, 0, 0)


def _length_gates(leaks: leakage.Leakage, max_leakage: float) -> list[GateResult]:
    """Check how well the length of a row predicts that its oracle is missing: the area under the ROC curve, 0.5 = a guess."""
    lengths = {"passages": 1, "characters": 2}
    return [
        _length_gate(name, [(key[at], bool(key[0]), rows) for key, rows in leaks.histogram.items()], max_leakage)
        for name, at in lengths.items()
    ]


def _classifier_gate(leaks: Mapping[str, Any], conf: config.Config) -> GateResult:
    """Check how well a classifier predicts a missing oracle from all it can see, or from lengths where single passages replace
    the oracle, since these share no words. Half of the sample's rows tested it.
    """
    seen, name = ("all lengths", "lengths") if conf.base.absent == "singles" else (leakage.ALL, leakage.ALL)
    margin = conf.refresh.max_learned_tell + _noise(leaks["rows"] / 2, _expected_oracle_share(conf.base))
    high = min(1.0, 0.5 + margin)
    return GateResult(f"how well {seen} predict a missing oracle", leaks["area"][name], 0, high)


def _noise(rows: float, share: float) -> float:
    """Return how far the area may be from 0.5 by chance alone (Mann and Whitney), if this share of the rows is in one class."""
    pairs = rows * share * rows * (1 - share)
    return SIGMAS * math.sqrt((rows + 1) / (12 * pairs)) if pairs else 0.5


def _length_gate(name: str, histogram: Sequence[tuple[int, bool, int]], max_leakage: float) -> GateResult:
    """Check one length by its histogram: (length, whether the oracle is missing, rows)."""
    lengths, rows = (np.array([row[column] for row in histogram], float) for column in (0, 2))
    is_missing = np.array([missing for _, missing, _ in histogram], bool)
    margin = max_leakage + _noise(rows.sum(), rows[~is_missing].sum() / max(1, rows.sum()))
    low, high = max(0.0, 0.5 - margin), min(1.0, 0.5 + margin)
    auc = leakage.auc(lengths, is_missing, rows)
    return GateResult(f"how well the number of {name} predicts a missing oracle", auc, low, high)


def failed(gates: Sequence[GateResult]) -> Iterator[GateResult]:
    """Yield the gates that failed."""
    return (gate for gate in gates if not gate.passed)
