"""Answers become files: in time, complete, counted, and found by the next attempt of a lost task."""

import threading
import time
from collections.abc import Iterator

import pyarrow.parquet as pq
import pytest

from raft_spark.endpoints.base import ErrorClass, Reply, Request
from raft_spark.inference import answer_store
from raft_spark.inference.admission import InFlightRequest, TaskCounters
from raft_spark.inference.answer_store import AnswerStore
from raft_spark.lake import schemas
from raft_spark.lake.filesystem import Storage
from raft_spark.lake.parquet import DataFile

pytestmark = [pytest.mark.row, pytest.mark.timeout(60)]

RUN = "20261122T173500Z-0a1b2c3d-4e5f"
PATIENT = 10.0  # seconds


def answered(number: int) -> dict[str, object]:
    reply = Reply(f"answer {number}", "stop", 20, 5)
    return answer_store.answer_row(
        InFlightRequest(number, Request(f"question {number}", "m", {"max_tokens": 50}), 1, reply=reply), "m", RUN
    )


def failed(number: int, error_class: ErrorClass = "timeout") -> dict[str, object]:
    reply = Reply(error_class=error_class, error="as asked")
    return answer_store.answer_row(
        InFlightRequest(number, Request(f"question {number}", "m", {"max_tokens": 50}), 3, reply=reply), "m", RUN
    )


def key(number: int) -> str:
    return Request(f"question {number}", "m", {"max_tokens": 50}).key


@pytest.fixture
def at(tmp_path) -> Storage:
    return Storage(str(tmp_path / "completions"))


def stored(
    at: Storage, prefix: str, rows: list[dict[str, object]], counters: TaskCounters | None = None
) -> list[DataFile]:
    store = AnswerStore(at, prefix, 60.0, counters or TaskCounters())
    for row in rows:
        store.add(row)
    return list(store.close())


def flushed_in_time(store: AnswerStore) -> Iterator[DataFile]:
    """Poll the store as a task does that waits for its next answer."""
    end = time.monotonic() + PATIENT
    while time.monotonic() < end:
        yield from store.flush_due()
        time.sleep(0.01)


def test_an_answer_is_stored_within_the_time_set_while_the_caller_goes_on(at: Storage):
    store, begin = AnswerStore(at, answer_store.file_prefix(RUN, 3), 0.2, TaskCounters()), time.monotonic()
    store.add(answered(1))
    store.add(answered(2))
    assert list(store.flush_due()) == []
    file = next(flushed_in_time(store))
    assert 0.2 <= time.monotonic() - begin < 5
    assert pq.read_table(at.path(file.path))["completion"].to_pylist() == ["answer 1", "answer 2"]
    assert list(store.close()) == []


def test_the_time_counts_from_the_oldest_answer_not_the_last(at: Storage):
    store, begin = AnswerStore(at, answer_store.file_prefix(RUN, 3), 0.2, TaskCounters()), time.monotonic()
    files: list[DataFile] = []
    while not files and time.monotonic() - begin < PATIENT:
        store.add(answered(1))
        files += store.flush_due()
        time.sleep(0.01)
    assert time.monotonic() - begin < 5
    list(store.close())


def test_a_file_tells_run_partition_and_how_many_are_in_it(at: Storage):
    rows = [answered(1), answered(2), failed(3), failed(4, "filtered"), failed(5)]
    (file,) = stored(at, answer_store.file_prefix(RUN, 3), rows)
    day = rows[0]["created_at"].date()
    folder, _, name = file.path.rpartition("/")
    assert folder == f"data/day={day:%Y-%m-%d}"
    before, _, after = name.partition("-p00003-")
    unique, answers, failures = after.removesuffix(".parquet").split("-")
    assert (before, len(unique), answers, failures) == (RUN, 32, "2", "3")
    assert file.rows == 5
    assert [found.path for found in at.list()] == [file.path]


def test_a_row_is_what_was_asked_and_what_came_back(at: Storage):
    (file,) = stored(at, answer_store.file_prefix(RUN, 3), [answered(7)])
    table = pq.read_table(at.path(file.path), partitioning=None)
    assert table.schema.equals(schemas.SCHEMAS["completions"])
    (row,) = table.to_pylist()
    assert row.pop("created_at").timestamp() == pytest.approx(time.time(), abs=30)
    assert row.pop("key_of_any_length") != row["key"]
    assert row == {
        "key": key(7),
        "pubid": 7,
        "completion": "answer 7",
        "error_class": None,
        "error": None,
        "attempts": 1,
        "model": "m",
        "finish_reason": "stop",
        "prompt_tokens": 20,
        "completion_tokens": 5,
        "latency_ms": 0,
        "run_id": RUN,
        "max_tokens": 50,
        "removed": None,
    }


