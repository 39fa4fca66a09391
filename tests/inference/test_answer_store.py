"""Answers -> files: soon, whole, counted, and found again by the task that comes after a lost one."""

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
    at: Storage, prefix: str, rows: list[dict[str, object]], tally: TaskCounters | None = None
) -> list[DataFile]:
    kept = AnswerStore(at, prefix, 60.0, tally or TaskCounters())
    for row in rows:
        kept.add(row)
    return list(kept.rest())


def found_while_going_on(kept: AnswerStore) -> Iterator[DataFile]:
    """Go on as a task does that waits for its next answer."""
    end = time.monotonic() + PATIENT
    while time.monotonic() < end:
        yield from kept.files()
        time.sleep(0.01)


def test_an_answer_is_stored_within_the_time_set_while_the_caller_goes_on(at: Storage):
    kept, begin = AnswerStore(at, answer_store.file_prefix(RUN, 3), 0.2, TaskCounters()), time.monotonic()
    kept.add(answered(1))
    kept.add(answered(2))
    assert list(kept.files()) == []
    file = next(found_while_going_on(kept))
    assert 0.2 <= time.monotonic() - begin < 5
    assert pq.read_table(at.path(file.path))["completion"].to_pylist() == ["answer 1", "answer 2"]
    assert list(kept.rest()) == []


def test_the_time_counts_from_the_oldest_answer_not_the_last(at: Storage):
    kept, begin = AnswerStore(at, answer_store.file_prefix(RUN, 3), 0.2, TaskCounters()), time.monotonic()
    files: list[DataFile] = []
    while not files and time.monotonic() - begin < PATIENT:
        kept.add(answered(1))
        files += kept.files()
        time.sleep(0.01)
    assert time.monotonic() - begin < 5
    list(kept.rest())


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
    }


def test_only_what_is_stored_is_counted(at: Storage):
    tally = TaskCounters()
    kept = AnswerStore(at, answer_store.file_prefix(RUN, 3), 60.0, tally)
    for row in (answered(1), failed(2), failed(3, "filtered"), failed(4)):
        kept.add(row)
    assert (tally.answered_stored, tally.failed_stored) == (0, {})
    list(kept.rest())
    assert (tally.answered_stored, tally.failed_stored) == (1, {"timeout": 2, "filtered": 1})


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


# Trouble


def spoiled(at: Storage) -> None:
    """Let nothing be written: a file lies where the folder should be, which stops even root."""
    at.write("data", b"in the way")


def test_what_goes_wrong_in_writing_surfaces_while_the_task_goes_on(at: Storage):
    spoiled(at)
    tally = TaskCounters()
    kept = AnswerStore(at, answer_store.file_prefix(RUN, 3), 0.0, tally)
    kept.add(answered(1))
    with pytest.raises(OSError, match="data"):
        next(found_while_going_on(kept))
    assert tally.answered_stored == 0
    assert [found.path for found in at.list()] == ["data"]


def test_what_goes_wrong_in_the_last_file_surfaces(at: Storage):
    spoiled(at)
    with pytest.raises(OSError, match="data"):
        stored(at, answer_store.file_prefix(RUN, 3), [answered(1)])


def test_a_row_that_cannot_be_stored_leaves_nothing_half_written(at: Storage):
    with pytest.raises((TypeError, ValueError)):
        stored(at, answer_store.file_prefix(RUN, 3), [answered(1), answered(2) | {"pubid": "no number"}])
    assert at.list() == []


def test_no_thread_is_left(at: Storage):
    stored(at, answer_store.file_prefix(RUN, 3), [answered(1)])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("store")]
