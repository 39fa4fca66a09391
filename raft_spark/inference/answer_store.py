"""Answers of one task -> whole objects in the store, each within `flush_seconds`, written while the next answers come.

    ROOT/completions/data/day=YYYY-MM-DD/RUN_ID-pPPPPP-UUID-ANSWERED-FAILED.parquet

The name tells the run and the partition, so that a task that is run again finds what its lost attempt has stored, and
how many answers are in it, so that anybody can count without opening it.
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
    """Gather rows and store them in the background; `files` yields each file once it is safe."""

    def __init__(self, at: Storage, prefix: str, flush_seconds: float, tally: TaskCounters) -> None:
        self._place, self._prefix, self._seconds, self._tally = at, prefix, flush_seconds, tally
        self._rows: list[dict[str, Any]] = []
        self._oldest = 0.0
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._writing: deque[Future[DataFile]] = deque()

    def add(self, row: dict[str, Any]) -> None:
        """Take a row in."""
        self._oldest = self._oldest if self._rows else time.monotonic()
        self._rows.append(row)

    def files(self) -> Iterator[DataFile]:
        """Start to store what has waited long enough; yield what has been stored. Raises what went wrong in storing."""
        if self._rows and time.monotonic() - self._oldest >= self._seconds:
            self._store()
        while self._writing and self._writing[0].done():
            yield self._writing.popleft().result()

    def rest(self) -> Iterator[DataFile]:
        """Store all that is left; yield it."""
        if self._rows:
            self._store()
        self._writer.shutdown()
        yield from (writing.result() for writing in self._writing)

    def _store(self) -> None:
        rows, self._rows = self._rows, []
        self._writing.append(self._writer.submit(self._stored, rows))

    def _stored(self, rows: list[dict[str, Any]]) -> DataFile:
        failed = Counter(row["error_class"] for row in rows if row["completion"] is None)
        day = rows[0]["created_at"].date().isoformat()
        file = write_answers(self._place, day, f"{self._prefix}-{uuid.uuid4().hex}", rows)
        self._tally.answered_stored += len(rows) - failed.total()
        self._tally.failed_stored = dict(Counter(self._tally.failed_stored) + failed)
        return file


def write_answers(at: Storage, day: str, name: str, rows: Sequence[Mapping[str, Any]]) -> DataFile:
    """Store rows as one file below the folder of a day; its name goes on with how many are answered, and how many failed."""
    answered = sum(row["completion"] is not None for row in rows)
    path = f"data/day={day}/{name}-{answered}-{len(rows) - answered}.parquet"
    return parquet.write_file(at, path, pa.Table.from_pylist(rows, _SCHEMA))


def file_prefix(run_id: str, partition: int) -> str:
    """Return how the names of a partition's files begin."""
    return f"{run_id}-p{partition:05d}"


def stored_keys(at: Storage, prefix: str) -> set[str]:
    """Return the keys that lost attempts of the same task have stored, answered or failed: a task's own, some thousands."""
    names = (found.path for found in at.at("data").list() if found.path.rpartition("/")[2].startswith(f"{prefix}-"))
    tables = (pq.read_table(pa.BufferReader(at.read(f"data/{name}") or b""), columns=["key"]) for name in names)
    return {key for table in tables for key in table["key"].to_pylist()}


def answer_row(asked: InFlightRequest, model: str, run_id: str) -> dict[str, Any]:
    """Return the row of an answered or failed request, in the schema of the completions table."""
    reply, request = asked.reply, asked.request
    return {
        "key": request.key,
        "pubid": asked.pubid,
        "completion": reply.completion,
        "error_class": reply.error_class,
        "error": reply.error,
        "attempts": asked.attempts,
        "model": model,
        "finish_reason": reply.finish_reason,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "latency_ms": round(asked.latency * 1000),
        "created_at": dt.datetime.now(dt.UTC),
        "run_id": run_id,
        "key_of_any_length": request.key_without_max_tokens,
        "max_tokens": request.max_tokens,
    }
