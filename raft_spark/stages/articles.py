"""PubMedQA -> articles: check, deduplicate, keep the splits apart, number.

Two passes of tasks over row groups. The first checks records and stages the good ones, and hands the driver only pubids
and 64-bit hashes of passages; the driver decides which stay, in which split and under which number (`numbering.placed`); the second
writes them. Texts never pass through the driver or a shuffle.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import BinaryType

from raft_spark import config
from raft_spark.common import wording
from raft_spark.common.hashing import Int64Array
from raft_spark.errors import InputError
from raft_spark.lake import dataframes, parquet, schemas, session, tables
from raft_spark.lake.filesystem import Storage
from raft_spark.lake.tasks import map_in_arrow, worker_errors
from raft_spark.monitoring import progress
from raft_spark.sources import sources, splits
from raft_spark.sources.records import Article, check_record, passage_hash

STAGE_WAVES = 4  # tasks a core in the first pass, so that progress shows and a slow one is balanced
STAGED = pa.schema(
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
_STAGED_ROWS = pa.schema([field for field in schemas.SCHEMAS[schemas.ARTICLES] if field.name != "number"])


def run(conf: config.Config) -> tables.Version:
    """Bring the articles up to the source; return the version that is current then.

    Raises InputError when the source cannot be read or no article is left.
    """
    state = sources.identity(conf)
    settings = conf.articles.model_dump(exclude={"source"})
    identity = tables.identity(schemas.ARTICLES, settings, [state, conf.lake.row_group_rows])
    made = tables.find_existing(conf.lake, schemas.ARTICLES, identity)
    if made:
        return made
    previous = tables.current(conf.lake, schemas.ARTICLES)
    cut = sources.input_splits(conf, state)
    sources.check_lines(cut)
    spark = session.start(conf, schemas.ARTICLES)
    new = tables.open_draft(conf.lake, schemas.ARTICLES, identity)
    handed = dataframes.assign_tasks(spark, cut, STAGE_WAVES * spark.sparkContext.defaultParallelism)
    with worker_errors(), progress.spark_tasks(spark, "articles: check records", handed.rdd.getNumPartitions()):
        staged = stage(handed, conf, new.storage).collect()
    staged.sort(key=lambda row: row.task)
    placement = assign_all(conf, previous, staged)
    counts = _counted(staged, placement)
    if not placement.kept.any():
        new.storage.delete("")
        msg = f"no article is left of {counts['read']} records of {conf.articles.source}; reasons: {wording.counts(counts['reasons'])}"
        raise InputError(msg)
    size = sum(file["bytes"] for row in staged for file in json.loads(row.files))
    placed = assignment_codes(spark, staged, placement, dataframes.task_count(spark, conf.lake, size))
    with worker_errors(), progress.spark_tasks(spark, "articles: write", placed.rdd.getNumPartitions()):
        files = dataframes.collect_files(build(placed, conf, new.storage))
    files += [file for row in staged for file in _quarantine_files(row.files)]
    new.storage.delete("staged")
    return tables.publish(new, conf, files, {}, {**counts, "source": state})


def stage(cut: DataFrame, conf: config.Config, at: Storage) -> DataFrame:
    """(task, piece) -> a row a task in the schema STAGED; lazy."""
    return map_in_arrow(cut, partial(_stage, conf=conf, at=at), STAGED)


def build(staged: DataFrame, conf: config.Config, at: Storage) -> DataFrame:
    """(task, piece, places) -> the files of the table, in the schema schemas.FILES; lazy."""
    return map_in_arrow(staged, partial(_write, conf=conf, at=at), schemas.FILES)


def assign_all(conf: config.Config, previous: tables.Version | None, staged: Sequence[Any]) -> splits.Assignment:
    """Decide on all staged records: ids and hashes of the whole source are on the driver here, never texts."""
    pubids, lengths, hashes = (
        np.concatenate([np.frombuffer(row[name], kind) for row in staged])
        for name, kind in (("pubids", np.int64), ("lengths", np.int64), ("hashes", np.uint64))
    )
    before = splits.NOTHING if previous is None else _numbered(conf, previous)
    return splits.assign(pubids, lengths, hashes, conf.articles, before)


def _numbered(conf: config.Config, previous: tables.Version) -> splits.NumberedArticles:
    read = [
        (piece, parquet.read_row_group(piece, ["pubid", "number"])) for piece in tables.row_groups(conf.lake, previous)
    ]
    split_codes = [np.full(table.num_rows, schemas.SPLITS.index(piece["split"])) for piece, table in read]
    pubids, numbers = (np.concatenate([table[name].to_numpy() for _, table in read]) for name in ("pubid", "number"))
    return splits.NumberedArticles(pubids, np.concatenate(split_codes), numbers, tuple(previous.counts["numbers"]))


def assignment_codes(spark: SparkSession, staged: Sequence[Any], placement: splits.Assignment, count: int) -> DataFrame:
    """Return (task, piece, places) for the second pass: each staged file with the places of its rows, in `count` tasks."""
    ends = np.cumsum([len(row.pubids) // 8 for row in staged])
    found = zip(staged, np.split(placement.places, ends[:-1]), strict=True)
    filled = [(row.files, part.tobytes()) for row, part in found if len(part)]
    count = min(count, len(filled))
    rows = [(index * count // len(filled), *both) for index, both in enumerate(filled)]
    groups = [list(group) for _, group in groupby(rows, key=itemgetter(0))]
    schema = from_arrow_schema(pa.schema([("task", pa.int32()), ("piece", pa.string())])).add("places", BinaryType())
    return spark.createDataFrame(spark.sparkContext.parallelize(groups, count).flatMap(list), schema)


def _counted(staged: Sequence[Any], placement: splits.Assignment) -> dict[str, Any]:
    """Sum up: read = articles + quarantined + duplicates + beyond_limit, always."""
    reasons: Counter[str] = Counter()
    for row in staged:
        reasons.update(json.loads(row.reasons))
    quarantined = reasons.total() + int((placement.places == splits.HELD_OUT).sum())
    reasons.update({reason: int((placement.places == code).sum()) for code, reason in splits.REASONS.items()})
    return {
        "read": sum(row.read for row in staged),
        "articles": int(placement.kept.sum()),
        "quarantined": quarantined,
        "duplicates": int((placement.places == splits.DUPLICATE).sum()),
        "beyond_limit": int((placement.places == splits.BEYOND_LIMIT).sum()),
        "splits": {name: int((placement.split == index).sum()) for index, name in enumerate(schemas.SPLITS)},
        "numbers": list(placement.sizes),
        "reasons": {reason: count for reason, count in sorted(reasons.items()) if count},
    }


def _quarantine_files(files: str) -> list[parquet.DataFile]:
    found = (parquet.DataFile(**file) for file in json.loads(files))
    return [file for file in found if file.path.startswith("quarantine/")]


def _stage(batches: Iterator[pa.RecordBatch], conf: config.Config, at: Storage) -> Iterator[pa.RecordBatch]:
    """Check every record of this task's pieces and stage the good ones, in the source's order."""
    rows = conf.lake.row_group_rows
    for task, own in parquet.by_task(batches):
        staging, quarantine = (
            parquet.PartitionedWriter(at, _STAGED_ROWS, task, rows),
            parquet.PartitionedWriter(at, schemas.QUARANTINE, task, rows),
        )
        counted: dict[str, Any] = {"pubids": [], "lengths": [], "hashes": [], "read": 0, "reasons": Counter()}
        with staging, quarantine:
            for piece in own:
                _stage_piece(
                    piece,
                    conf.articles,
                    partial(staging.write, "staged"),
                    partial(quarantine.write, "quarantine"),
                    counted,
                )
        arrays = [
            np.array(counted[name], kind).tobytes()
            for name, kind in (("pubids", np.int64), ("lengths", np.int64), ("hashes", np.uint64))
        ]
        files = json.dumps([asdict(file) for file in staging.files + quarantine.files])
        row = (task, files, counted["read"], json.dumps(counted["reasons"]), *arrays)
        yield pa.RecordBatch.from_pylist([dict(zip(STAGED.names, row, strict=True))], STAGED)


Write = Callable[[pa.Table], None]


def _stage_piece(
    piece: Mapping[str, Any], conf: config.Articles, keep: Write, reject: Write, counted: dict[str, Any]
) -> None:
    """Check one piece; add to `counted` what the driver needs to know."""
    good, bad = [], []
    for where, record in sources.read_split(piece):
        found = check_record(record, conf)
        counted["read"] += 1
        if isinstance(found, Article):
            good.append(asdict_shallow(found))
            counted["pubids"].append(found.pubid)
            counted["lengths"].append(len(found.passages))
            counted["hashes"].extend(map(passage_hash, found.passages))
        else:
            counted["reasons"][found.reason] += 1
            text = repr(record)[:2_000].encode("utf-8", "backslashreplace").decode()
            bad.append({"pubid": found.pubid, "reason": found.reason, "source": where, "record": text})
    keep(pa.Table.from_pylist(good, _STAGED_ROWS))
    reject(pa.Table.from_pylist(bad, schemas.QUARANTINE))


def asdict_shallow(article: Article) -> dict[str, Any]:
    """Return the fields as they are; dataclasses.asdict copies every list."""
    return {name: getattr(article, name) for name in Article.__slots__}


def _write(batches: Iterator[pa.RecordBatch], conf: config.Config, at: Storage) -> Iterator[pa.RecordBatch]:
    """Write the staged rows of each task to their splits, and duplicates and leaks to quarantine."""
    size = conf.lake.row_group_rows
    rows = (row for batch in batches for row in batch.to_pylist())
    for task, own in groupby(rows, key=itemgetter("task")):
        kept = parquet.PartitionedWriter(at, schemas.SCHEMAS[schemas.ARTICLES], task, size)
        dropped = parquet.PartitionedWriter(at, schemas.QUARANTINE, task, size, suffix="-placed")
        with kept, dropped:
            for row in own:
                _write_staged(row, at, kept, dropped)
        yield parquet.files_batch(kept.files + dropped.files)


def _write_staged(
    row: Mapping[str, Any], at: Storage, kept: parquet.PartitionedWriter, dropped: parquet.PartitionedWriter
) -> None:
    """Write the rows of one staged file, a row group at a time."""
    staged = next(file for file in json.loads(row["piece"]) if file["path"].startswith("staged/"))
    places_left = np.frombuffer(row["places"], np.int64)
    for group, size in enumerate(staged["row_groups"]):
        table = parquet.read_row_group({**asdict(at), "path": staged["path"], "row_group": group})
        _write_group(table, places_left[:size], kept, dropped)
        places_left = places_left[size:]


def _write_group(
    table: pa.Table, own: Int64Array, kept: parquet.PartitionedWriter, dropped: parquet.PartitionedWriter
) -> None:
    numbered = table.append_column("number", pa.array(own // 4)).select(schemas.SCHEMAS[schemas.ARTICLES].names)
    for index, split in enumerate(schemas.SPLITS):
        kept.write(f"data/split={split}", numbered.filter(pa.array((own >= 0) & (own % 4 == index))))
    for code, reason in splits.REASONS.items():
        lost = table.filter(pa.array(own == code))
        texts = {"reason": [reason] * len(lost), "source": ["articles"] * len(lost), "record": lost["question"]}
        dropped.write("quarantine", pa.table({"pubid": lost["pubid"], **texts}, schema=schemas.QUARANTINE))
