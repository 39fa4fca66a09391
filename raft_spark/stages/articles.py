"""source -> articles: check the records of PubMedQA, deduplicate, split and number them.

Two passes of Spark tasks. The first checks the records and writes the good ones to a staging folder, and beside them their
pubids and 64-bit hashes of their texts. These files are all that the driver reads to decide which records stay, in which split
and under which number (`splits.assign`). The second pass copies the staged records to their splits, and writes the corpus index
of their passages beside them. Texts never pass through the driver or a shuffle.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from raft_spark import config
from raft_spark.common import wording
from raft_spark.common.hashing import Int64Array
from raft_spark.config.fields import OFFICIAL_TEST
from raft_spark.errors import InputError
from raft_spark.lake import dataframes, driver_memory, parquet, schemas, session, shared_disk, tables
from raft_spark.lake.filesystem import Storage
from raft_spark.lake.tasks import map_in_arrow, worker_errors
from raft_spark.monitoring import progress
from raft_spark.recipe import corpus
from raft_spark.sources import checks, held_out, sources, splits, text_hashes
from raft_spark.sources.records import Article

LABELLED = ", and these are labelled ones: hf:qiaojin/PubMedQA/pqa_labeled"
CHECK_TASKS_PER_CORE = 4  # in the first pass, so that progress shows and one slow task delays the others little
CHECKED = pa.schema([("task", pa.int32()), ("files", pa.string()), ("read", pa.int64()), ("reasons", pa.string())])
COPIED_FILE_TASKS = 2  # for each file of a copy, so that files are cut alike whenever they arrive
STAGED, HASHES, ASSIGNED = "staged/articles", "staged/hashes", "staged/assigned"  # folders
QUARANTINE = "quarantine"
INDEX_ROWS = 65_536  # in a row group of the corpus index; the driver holds parquet.READERS of 4 MB at once
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
    draft = tables.open_draft(conf.lake, schemas.ARTICLES, identity)
    checked: list[Any] = []
    told = 0
    for arrived in sources.arriving(conf, state):
        told = told or sources.known_rows(arrived)
        checked += check_files(conf, arrived, len(checked), draft.storage)
    spark = session.start(conf, schemas.ARTICLES)
    records = text_hashes.records(draft.storage, _files(checked, HASHES))
    if records.count > told:
        driver_memory.warn_if_small(spark, conf, records.count)
    assignment = assign_all(conf, previous, records, holdout)
    counts = {
        **_counts(checked, assignment),
        "holdout": {"pubids": len(holdout), "found": assignment.held_out},
        "ignored_files": sources.ignored_files(conf),
    }
    if problem := _problem(counts, conf):
        draft.storage.delete("")
        raise InputError(problem)
    quarantined = _files(checked, QUARANTINE)
    size = sum(file.bytes for file in _files(checked, STAGED) + quarantined)
    count = dataframes.task_count(spark, conf.lake, size)
    assigned = assigned_files(spark, _files(checked, STAGED), assignment, draft.storage, count)
    with worker_errors(), progress.spark_tasks(spark, "articles: write", assigned.rdd.getNumPartitions()):
        files = dataframes.collect_files(build(assigned, conf, draft.storage))
    files += quarantined
    draft.storage.delete("staged")
    return tables.publish(draft, conf, files, {}, {**counts, "source": state})


def _identity(conf: config.Config, state: str, holdout: Int64Array) -> str:
    """Return the identity of the articles; without a holdout it is that of a release that knew none."""
    settings = conf.articles.model_dump(exclude={"source", "holdout", "max_quarantined_share"})
    held = [hashlib.sha256(holdout.tobytes()).hexdigest()] if len(holdout) else []
    return tables.identity(schemas.ARTICLES, settings, [state, conf.lake.row_group_rows, *held])


def check_files(
    conf: config.Config, files: Sequence[Sequence[sources.InputSplit]], first: int, at: Storage
) -> list[Any]:
    """Check the records of the input splits of some files in Spark tasks, numbered from `first`; return their rows in order."""
    input_splits = [split for file in files for split in file]
    sources.check_json_columns(input_splits)
    spark = session.start(conf, schemas.ARTICLES)
    shared_disk.check_files(spark, "articles.source", sources.local_files(input_splits))
    if not first:
        driver_memory.warn_if_small(spark, conf, sources.known_rows(files))
    cores = spark.sparkContext.defaultParallelism
    count = COPIED_FILE_TASKS if sources.is_copied(conf) else CHECK_TASKS_PER_CORE * cores
    groups = [group for file in files for group in dataframes.group_inputs(file, count) if group]
    with worker_errors(), progress.spark_tasks(spark, "articles: check records", len(groups)):
        checked = check(dataframes.one_task_each(spark, groups, first), conf, at).collect()
    return sorted(checked, key=lambda row: row.task)


def check(tasks: DataFrame, conf: config.Config, at: Storage) -> DataFrame:
    """Check the records of the input splits of each task; return one row a task in the schema CHECKED; lazy."""
    return map_in_arrow(tasks, partial(_check, conf=conf, at=at), CHECKED)


def assign_all(
    conf: config.Config,
    previous: tables.Version | None,
    records: splits.Records,
    holdout: Int64Array = splits.NO_PUBIDS,
) -> splits.Assignment:
    """Assign split and number to all checked records. The pubids of the whole source are in the driver's memory here."""
    before = splits.NO_ARTICLES if previous is None else _numbered_articles(conf, previous)
    return splits.assign(records, conf.articles, before, holdout)


