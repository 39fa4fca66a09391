"""Rows that travel as blobs arrive whole, in their part, on the side they were packed for."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Settle
from raft_spark.errors import InputError
from raft_spark.lake import blobs, dataframes, session
from raft_spark.lake.tasks import ArrowFunction, map_in_arrow, worker_errors


@pytest.mark.row
@given(st.lists(st.tuples(st.integers(0, 5), st.text(), st.lists(st.text() | st.none())), max_size=300))
def test_each_part_gets_its_rows_in_the_order_they_came(rows: list[tuple[int, str, list[str]]]):
    schema = pa.schema([("text", pa.string()), ("more", pa.list_(pa.string()))])
    table = pa.Table.from_pylist([{"text": text, "more": more} for _, text, more in rows], schema)
    packed = blobs.pack(table, np.array([part for part, *_ in rows], np.int64), [10, 11, 12, 13, 14, 15], side=3)
    assert all((row["place"], row["side"]) == (row["part"] + 10, 3) for row in packed.to_pylist())
    found = {part: sides[3].to_pylist() for part, sides in blobs._parts(iter(packed.to_pylist()))}
    expected: dict[int, list[dict[str, Any]]] = {}
    for part, text, more in rows:
        expected.setdefault(part, []).append({"text": text, "more": more})
    assert found == expected


@pytest.mark.row
def test_large_rows_are_few_in_a_blob():
    table = pa.table({"text": ["x" * 300_000] * 100})
    packed = blobs.pack(table, np.zeros(100, np.int64), [7])
    sizes = [blobs._unpacked(blob).nbytes for blob in packed.to_pylist()]
    assert max(sizes) < 2 * blobs.BLOB_BYTES
    assert len(sizes) < 50


@pytest.mark.spark
@pytest.mark.parametrize("tasks", [1, 3])
def test_parts_reach_one_task_each_in_order_with_both_sides(settled: Settle, tasks: int):
    spark = session.start(settled())
    values = dataframes.partition_values(spark, tasks)
    places = [values[part % tasks] for part in range(7)]
    numbers = spark.range(0, 100, 1, 5)
    left, right = (map_in_arrow(numbers, packs(places, side), blobs.BLOBS) for side in (0, 1))
    found = blobs.collect_parts(left.union(right), tasks, describes())
    assert sorted(part for part, *_ in found) == list(range(7))
    for part, sides, first in found:
        assert sides == {0: [n for n in range(100) if n % 7 == part], 1: [n for n in range(100) if n % 7 == part]}
        assert first % tasks == part % tasks
    in_tasks = [[part for part, *_ in found if part % tasks == task] for task in range(tasks)]
    assert all(parts == sorted(parts) for parts in in_tasks)


def packs(places: list[int], side: int) -> ArrowFunction:
    """Return a function that packs numbers by their remainder; an inner one, since workers cannot import this module."""

    def function(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield blobs.pack(pa.table(batch), batch["id"].to_numpy() % 7, places, side)

    return function


def describes() -> Callable[[blobs.Parts], Iterator[Any]]:
    """Return a function that yields each part with its numbers by side, and the first part of the task."""

    def function(parts: blobs.Parts) -> Iterator[tuple[int, dict[int, list[int]], int]]:
        first = None
        for part, sides in parts:
            first = part if first is None else first
            yield part, {side: sorted(table["id"].to_pylist()) for side, table in sides.items()}, first

    return function


@pytest.mark.spark
def test_an_error_in_a_task_keeps_its_kind(settled: Settle):
    spark = session.start(settled())
    rows = map_in_arrow(spark.range(5), packs([0] * 7, 0), blobs.BLOBS)
    with pytest.raises(InputError, match="part 0 is bad"), worker_errors():
        blobs.collect_parts(rows, 1, refuses())


def refuses() -> Callable[[blobs.Parts], Iterator[Any]]:
    """Return a function that takes no part."""

    def function(parts: blobs.Parts) -> Iterator[int]:
        for part, _ in parts:
            msg = f"part {part} is bad"
            raise InputError(msg)
        yield 0

    return function
