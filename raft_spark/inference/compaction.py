"""Merge the small files of the answer store into large ones, and publish all answers as a new version.

    ROOT/completions/data/day=.../RUN_ID-....parquet        small files, as tasks store them
    ROOT/completions/merged/day=.../VERSION-NUMBER.parquet  what they were merged into

A run stores a file for each task every `flush_seconds`, while readers need few files. Files that a version lists are
never changed, so that old versions stay readable.

A reader that listed small files before a version was published goes on to read them. So they are not deleted then: the
version names them in `merged_from`, whoever lists the store later leaves them out, and a later run deletes them when they
have been merged for lake.sweep_after_hours. A run that died before it could publish leaves merged files that no version
lists. Their small files still exist, so they are copies and are not merged again.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from raft_spark.common import ids
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
    """Publish all stored answers as a new version; delete the small files that were merged long ago."""
    previous = _newest(conf.lake)
    store = tables.storage(conf.lake, schemas.COMPLETIONS)
    listed, before = (previous.files, previous.merged_from) if previous else ((), {})
    known = {file.path for file in listed} | set(before)
    groups = group_files(store, known, conf.lake.file_mb * 1_000_000)
    merged = _merge(spark, groups, store, new.id, conf.lake)
    old = {path for path, since in before.items() if ids.age_hours(since) >= conf.lake.sweep_after_hours}
    for path in old:
        store.delete(path)
    now = ids.now()
    merged_from = {path: since for path, since in before.items() if path not in old}
    merged_from |= {path: now for group in groups for path in group["paths"]}
    return tables.publish(new, conf, [*listed, *merged], inputs, counts, merged_from)


def _newest(lake: Lake) -> tables.Version | None:
    """Return the current version; when somebody has deleted its damaged manifest, the newest of the others."""
    current = tables.current(lake, schemas.COMPLETIONS)
    return current or next(reversed(tables.history(lake, schemas.COMPLETIONS)), None)


def group_files(store: Storage, known: set[str], size: int) -> list[dict[str, Any]]:
    """Return which small files to merge into one: files of a day that are not in `known`, in order, about `size` bytes together.

    A group has its `folder`, its `paths`, and as `rows` its bytes, by which Spark's tasks are balanced.
    """
    new = (file for file in store.at("data").list() if f"data/{file.path}" not in known)
    small = [file for file in new if not _MERGED.fullmatch(file.path.rpartition("/")[2])]
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
        {**group, "path": f"merged/{group['folder'].removeprefix('data/')}/{version}-{number:05d}.parquet"}
        for number, group in enumerate(groups)
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
