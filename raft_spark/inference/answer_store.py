"""Store the answers of one task in whole files, each within `flush_seconds`; a thread writes while more come.

    ROOT/completions/data/day=YYYY-MM-DD/RUN_ID-pPPPPP-UUID-ANSWERED-FAILED.parquet

The file's name holds the run and the partition, so that a task that Spark runs again finds what its lost attempt has
stored, and the numbers of answered and failed requests, so that they can be counted without opening the file.
"""

import datetime as dt
import logging
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raft_spark.errors import InputError, RaftError
from raft_spark.inference.admission import InFlightRequest, TaskCounters
from raft_spark.lake import parquet, schemas
from raft_spark.lake.filesystem import Storage
from raft_spark.lake.parquet import DataFile

LOG = logging.getLogger(__name__)
_SCHEMA = schemas.SCHEMAS[schemas.COMPLETIONS]
STORE_ERRORS = (OSError, RaftError, pa.ArrowException, TypeError, ValueError)  # with which a write can fail


@dataclass(frozen=True, slots=True)
class AnswerFile:
    """A file of the store that is not written yet: its path, its content and its number of answers."""

    path: str
    data: bytes

    @property
    def answered(self) -> int:
        """Return how many answered requests the file has, as its name says."""
        return int(self.path.rsplit("-", 2)[1])

    @property
    def failed(self) -> Counter[str]:
        """Return the failed requests of the file by error class."""
        return Counter(pq.read_table(pa.BufferReader(self.data))["error_class"].drop_null().to_pylist())


class AnswerStore:
    """Buffer rows and write them in a background thread; `counters` counts a row once its file is complete.

    The first write that fails is the last one: it sets `counters.store_error`, which stops the whole run, and the rows
    that are not stored can be read from `unstored` after `close`. Nothing is written while `is_present` returns False.
    """

    def __init__(
        self,
        storage: Storage,
        prefix: str,
        flush_seconds: float,
        counters: TaskCounters,
        is_present: Callable[[], bool] = lambda: True,
    ) -> None:
        self._storage, self._prefix, self._flush_seconds, self._counters = storage, prefix, flush_seconds, counters
        self._is_present = is_present
        self._unstored: list[dict[str, Any]] = []
        self._rows: list[dict[str, Any]] = []
        self._oldest = 0.0  # when the first row of the buffer came
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._writes: deque[Future[DataFile | None]] = deque()

    def add(self, row: dict[str, Any]) -> None:
        """Add a row to the buffer."""
        self._oldest = self._oldest if self._rows else time.monotonic()
        self._rows.append(row)

    def flush_due(self) -> Iterator[DataFile]:
        """Start to write the buffer if its oldest row is due; yield complete files."""
        if self._rows and time.monotonic() - self._oldest >= self._flush_seconds:
            self._flush()
        while self._writes and self._writes[0].done():
            if file := self._writes.popleft().result():
                yield file

    def close(self) -> Iterator[DataFile]:
        """Write all rows; yield the files that were not yielded yet."""
        if self._rows:
            self._flush()
        self._writer.shutdown()
        yield from (file for write in self._writes if (file := write.result()))

    def unstored(self) -> AnswerFile | None:
        """Return the rows that could not be stored as a file; None if there are none, or if the rows themselves are wrong."""
        if not self._unstored:
            return None
        try:
            return _answer_file(self._prefix, self._unstored)
        except (pa.ArrowException, TypeError, ValueError):
            LOG.exception("%d answers have values that no file can hold", len(self._unstored))
            return None

    def _flush(self) -> None:
        rows, self._rows = self._rows, []
        self._writes.append(self._writer.submit(self._write, rows))

    def _write(self, rows: list[dict[str, Any]]) -> DataFile | None:
        failed = Counter(row["error_class"] for row in rows if row["completion"] is None)
        try:
            file = None if self._counters.store_error else self._write_file(rows)
        except STORE_ERRORS as error:
            file, self._counters.store_error = None, _refusal(self._storage, error)
        if file is None:
            self._unstored += rows
            return None
        self._counters.answered_stored += len(rows) - failed.total()
        self._counters.failed_stored = dict(Counter(self._counters.failed_stored) + failed)
        return file

    def _write_file(self, rows: list[dict[str, Any]]) -> DataFile:
        return write_answers(self._storage, _day(rows), f"{self._prefix}-{uuid.uuid4().hex}", rows, self._is_present)


@contextmanager
def store_errors(storage: Storage) -> Iterator[None]:
    """Raise InputError that names the store when a read or a write of the block fails."""
    try:
        yield
    except OSError as error:
        raise InputError(_refusal(storage, error)) from error


def _refusal(storage: Storage, error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
    return f"answers cannot be stored in {storage.root}: {reason}"


def _day(rows: Sequence[Mapping[str, Any]]) -> str:
    return str(rows[0]["created_at"].date().isoformat())


def _answer_file(prefix: str, rows: Sequence[Mapping[str, Any]]) -> AnswerFile:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), sink, **parquet.PARQUET)
    return AnswerFile(_path(_day(rows), f"{prefix}-{uuid.uuid4().hex}", rows), sink.getvalue().to_pybytes())


def _path(day: str, name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    answered = sum(row["completion"] is not None for row in rows)
    return f"data/day={day}/{name}-{answered}-{len(rows) - answered}.parquet"


def write_answers(
    storage: Storage,
    day: str,
    name: str,
    rows: Sequence[Mapping[str, Any]],
    is_present: Callable[[], bool] = lambda: True,
) -> DataFile:
    """Write rows as one file in the folder of a day; append the numbers of answered and failed requests to its name.

    Raises FileNotFoundError if `is_present` returns False right before the write.
    """
    path, table = _path(day, name, rows), pa.Table.from_pylist(rows, _SCHEMA)
    if not is_present():  # last, since a folder that is removed after this is made anew
        raise FileNotFoundError("the folder was removed, or its disk is no longer mounted")
    return parquet.write_file(storage, path, table)


def file_prefix(run_id: str, partition: int) -> str:
    """Return the beginning of the names of a partition's files."""
    return f"{run_id}-p{partition:05d}"


def stored_keys(storage: Storage, prefix: str) -> set[str]:
    """Return the keys that lost attempts of the same task have stored, answered or failed: some thousands at most."""
    paths = (file.path for file in storage.at("data").list())
    names = (path for path in paths if path.rpartition("/")[2].startswith(f"{prefix}-"))
    tables = (pq.read_table(pa.BufferReader(storage.read(f"data/{name}") or b""), columns=["key"]) for name in names)
    return {key for table in tables for key in table["key"].to_pylist()}


def answer_row(inflight: InFlightRequest, model: str, run_id: str) -> dict[str, Any]:
    """Return the row of an answered or failed request, in the schema of the completions table."""
    reply, request = inflight.reply, inflight.request
    return {
        "key": request.key,
        "pubid": inflight.pubid,
        "completion": reply.completion,
        "error_class": reply.error_class,
        "error": reply.error,
        "attempts": inflight.attempts,
        "model": model,
        "finish_reason": reply.finish_reason,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "latency_ms": round(inflight.latency * 1000),
        "created_at": dt.datetime.now(dt.UTC),
        "run_id": run_id,
        "key_of_any_length": request.key_without_max_tokens,
        "max_tokens": request.max_tokens,
        "removed": ", ".join(reply.removed) or None,
    }