def _numbered_articles(conf: config.Config, version: tables.Version) -> splits.NumberedArticles:
    groups = tables.row_groups(conf.lake, version)

    def parts(split: int) -> Iterator[tuple[Int64Array, Int64Array]]:
        own = (group for group in groups if group["split"] == schemas.SPLITS[split])
        for _, table in parquet.read_ahead(own, ["pubid", "number"]):
            yield table["pubid"].to_numpy(), table["number"].to_numpy()

    return splits.NumberedArticles(tuple(version.counts["numbers"]), parts)


def assigned_files(
    spark: SparkSession, staged: Sequence[parquet.DataFile], assignment: splits.Assignment, at: Storage, count: int
) -> DataFrame:
    """Write the codes and numbers of each staged file's records beside it; return the files in at most `count` tasks."""
    end, count = 0, min(count, len(staged))
    groups: list[list[Mapping[str, Any]]] = [[] for _ in range(count)]
    for index, file in enumerate(staged):
        rows = slice(end, end := end + file.rows)
        path = f"{ASSIGNED}/{index:05d}.parquet"
        table = {"code": assignment.codes[rows], "number": assignment.numbers[rows].astype(np.int64)}
        assigned = parquet.write_file(at, path, pa.table(table))
        groups[index * count // len(staged)].append({"staged": asdict(file), "assigned": asdict(assigned)})
    return dataframes.one_task_each(spark, groups)


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


def _files(checked: Sequence[Any], folder: str) -> list[parquet.DataFile]:
    """Return the files that the tasks of the first pass wrote to a folder."""
    files = (parquet.DataFile(**file) for row in checked for file in json.loads(row.files))
    return [file for file in files if file.path.startswith(f"{folder}/")]


@dataclass(slots=True)
class _CheckSums:
    """How many records a task has read, and why some of them are rejected."""

    read: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def row(self, task: int, files: Sequence[parquet.DataFile]) -> pa.RecordBatch:
        """Return one row in the schema CHECKED."""
        columns = {
            "task": task,
            "files": json.dumps([asdict(file) for file in files]),
            "read": self.read,
            "reasons": json.dumps(self.reasons),
        }
        return pa.RecordBatch.from_pylist([columns], CHECKED)


def _check(batches: Iterator[pa.RecordBatch], conf: config.Config, at: Storage) -> Iterator[pa.RecordBatch]:
    """Check every record of this task's input splits, and write the good ones to the staging folder in the source's order."""
    rows = conf.lake.row_group_rows
    for task, input_splits in parquet.by_task(batches):
        staging = parquet.PartitionedWriter(at, _STAGED, task, rows)
        hashed = parquet.PartitionedWriter(at, text_hashes.SCHEMA, task, text_hashes.ROW_GROUP_ROWS)
        quarantine = parquet.PartitionedWriter(at, schemas.QUARANTINE, task, rows)
        sums = _CheckSums()
        with staging, hashed, quarantine:
            for input_split in input_splits:
                good, bad = _check_split(input_split, conf.articles, sums)
                for start in range(0, len(good), sources.BATCH_ROWS):
                    hashed.write(HASHES, text_hashes.table(good[start : start + sources.BATCH_ROWS]))
                columns = {name: list(map(attrgetter(name), good)) for name in _STAGED.names}
                staging.write(STAGED, pa.Table.from_pydict(columns, _STAGED))
                quarantine.write(QUARANTINE, bad)
        yield sums.row(task, staging.files + hashed.files + quarantine.files)


def _check_split(
    input_split: Mapping[str, Any], conf: config.Articles, sums: _CheckSums
) -> tuple[list[Article], pa.Table]:
    """Return the good and the rejected records of one input split, and count them in `sums`."""
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
    return good, pa.Table.from_pylist(bad, schemas.QUARANTINE)


def _write(batches: Iterator[pa.RecordBatch], conf: config.Config, at: Storage) -> Iterator[pa.RecordBatch]:
    """Write the staged records of each task to their splits, and duplicates and leaks to the quarantine."""
    size = conf.lake.row_group_rows
    for task, files in parquet.by_task(batches):
        articles = parquet.PartitionedWriter(at, _ARTICLES, task, size)
        index = parquet.PartitionedWriter(at, corpus.PART, task, INDEX_ROWS)
        quarantine = parquet.PartitionedWriter(at, schemas.QUARANTINE, task, size, suffix="-placed")
        with articles, index, quarantine:
            for file in files:
                for staged, codes, numbers in _staged_row_groups(file, at):
                    numbered = staged.append_column("number", pa.array(numbers)).select(_ARTICLES.names)
                    _write_splits("data", numbered, codes, articles)
                    _write_splits("index", corpus.index_part(numbered), codes, index)
                    _write_quarantine(staged, codes, quarantine)
        yield parquet.files_batch(articles.files + index.files + quarantine.files)


def _staged_row_groups(file: Mapping[str, Any], at: Storage) -> Iterator[tuple[pa.Table, splits.Int8Array, Int64Array]]:
    """Yield the row groups of one staged file, with the codes and numbers of their records."""
    described, assigned = (parquet.DataFile(**file[name]) for name in ("staged", "assigned"))
    parts = pa.concat_tables(map(parquet.read_row_group, parquet.row_groups(at, [assigned])))
    codes, numbers = (parts[name].to_numpy() for name in ("code", "number"))
    start = 0
    for group in parquet.row_groups(at, [described]):
        rows = slice(start, start := start + group["rows"])
        yield parquet.read_row_group(group), codes[rows], numbers[rows]


def _write_splits(folder: str, rows: pa.Table, codes: splits.Int8Array, writer: parquet.PartitionedWriter) -> None:
    for code, split in enumerate(schemas.SPLITS):
        writer.write(f"{folder}/split={split}", rows.filter(pa.array(codes == code)))


def _write_quarantine(staged: pa.Table, codes: splits.Int8Array, quarantine: parquet.PartitionedWriter) -> None:
    for code, reason in splits.REASONS.items():
        rows = staged.filter(pa.array(codes == code))
        texts = {"reason": [reason] * len(rows), "source": ["articles"] * len(rows), "record": rows["question"]}
        quarantine.write(QUARANTINE, pa.table({"pubid": rows["pubid"], **texts}, schema=schemas.QUARANTINE))
