"""A RaftError that a worker raises reaches the driver with its type and message, whatever Spark writes around it."""

import importlib
import json
import sys
import zipfile
import zipimport
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from pyspark.errors import PySparkException

from conftest import Settle
from raft_spark import errors
from raft_spark.lake import dataframes, session, tasks

NUMBERS = pa.schema([("id", pa.int64())])


@pytest.mark.row
@pytest.mark.parametrize("kind", errors.RaftError.__subclasses__())
def test_every_error_keeps_its_type_and_its_words(kind: type[errors.RaftError]) -> None:
    said = 'two lines\nand "quotes", {braces}: é'
    found = tasks.decode(f"org.apache.spark.SparkException: Job aborted\n  {tasks.encode(kind(said))}\n\tat java.lang")
    assert type(found) is kind
    assert str(found) == said


@pytest.mark.row
def test_a_text_without_an_error_of_ours_is_none() -> None:
    assert tasks.decode("raft_spark.errors.InputError: said by nobody") is None


@pytest.mark.row
@pytest.mark.parametrize("failures", [0, 1, 4])
def test_a_listing_whose_connection_breaks_is_repeated(failures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "FIRST_PAUSE", 0)
    left = [PySparkException("java.io.UncheckedIOException: java.net.SocketException: Connection reset")] * failures

    def read() -> str:
        if left:
            raise left.pop()
        return "rows"

    assert tasks.repeat_broken(read) == "rows"
    assert not left


@pytest.mark.row
@pytest.mark.parametrize(
    ("said", "calls"),
    [("java.net.SocketException: Connection reset", 5), ("AccessDeniedException: s3a://lake: Access Denied", 1)],
)
def test_a_listing_that_fails_on_or_for_good_is_an_error(
    said: str, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "FIRST_PAUSE", 0)
    called = []

    def read() -> None:
        called.append(1)
        raise PySparkException(said)

    with pytest.raises(PySparkException, match=said):
        tasks.repeat_broken(read)
    assert len(called) == calls


def raises(error: Exception) -> tasks.ArrowFunction:
    """Return a function that raises after its batches; an inner one, since workers cannot import this module."""

    def function(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from batches
        raise error

    return function


@pytest.mark.spark
def test_the_driver_raises_what_the_worker_raised(settled: Settle) -> None:
    spark = session.start(settled())
    rows = tasks.map_in_arrow(spark.range(1), raises(errors.InputError("first line\nsecond line")), NUMBERS)
    with pytest.raises(errors.InputError, match=r"^first line\nsecond line$"), tasks.worker_errors():
        rows.collect()


@pytest.mark.spark
def test_any_other_exception_stays_as_spark_raises_it(settled: Settle) -> None:
    spark = session.start(settled())
    rows = tasks.map_in_arrow(spark.range(1), raises(ValueError("no error of ours")), NUMBERS)
    with pytest.raises(Exception, match="no error of ours") as found, tasks.worker_errors():
        rows.collect()
    assert not isinstance(found.value, errors.RaftError)


@pytest.mark.row
def test_a_task_drops_the_finders_of_zip_files_and_can_still_import_from_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "modules.zip", "w") as modules:
        modules.writestr("first_of_zip.py", "NAME = 1")
        modules.writestr("second_of_zip.py", "NAME = 2")
    monkeypatch.syspath_prepend(str(tmp_path / "modules.zip"))
    assert importlib.import_module("first_of_zip").NAME == 1
    assert list(tasks._encode_errors(iter([1]), lambda values: values)) == [1]
    assert not any(isinstance(finder, zipimport.zipimporter) for finder in sys.path_importer_cache.values())
    assert importlib.import_module("second_of_zip").NAME == 2


@pytest.mark.spark
@pytest.mark.parametrize(
    ("rows", "count", "expected"),
    [
        ([5, 5, 5, 5], 2, [[0, 1], [2, 3]]),
        ([9, 1, 1, 1], 2, [[0], [1, 2, 3]]),
        ([1, 1], 7, [[0], [1]]),
        ([30, 1, 1], 3, [[], [0], [1, 2]]),
        ([], 4, [[]]),
    ],
)
def test_tasks_get_consecutive_inputs_with_about_the_same_rows_and_no_second_python_worker(
    settled: Settle, rows: list[int], count: int, expected: list[list[int]]
) -> None:
    spark = session.start(settled())
    inputs = [{"number": number, "rows": size, "text": "é\"'\\ $[0]"} for number, size in enumerate(rows)]
    assigned = dataframes.assign_tasks(spark, inputs, count)
    found = assigned.rdd.glom().collect()
    assert [[json.loads(row.input) for row in part] for part in found] == [
        [inputs[number] for number in part] for part in expected
    ]
    assert [row.task for part in found for row in part] == [task for task, part in enumerate(expected) for _ in part]
    assert "ExistingRDD" not in assigned._jdf.queryExecution().toString()
