"""Shuffle rows between Spark tasks as compressed blobs of many rows each, so that Spark moves and sorts few blobs, not rows.

A task packs the rows of each part into blobs. Spark sends all blobs of a part to one task, which gets its parts in order
and unpacks them. So the JVM never decodes, copies or compares rows, which costs more than all that Python does to them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from raft_spark.common import arrays
from raft_spark.common.hashing import Int64Array
from raft_spark.lake.tasks import collect_objects, map_in_arrow

BLOBS = pa.schema([("place", pa.int32()), ("part", pa.int64()), ("side", pa.int32()), ("blob", pa.binary())])
BLOB_ROWS, BLOBS_AT_ONCE = 128, 256
BLOB_BYTES = 1 << 20  # of rows before they are compressed, on average: Spark holds BLOBS_AT_ONCE in memory
_CODEC = "lz4"
_BATCH_ROWS = "spark.sql.execution.arrow.maxRecordsPerBatch"

Parts = Iterator[tuple[int, Mapping[int, pa.Table]]]
_T = TypeVar("_T")


def pack(
    rows: pa.Table, parts: Int64Array, places: Sequence[int] | Int64Array, side: int = 0, blob_rows: int = BLOB_ROWS
) -> pa.RecordBatch:
    """Return the rows as blobs of one of their `parts` each, shape (rows,), in the schema BLOBS.

    A blob has `blob_rows` at most, and fewer of large rows: BLOB_BYTES or so. `places` has, by part, the value of
    dataframes.partition_values by which Spark finds the part's task. `side` tells tables with different columns apart.
    """
    blob_rows = max(1, min(blob_rows, BLOB_BYTES * len(rows) // max(1, rows.nbytes)))
    order = np.argsort(parts, kind="stable")
    _, sizes = arrays.counted(parts)
    ends = np.cumsum(sizes)
    edges = [
        (at, min(at + blob_rows, end))
        for end, size in zip(ends, sizes, strict=True)
        for at in range(end - size, end, blob_rows)
    ]
    blobs = [_packed(rows.take(pa.array(order[begin:end]))) for begin, end in edges]
    found = parts[order[[begin for begin, _ in edges]]]
    columns = [np.array(places, np.int32)[found], found, np.full(len(found), side, np.int32)]
    return pa.RecordBatch.from_arrays([*map(pa.array, columns), pa.array(blobs, pa.binary())], schema=BLOBS)


def map_parts(blobs: DataFrame, tasks: int, function: Callable[[Parts], Iterator[pa.RecordBatch]]) -> DataFrame:
    """Apply `function` to the parts of each of `tasks` tasks, as pairs (part, its rows by side), the parts in order.

    Return the blobs that it yields, for `collect_parts`; lazy.
    """
    return map_in_arrow(_placed(blobs, tasks), partial(_call, function=function), BLOBS)


def collect_parts(blobs: DataFrame, tasks: int, function: Callable[[Parts], Iterator[_T]]) -> list[_T]:
    """Apply `function` to the parts as `map_parts` does, and return the objects that it yields.

    Spark hands BLOBS_AT_ONCE blobs at a time to a worker, where it would hand 10,000 rows.
    """
    with _batches_of(blobs.sparkSession, BLOBS_AT_ONCE):
        return collect_objects(_placed(blobs, tasks), partial(_call, function=function))


def _placed(blobs: DataFrame, tasks: int) -> DataFrame:
    return blobs.repartition(tasks, "place").sortWithinPartitions("part", "side")


@contextmanager
def _batches_of(spark: SparkSession, rows: int) -> Iterator[None]:
    """Set how many rows an Arrow batch has in the queries of the block."""
    before = str(spark.conf.get(_BATCH_ROWS))
    spark.conf.set(_BATCH_ROWS, str(rows))
    try:
        yield
    finally:
        spark.conf.set(_BATCH_ROWS, before)


def _call(batches: Iterator[pa.RecordBatch], function: Callable[[Parts], Iterator[_T]]) -> Iterator[_T]:
    return function(_parts(blob for batch in batches for blob in batch.drop_columns("place").to_pylist()))


def _parts(blobs: Iterator[dict[str, Any]]) -> Parts:
    for part, of_part in groupby(blobs, itemgetter("part")):
        yield (
            part,
            {side: pa.concat_tables(map(_unpacked, of_side)) for side, of_side in groupby(of_part, itemgetter("side"))},
        )


def _unpacked(blob: dict[str, Any]) -> pa.Table:
    with pa.CompressedInputStream(pa.BufferReader(blob["blob"]), _CODEC) as stream:
        return pa.ipc.open_stream(stream).read_all()


def _packed(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, _CODEC) as stream, pa.ipc.new_stream(stream, rows.schema) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())
