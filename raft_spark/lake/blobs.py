"""Shuffle rows between Spark tasks as compressed blobs of many rows each, so that Spark moves and sorts few blobs, not rows.

A task packs the rows of each part into a blob. Spark sends all blobs of a part to one task, which gets its parts in order
and unpacks them. So the JVM never decodes, copies or compares rows, which costs more than all that Python does to them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark import RDD
from pyspark.sql import DataFrame

from raft_spark.common.hashing import Int64Array
from raft_spark.lake.tasks import encode_errors

BLOBS = pa.schema([("place", pa.int32()), ("part", pa.int64()), ("side", pa.int32()), ("blob", pa.binary())])
_CODEC = "lz4"

PartFunction = Callable[[Iterator[tuple[int, Mapping[int, pa.Table]]]], Iterator[Any]]


def pack(rows: pa.Table, parts: Int64Array, places: Sequence[int], side: int = 0) -> pa.RecordBatch:
    """Return the rows as one blob for each of their `parts`, shape (rows,), in the schema BLOBS.

    `places` has, by part, the value of dataframes.partition_values by which Spark finds the part's task. `side` tells
    tables with different columns apart.
    """
    order = np.argsort(parts, kind="stable")
    found, starts = np.unique(parts[order], return_index=True)
    blobs = [_packed(rows.take(pa.array(chosen))) for chosen in np.split(order, starts[1:])] if len(found) else []
    columns = [np.array(places, np.int32)[found], found, np.full(len(found), side, np.int32)]
    return pa.RecordBatch.from_arrays([*map(pa.array, columns), pa.array(blobs, pa.binary())], schema=BLOBS)


def map_parts(blobs: DataFrame, tasks: int, function: PartFunction) -> RDD[Any]:
    """Apply `function` to the parts of each of `tasks` tasks, as pairs (part, its rows by side), the parts in order; lazy.

    Parts travel as an RDD, a few blobs at a time: an Arrow batch would hold up to 10,000 blobs.
    """
    placed = blobs.repartition(tasks, "place").sortWithinPartitions("part", "side")
    return placed.rdd.mapPartitions(partial(_call, function=function))


def _call(rows: Iterator[Any], function: PartFunction) -> Iterator[Any]:
    return encode_errors(_unpacked(rows), function)


def _unpacked(rows: Iterator[Any]) -> Iterator[tuple[int, Mapping[int, pa.Table]]]:
    for part, of_part in groupby(rows, lambda row: row.part):
        yield (
            part,
            {side: pa.concat_tables(_tables(of_side)) for side, of_side in groupby(of_part, lambda row: row.side)},
        )


def _tables(rows: Iterator[Any]) -> Iterator[pa.Table]:
    for row in rows:
        with pa.CompressedInputStream(pa.BufferReader(row.blob), _CODEC) as stream:
            yield pa.ipc.open_stream(stream).read_all()


def _packed(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, _CODEC) as stream, pa.ipc.new_stream(stream, rows.schema) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())
