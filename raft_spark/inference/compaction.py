"""Merge the small files of the answer store into large ones, and publish all answers as a new version.

A run stores a file for each task every `flush_seconds`, while readers need few files. Files that a version lists are
never changed, so that old versions stay readable. After a crash two kinds of files may be left:

- A run moved the pointer and died: small files that are merged already. The version lists them in `merged_from`, and
  the next run deletes them first.
- A run died before it could move the pointer: merged files that no version in use lists. Their small files still
  exist, so they are copies and are not merged again.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from raft_spark.config import Config, Lake
from raft_spark.lake import dataframes, parquet, schemas, tables
from raft_spark.lake.filesystem import Storage
from raft_spark.lake.tasks import map_in_arrow

_MERGED = re.compile(r"[^-]+-[^-]+-[^-]+-\d{5}[.]parquet")  # VERSION-NUMBER; a small file's name has more parts
_SCHEMA = schemas.SCHEMAS[schemas.COMPLETIONS]


def publish(
    spark: SparkSession,
    new: tables.Draft,
    conf: Config,
    inputs: Mapping[str, tables.Version],
    counts: Mapping[str, Any],
) -> tables.Version:
    """Publish all stored answers as a new version; delete the small files that it has merged."""
    previous = tables.current(conf.lake, schemas.COMPLETIONS)
    store = tables.storage(conf.lake, schemas.COMPLETIONS)
    for path in previous.merged_from if previous else ():
        store.delete(path)
    listed = previous.files if previous else ()
    groups = group_files(store, {file.path for file in listed}, conf.lake.file_mb * 1_000_000)
    merged = _merge(spark, groups, store, new.id, conf.lake)
    small = tuple(path for group in groups for path in group["paths"])
    version = tables.publish(new, conf, [*listed, *merged], inputs, counts, small)
    for path in small:
        store.delete(path)
    return version


def group_files(store: Storage, listed: set[str], size: int) -> list[dict[str, Any]]:
    """Return which small files to merge into one: unlisted files of a day, in order, about `size` bytes together.

    A group has its `folder`, its `paths`, and as `rows` its bytes, by which Spark's tasks are balanced.
    """
    unlisted = (file for file in store.at("data").list() if f"data/{file.path}" not in listed)
    small = [file for file in unlisted if not _MERGED.fullmatch(file.path.rpartition("/")[2])]
    groups: list[dict[str, Any]] = []
    for folder, files in itertools.groupby(small, lambda file: file.path.partition("/")[0]):
        total = 0
        for file in files:
            if not total or total + file.size > size:
                groups.append({"folder": f"data/{folder}", "paths": [], "rows": 0})
                total = 0
            groups[-1]["paths"].append(f"data/{file.path}")
            groups[-1]["rows"], total = groups[-1]["rows"] + file.size, total + file.size
    return groups


def _merge(
    spark: SparkSession, groups: list[dict[str, Any]], store: Storage, version: str, lake: Lake
) -> list[parquet.DataFile]:
    if not groups:
        return []
    outputs = [
        {**group, "path": f"{group['folder']}/{version}-{number:05d}.parquet"} for number, group in enumerate(groups)
    ]
    tasks = dataframes.assign_tasks(spark, outputs, spark.sparkContext.defaultParallelism)
    write = partial(_write, store=store, row_group_rows=lake.row_group_rows)
    return dataframes.collect_files(map_in_arrow(tasks, write, schemas.FILES))


def _write(batches: Iterator[pa.RecordBatch], store: Storage, row_group_rows: int) -> Iterator[pa.RecordBatch]:
    """Write each group as one file, with one small file in memory at a time."""
    for _, groups in parquet.by_task(batches):
        for group in groups:
            with store.atomic_write(group["path"]) as local:
                with pq.ParquetWriter(local, _SCHEMA, **parquet.PARQUET) as writer:
                    for path in group["paths"]:
                        table = pq.read_table(pa.BufferReader(store.read(path) or b""))
                        complete = pa.concat_tables([_SCHEMA.empty_table(), table], promote_options="default")
                        writer.write_table(complete.select(_SCHEMA.names), row_group_size=row_group_rows)
                file = parquet.describe(local, group["path"])
            yield parquet.files_batch([file])
