"""source -> articles: check the records of PubMedQA, deduplicate, split and number them.

Two passes of Spark tasks. The first checks the records and writes the good ones to a staging folder. Only pubids and 64-bit
hashes of passages reach the driver, which decides which records stay, in which split and under which number
(`splits.assign`). The second pass copies the staged records to their splits. Texts never pass through the driver or a
shuffle.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import groupby, islice
from operator import attrgetter, itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from raft_spark import config
from raft_spark.common import wording
from raft_spark.common.hashing import Int64Array
from raft_spark.config.fields import OFFICIAL_TEST
from raft_spark.errors import InputError
from raft_spark.lake import dataframes, parquet, schemas, session, shared_disk, tables
from raft_spark.lake.filesystem import Storage
from raft_spark.lake.tasks import map_in_arrow, worker_errors
from raft_spark.monitoring import progress
from raft_spark.sources import checks, held_out, sources, splits
from raft_spark.sources.records import Article, leak_digests

LABELLED = ", and these are labelled ones: hf:qiaojin/PubMedQA/pqa_labeled"
CHECK_TASKS_PER_CORE = 4  # in the first pass, so that progress shows and one slow task delays the others little
CHECKED = pa.schema(
    [
        ("task", pa.int32()),
        ("files", pa.string()),
        ("read", pa.int64()),
        ("reasons", pa.string()),
        ("pubids", pa.binary()),
        ("lengths", pa.binary()),
        ("hashes", pa.binary()),
    ]
)
_ASSIGNED = pa.schema([("task", pa.int32()), ("files", pa.string()), ("codes", pa.binary()), ("numbers", pa.binary())])
_ARTICLES = schemas.SCHEMAS[schemas.ARTICLES]
_STAGED = pa.schema([field for field in _ARTICLES if field.name != "number"])


def run(conf: config.Config) -> tables.Version:
    """Bring the articles up to date with the source; return the current version.

    Raises InputError when the source cannot be read, no article is left, or too many records are in quarantine.
    """
    state = sources.identity(conf)
    holdout = held_out.read(conf)
    identity = _identity(conf, state, holdout)
    existing = tables.find_existing(conf.lake, schemas.ARTICLES, identity)
    if existing:
        return existing
    previous = tables.current(conf.lake, schemas.ARTICLES)
    input_splits = sources.input_splits(conf, state)
    sources.check_json_columns(input_splits)
    spark = session.start(conf, schemas.ARTICLES)
    shared_disk.check_files(spark, "articles.source", sources.local_files(input_splits))
    draft = tables.open_draft(conf.lake, schemas.ARTICLES, identity)
    tasks = dataframes.assign_tasks(spark, input_splits, CHECK_TASKS_PER_CORE * spark.sparkContext.defaultParallelism)
    with worker_errors(), progress.spark_tasks(spark, "articles: check records", tasks.rdd.getNumPartitions()):
        checked = check(tasks, conf, draft.storage).collect()
    checked.sort(key=lambda row: row.task)
    assignment = assign_all(conf, previous, checked, holdout)
    counts = {
        **_counts(checked, assignment),
        "holdout": _count_held_out(checked, holdout),
        "ignored_files": sources.ignored_files(conf),
    }
    if problem := _problem(counts, conf):
        draft.storage.delete("")
        raise InputError(problem)
    size = sum(file["bytes"] for row in checked for file in json.loads(row.files))
    assigned = assigned_files(spark, checked, assignment, dataframes.task_count(spark, conf.lake, size))
    with worker_errors(), progress.spark_tasks(spark, "articles: write", assigned.rdd.getNumPartitions()):
        files = dataframes.collect_files(build(assigned, conf, draft.storage))
    files += [file for row in checked for file in _quarantine_files(row.files)]
    draft.storage.delete("staged")
    return tables.publish(draft, conf, files, {}, {**counts, "source": state})


def _identity(conf: config.Config, state: str, holdout: Int64Array) -> str:
    """Return the identity of the articles; without a holdout it is that of a release that knew none."""
    settings = conf.articles.model_dump(exclude={"source", "holdout", "max_quarantined_share"})
    held = [hashlib.sha256(holdout.tobytes()).hexdigest()] if len(holdout) else []
    return tables.identity(schemas.ARTICLES, settings, [state, conf.lake.row_group_rows, *held])


def check(tasks: DataFrame, conf: config.Config, at: Storage) -> DataFrame:
    """Check the records of the input splits of each task; return one row a task in the schema CHECKED; lazy."""
    return map_in_arrow(tasks, partial(_check, conf=conf, at=at), CHECKED)


def assign_all(
    conf: config.Config,
    previous: tables.Version | None,
    checked: Sequence[Any],
    holdout: Int64Array = splits.NO_PUBIDS,
) -> splits.Assignment:
    """Assign split and number to all checked records. Pubids and hashes of the whole source are in the driver's memory here."""
    pubids, lengths, hashes = (
        np.concatenate([np.frombuffer(row[name], kind) for row in checked])
        for name, kind in (("pubids", np.int64), ("lengths", np.int64), ("hashes", np.uint64))
    )
    before = splits.NO_ARTICLES if previous is None else _numbered_articles(conf, previous)
    return splits.assign(pubids, lengths, hashes, conf.articles, before, holdout)