def test_only_what_is_stored_is_counted(at: Storage):
    counters = TaskCounters()
    store = AnswerStore(at, answer_store.file_prefix(RUN, 3), 60.0, counters)
    for row in (answered(1), failed(2), failed(3, "filtered"), failed(4)):
        store.add(row)
    assert (counters.answered_stored, counters.failed_stored) == (0, {})
    list(store.close())
    assert (counters.answered_stored, counters.failed_stored) == (1, {"timeout": 2, "filtered": 1})


def test_nothing_asked_is_nothing_stored(at: Storage):
    assert stored(at, answer_store.file_prefix(RUN, 3), []) == []
    assert at.list() == []


# A task that is run again


def test_a_task_finds_what_its_lost_attempts_stored_and_nothing_else(at: Storage):
    stored(at, answer_store.file_prefix(RUN, 3), [answered(1)])
    stored(at, answer_store.file_prefix(RUN, 3), [failed(2), answered(3)])
    stored(at, answer_store.file_prefix(RUN, 30), [answered(4)])
    stored(at, answer_store.file_prefix("20261122T173500Z-0a1b2c3d-ffff", 3), [answered(5)])
    assert answer_store.stored_keys(at, answer_store.file_prefix(RUN, 3)) == {key(1), key(2), key(3)}
    assert answer_store.stored_keys(at, answer_store.file_prefix(RUN, 4)) == set()


def test_partitions_beyond_five_digits_are_told_apart(at: Storage):
    stored(at, answer_store.file_prefix(RUN, 123_456), [answered(1)])
    assert answer_store.stored_keys(at, answer_store.file_prefix(RUN, 12_345)) == set()


def test_before_anything_was_stored_nothing_is_found(at: Storage):
    assert answer_store.stored_keys(at, answer_store.file_prefix(RUN, 3)) == set()


# Errors


def break_storage(at: Storage) -> None:
    """Make every write fail: a file is where the folder should be, which stops even root."""
    at.write("data", b"in the way")


def test_the_first_write_that_fails_is_told_at_once_and_is_the_last(at: Storage):
    break_storage(at)
    counters = TaskCounters()
    store = AnswerStore(at, answer_store.file_prefix(RUN, 3), 0.0, counters)
    store.add(answered(1))
    end = time.monotonic() + PATIENT
    while not counters.store_error and time.monotonic() < end:
        assert list(store.flush_due()) == []
    assert counters.store_error.startswith(f"answers cannot be stored in {at.root}: ")
    at.delete("data")
    store.add(failed(2))
    assert list(store.close()) == []
    assert at.list() == []
    assert (counters.answered_stored, counters.failed_stored) == (0, {})
    rest = store.unstored()
    assert (rest.answered, rest.failed) == (1, {"timeout": 1})
    at.write(rest.path, rest.data)
    assert answer_store.stored_keys(at, answer_store.file_prefix(RUN, 3)) == {key(1), key(2)}


def test_after_writes_that_succeed_nothing_is_unstored(at: Storage):
    store = AnswerStore(at, answer_store.file_prefix(RUN, 3), 60.0, TaskCounters())
    store.add(answered(1))
    assert len(list(store.close())) == 1
    assert store.unstored() is None


def test_nothing_is_written_to_a_folder_that_was_removed(at: Storage):
    counters = TaskCounters()
    store = AnswerStore(at, answer_store.file_prefix(RUN, 3), 60.0, counters, lambda: False)
    store.add(answered(1))
    assert list(store.close()) == []
    assert "the folder was removed, or its disk is no longer mounted" in counters.store_error
    assert at.list() == []
    assert store.unstored().answered == 1


def test_a_row_that_cannot_be_stored_stops_the_run_too_and_leaves_nothing_half_written(at: Storage):
    counters = TaskCounters()
    store = AnswerStore(at, answer_store.file_prefix(RUN, 3), 60.0, counters)
    store.add(answered(1))
    store.add(answered(2) | {"pubid": "no number"})
    assert list(store.close()) == []
    assert f"answers cannot be stored in {at.root}: " in counters.store_error
    assert store.unstored() is None
    assert at.list() == []


def test_no_thread_is_left(at: Storage):
    stored(at, answer_store.file_prefix(RUN, 3), [answered(1)])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("store")]
