"""The store's small files -> a version of the answers: what no version lists yet is merged into large files, then published.

A run stores a file per task every `flush_seconds`; readers want few. Files that a version lists are never touched, so an old
version can be read for ever. A crash after the pointer has moved leaves small files that are merged already: the version
names them, and the next one deletes them before it looks. A run that ended before it could move the pointer leaves merged
files that no version in use lists: copies, since their small files are still there, so they are not merged again.
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
    """Publish all answers that the store holds as a new version."""
    previous = tables.current(conf.lake, schemas.COMPLETIONS)
    store = tables.storage(conf.lake, schemas.COMPLETIONS)
    for path in previous.merged_from if previous else ():
        store.delete(path)
    listed = previous.files if previous else ()
    groups = group_files(store, {file.path for file in listed}, conf.lake.file_mb * 1_000_000)
    merged = _merged(spark, groups, store, new.id, conf.lake)
    small = tuple(path for group in groups for path in group["paths"])
    version = tables.publish(new, conf, [*listed, *merged], inputs, counts, small)
    for path in small:
        store.delete(path)
    return version


def group_files(store: Storage, listed: set[str], size: int) -> list[dict[str, Any]]:
    """Return which unlisted small files of a day become one: in order, about `size` bytes together."""
    unlisted = (file for file in store.at("data").list() if f"data/{file.path}" not in listed)
    found = [file for file in unlisted if not _MERGED.fullmatch(file.path.rpartition("/")[2])]
    groups: list[dict[str, Any]] = []
    for folder, files in itertools.groupby(found, lambda file: file.path.partition("/")[0]):
        before = 0
        for file in files:
            if not before or before + file.size > size:
                groups.append({"folder": f"data/{folder}", "paths": [], "rows": 0})
                before = 0
            groups[-1]["paths"].append(f"data/{file.path}")
            groups[-1]["rows"], before = groups[-1]["rows"] + file.size, before + file.size
    return groups


def _merged(
    spark: SparkSession, groups: list[dict[str, Any]], store: Storage, version: str, lake: Lake
) -> list[parquet.DataFile]:
    if not groups:
        return []
    pieces = [
        {**group, "path": f"{group['folder']}/{version}-{number:05d}.parquet"} for number, group in enumerate(groups)
    ]
    tasks = dataframes.assign_tasks(spark, pieces, spark.sparkContext.defaultParallelism)
    write = partial(_write, store=store, row_group_rows=lake.row_group_rows)
    return dataframes.collect_files(map_in_arrow(tasks, write, schemas.FILES))


def _write(batches: Iterator[pa.RecordBatch], store: Storage, row_group_rows: int) -> Iterator[pa.RecordBatch]:
    """Write each group as one file, a small file in memory at a time."""
    for _, pieces in parquet.by_task(batches):
        for piece in pieces:
            with store.atomic_write(piece["path"]) as local:
                with pq.ParquetWriter(local, _SCHEMA, **parquet.PARQUET) as writer:
                    for path in piece["paths"]:
                        table = pq.read_table(pa.BufferReader(store.read(path) or b""))
                        whole = pa.concat_tables([_SCHEMA.empty_table(), table], promote_options="default")
                        writer.write_table(whole.select(_SCHEMA.names), row_group_size=row_group_rows)
                file = parquet.describe(local, piece["path"])
            yield parquet.files_batch([file])