def _numbered_articles(conf: config.Config, version: tables.Version) -> splits.NumberedArticles:
    read = list(parquet.read_ahead(tables.row_groups(conf.lake, version), ["pubid", "number"]))
    split_codes = [np.full(table.num_rows, schemas.SPLITS.index(group["split"])) for group, table in read]
    pubids, numbers = (np.concatenate([table[name].to_numpy() for _, table in read]) for name in ("pubid", "number"))
    return splits.NumberedArticles(pubids, np.concatenate(split_codes), numbers, tuple(version.counts["numbers"]))


def assigned_files(spark: SparkSession, checked: Sequence[Any], assignment: splits.Assignment, count: int) -> DataFrame:
    """Return what the second pass reads, in `count` partitions: the files of each task of the first pass, with the codes and
    numbers of their records.
    """
    ends = np.cumsum([len(row.pubids) // 8 for row in checked])[:-1]
    parts = zip(checked, np.split(assignment.codes, ends), np.split(assignment.numbers, ends), strict=True)
    filled = [(row.files, codes.tobytes(), numbers.tobytes()) for row, codes, numbers in parts if len(codes)]
    count = min(count, len(filled))
    rows = [(index * count // len(filled), *columns) for index, columns in enumerate(filled)]
    groups = [list(group) for _, group in groupby(rows, key=itemgetter(0))]
    partitions = spark.sparkContext.parallelize(groups, count).flatMap(list)
    return spark.createDataFrame(partitions, from_arrow_schema(_ASSIGNED))


def build(assigned: DataFrame, conf: config.Config, at: Storage) -> DataFrame:
    """Write the staged records to their splits; return the files of the table, in the schema schemas.FILES; lazy."""
    return map_in_arrow(assigned, partial(_write, conf=conf, at=at), schemas.FILES)


def _counts(checked: Sequence[Any], assignment: splits.Assignment) -> dict[str, Any]:
    """Return the counts of the version. Always read = articles + quarantined + duplicates + beyond_limit."""
    reasons: Counter[str] = Counter()
    for row in checked:
        reasons.update(json.loads(row.reasons))
    quarantined = reasons.total() + assignment.count(splits.HELD_OUT)
    reasons.update({reason: assignment.count(code) for code, reason in splits.REASONS.items()})
    return {
        "read": sum(row.read for row in checked),
        "articles": int(assignment.is_kept.sum()),
        "quarantined": quarantined,
        "duplicates": assignment.count(splits.DUPLICATE),
        "beyond_limit": assignment.count(splits.BEYOND_LIMIT),
        "splits": {name: assignment.count(index) for index, name in enumerate(schemas.SPLITS)},
        "numbers": list(assignment.sizes),
        "reasons": {reason: count for reason, count in sorted(reasons.items()) if count},
    }


def _count_held_out(checked: Sequence[Any], holdout: Int64Array) -> dict[str, int]:
    return held_out.count(holdout, np.concatenate([np.frombuffer(row.pubids, np.int64) for row in checked]))


def _problem(counts: Mapping[str, Any], conf: config.Config) -> str:
    """Return why the version must not be published, "" if it may."""
    read, quarantined, source = counts["read"], counts["quarantined"], conf.articles.source
    reasons, limit = wording.counts(counts["reasons"]), conf.articles.max_quarantined_share
    if not counts["articles"]:
        return f"no article is left of {read} records of {source}; reasons: {reasons}"
    if counts["holdout"]["pubids"] and not counts["holdout"]["found"]:
        return (
            f"articles.holdout is {conf.articles.holdout!r}: none of its {counts['holdout']['pubids']} pubids is in {source}; "
            f"it must name articles of the source{LABELLED if conf.articles.holdout == OFFICIAL_TEST else ''}"
        )
    if quarantined <= limit * read:
        return ""
    return (
        f"{quarantined} of {read} records of {source} ({wording.share(quarantined, read)}) are in quarantine, more than "
        f"articles.max_quarantined_share = {limit:g}; nothing was published. Reasons: {reasons}. Correct the source, or raise "
        "the setting to go on without these records"
    )


def _quarantine_files(files: str) -> list[parquet.DataFile]:
    described = (parquet.DataFile(**file) for file in json.loads(files))
    return [file for file in described if file.path.startswith("quarantine/")]


@dataclass(slots=True)
class _CheckSums:
    """What the driver needs to know about the records of one task."""

    read: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    pubids: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    hashes: bytearray = field(default_factory=bytearray)  # 8 bytes each, big-endian

    def add(self, articles: Sequence[Article]) -> None:
        """Add the pubids and leak hashes of some articles."""
        digests = iter(leak_digests([text for each in articles for text in (each.question, *each.passages)]))
        for each in articles:
            found = b"".join(islice(digests, 1 + len(each.passages)))
            self.lengths.append(len(found) // 8)
            self.hashes += found
        self.pubids.extend(each.pubid for each in articles)

    def row(self, task: int, files: Sequence[parquet.DataFile]) -> pa.RecordBatch:
        """Return one row in the schema CHECKED."""
        columns = {
            "task": task,
            "files": json.dumps([asdict(file) for file in files]),
            "read": self.read,
            "reasons": json.dumps(self.reasons),
            "pubids": np.array(self.pubids, np.int64).tobytes(),
            "lengths": np.array(self.lengths, np.int64).tobytes(),
            "hashes": np.frombuffer(self.hashes, ">u8").astype(np.uint64).tobytes(),
        }
        return pa.RecordBatch.from_pylist([columns], CHECKED)


def _check(batches: Iterator[pa.RecordBatch], conf: config.Config, at: Storage) -> Iterator[pa.RecordBatch]:
    """Check every record of this task's input splits, and write the good ones to the staging folder in the source's order."""
    rows = conf.lake.row_group_rows
    for task, input_splits in parquet.by_task(batches):
        staging = parquet.PartitionedWriter(at, _STAGED, task, rows)
        quarantine = parquet.PartitionedWriter(at, schemas.QUARANTINE, task, rows)
        sums = _CheckSums()
        with staging, quarantine:
            for input_split in input_splits:
                good, bad = _check_split(input_split, conf.articles, sums)
                staging.write("staged", good)
                quarantine.write("quarantine", bad)
        yield sums.row(task, staging.files + quarantine.files)


def _check_split(input_split: Mapping[str, Any], conf: config.Articles, sums: _CheckSums) -> tuple[pa.Table, pa.Table]:
    """Return the good and the rejected records of one input split, and add them to `sums`."""
    good: list[Article] = []
    bad = []
    for where, record, found in checks.check_split(input_split, conf):
        sums.read += 1
        if isinstance(found, Article):
            good.append(found)
        else:
            sums.reasons[found.reason] += 1
            text = repr(record)[:2_000].encode("utf-8", "backslashreplace").decode()
            bad.append({"pubid": found.pubid, "reason": found.reason, "source": where, "record": text})
    for start in range(0, len(good), sources.BATCH_ROWS):
        sums.add(good[start : start + sources.BATCH_ROWS])
    columns = {name: list(map(attrgetter(name), good)) for name in _STAGED.names}
    return pa.Table.from_pydict(columns, _STAGED), pa.Table.from_pylist(bad, schemas.QUARANTINE)


def _write(batches: Iterator[pa.RecordBatch], conf: config.Config, at: Storage) -> Iterator[pa.RecordBatch]:
    """Write the staged records of each task to their splits, and duplicates and leaks to the quarantine."""
    size = conf.lake.row_group_rows
    rows = (row for batch in batches for row in batch.to_pylist())
    for task, rows_of_task in groupby(rows, key=itemgetter("task")):
        articles = parquet.PartitionedWriter(at, _ARTICLES, task, size)
        quarantine = parquet.PartitionedWriter(at, schemas.QUARANTINE, task, size, suffix="-placed")
        with articles, quarantine:
            for row in rows_of_task:
                for staged, codes, numbers in _staged_row_groups(row, at):
                    _write_articles(staged, codes, numbers, articles)
                    _write_quarantine(staged, codes, quarantine)
        yield parquet.files_batch(articles.files + quarantine.files)


def _staged_row_groups(row: Mapping[str, Any], at: Storage) -> Iterator[tuple[pa.Table, Int64Array, Int64Array]]:
    """Yield the row groups of one staged file, with the codes and numbers of their records."""
    file = next(file for file in json.loads(row["files"]) if file["path"].startswith("staged/"))
    codes, numbers = (np.frombuffer(row[name], np.int64) for name in ("codes", "numbers"))
    start = 0
    for group, size in enumerate(file["row_groups"]):
        table = parquet.read_row_group({**asdict(at), "path": file["path"], "row_group": group})
        yield table, codes[start : start + size], numbers[start : start + size]
        start += size


def _write_articles(
    staged: pa.Table, codes: Int64Array, numbers: Int64Array, articles: parquet.PartitionedWriter
) -> None:
    numbered = staged.append_column("number", pa.array(numbers)).select(_ARTICLES.names)
    for code, split in enumerate(schemas.SPLITS):
        articles.write(f"data/split={split}", numbered.filter(pa.array(codes == code)))


def _write_quarantine(staged: pa.Table, codes: Int64Array, quarantine: parquet.PartitionedWriter) -> None:
    for code, reason in splits.REASONS.items():
        rows = staged.filter(pa.array(codes == code))
        texts = {"reason": [reason] * len(rows), "source": ["articles"] * len(rows), "record": rows["question"]}
        quarantine.write("quarantine", pa.table({"pubid": rows["pubid"], **texts}, schema=schemas.QUARANTINE))
