"""Store the answers of one task in whole files, each within `flush_seconds`; a thread writes while more come.

    ROOT/completions/data/day=YYYY-MM-DD/RUN_ID-pPPPPP-UUID-ANSWERED-FAILED.parquet

The file's name holds the run and the partition, so that a task that Spark runs again finds what its lost attempt has
stored, and the numbers of answered and failed requests, so that they can be counted without opening the file.
"""

import datetime as dt
import time
import uuid
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raft_spark.inference.admission import InFlightRequest, TaskCounters
from raft_spark.lake import parquet, schemas
from raft_spark.lake.filesystem import Storage
from raft_spark.lake.parquet import DataFile

_SCHEMA = schemas.SCHEMAS[schemas.COMPLETIONS]


class AnswerStore:
    """Buffer rows and write them in a background thread; `counters` counts a row once its file is complete."""

    def __init__(self, storage: Storage, prefix: str, flush_seconds: float, counters: TaskCounters) -> None:
        self._storage, self._prefix, self._flush_seconds, self._counters = storage, prefix, flush_seconds, counters
        self._rows: list[dict[str, Any]] = []
        self._oldest = 0.0  # when the first row of the buffer came
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._writes: deque[Future[DataFile]] = deque()

    def add(self, row: dict[str, Any]) -> None:
        """Add a row to the buffer."""
        self._oldest = self._oldest if self._rows else time.monotonic()
        self._rows.append(row)

    def flush_due(self) -> Iterator[DataFile]:
        """Start to write the buffer if its oldest row is due; yield complete files. Raises the error of a write."""
        if self._rows and time.monotonic() - self._oldest >= self._flush_seconds:
            self._flush()
        while self._writes and self._writes[0].done():
            yield self._writes.popleft().result()

    def close(self) -> Iterator[DataFile]:
        """Write all rows; yield the files that were not yielded yet. Raises the error of a write."""
        if self._rows:
            self._flush()
        self._writer.shutdown()
        yield from (write.result() for write in self._writes)

    def _flush(self) -> None:
        rows, self._rows = self._rows, []
        self._writes.append(self._writer.submit(self._write, rows))

    def _write(self, rows: list[dict[str, Any]]) -> DataFile:
        failed = Counter(row["error_class"] for row in rows if row["completion"] is None)
        day = rows[0]["created_at"].date().isoformat()
        file = write_answers(self._storage, day, f"{self._prefix}-{uuid.uuid4().hex}", rows)
        self._counters.answered_stored += len(rows) - failed.total()
        self._counters.failed_stored = dict(Counter(self._counters.failed_stored) + failed)
        return file


def write_answers(storage: Storage, day: str, name: str, rows: Sequence[Mapping[str, Any]]) -> DataFile:
    """Write rows as one file in the folder of a day; append the numbers of answered and failed requests to its name."""
    answered = sum(row["completion"] is not None for row in rows)
    path = f"data/day={day}/{name}-{answered}-{len(rows) - answered}.parquet"
    return parquet.write_file(storage, path, pa.Table.from_pylist(rows, _SCHEMA))


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
