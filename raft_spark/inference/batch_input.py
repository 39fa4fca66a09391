"""Requests without an answer -> the input files of batch jobs, each within the limits of a job.

Spark shares the requests out evenly, about one task a file; a task spools its lines on its own disk, and cuts them once
it knows how many and how large they are.
"""

import itertools
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import IO, Any

import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import DataFrame

from raft_spark import config
from raft_spark.endpoints import converse
from raft_spark.errors import InputError
from raft_spark.inference.batch_jobs import BatchFile, RecordKey, key_line
from raft_spark.lake.filesystem import Storage
from raft_spark.lake.tasks import map_in_arrow, worker_errors
from raft_spark.recipe import prompts

FILES = pa.schema([("name", pa.string()), ("records", pa.int64()), ("bytes", pa.int64()), ("sha256", pa.string())])
MB = 1_000_000


@dataclass(frozen=True, slots=True)
class BatchInputTask:
    """What every task gets; `name` begins the names of all files of this cut, and of their jobs."""

    conf: config.Completions
    model: str
    at: Storage
    name: str


def files(missing: DataFrame, conf: config.Config, at: Storage, count: int) -> list[BatchFile]:
    """Write `missing` (columns key, pubid, question, oracle; `count` rows) into input files at `at`, a run's folder.

    The names are new ones each time, so that what an earlier try has left is never part of a job.
    """
    tasks = max(1, -(-count // conf.completions.batch.max_records))
    name = f"{at.root.rpartition('/')[2]}-{uuid.uuid4().hex[:8]}"
    work = BatchInputTask(conf.completions, conf.teacher.model, at, name)
    written = map_in_arrow(missing.repartition(tasks), partial(_written, work=work), FILES)
    with worker_errors():
        found = [BatchFile(**row.asDict()) for row in written.collect()]  # a row a file, some hundreds at most
    if sum(file.records for file in found) != count:
        msg = f"{at.root}/input holds {sum(file.records for file in found)} of {count} requests; nothing was submitted"
        raise InputError(msg)
    return sorted(found, key=lambda file: file.name)


def sizes(lengths: Sequence[int], batch: config.Batch) -> list[int]:
    """Return how many consecutive records go into each file: as few files as the limits allow, equally many in each, so
    that none is below min_records that need not be. `lengths` are bytes; a record larger than a file has its own.
    """
    if not lengths:
        return []
    fewest = max(1, -(-len(lengths) // batch.max_records))
    cuts = (_equal(len(lengths), files) for files in range(fewest, len(lengths) + 1))
    return next(cut for cut in cuts if len(cut) == len(lengths) or max(_sums(lengths, cut)) <= batch.max_file_mb * MB)


def _equal(records: int, files: int) -> list[int]:
    return [records * (file + 1) // files - records * file // files for file in range(files)]


def _sums(lengths: Sequence[int], cut: Sequence[int]) -> list[int]:
    rest = iter(lengths)
    return [sum(itertools.islice(rest, records)) for records in cut]


def _written(batches: Iterator[pa.RecordBatch], work: BatchInputTask) -> Iterator[pa.RecordBatch]:
    """Write one partition's files; yield a description of each."""
    rows = (row for batch in batches for row in batch.to_pylist())
    context = TaskContext.get()
    task = context.partitionId() if context else 0
    with tempfile.TemporaryFile() as spool:
        listed = [_spooled(row, spool, work) for row in rows]
        spool.seek(0)
        begin = 0
        for part, records in enumerate(sizes([length for _, length in listed], work.conf.batch)):
            name = f"{work.name}-{task:05d}-{part}"
            yield _file(name, listed[begin : begin + records], spool, work.at)
            begin += records


def _spooled(row: dict[str, Any], spool: IO[bytes], work: BatchInputTask) -> tuple[str, int]:
    """Write a request's line into the spool; return its line of the keys, and how many bytes it has."""
    request = prompts.teacher_request(row["question"], row["oracle"], work.model, work.conf)
    named = RecordKey(row["pubid"], request.key_without_max_tokens, request.max_tokens)
    return key_line(row["key"], named), spool.write(converse.batch_line(row["key"], request))


def _file(name: str, listed: Sequence[tuple[str, int]], spool: IO[bytes], at: Storage) -> pa.RecordBatch:
    """Copy the next lines of the spool into one whole object, beside their keys; describe it."""
    digest = sha256()
    with at.whole(f"input/{name}.jsonl") as local, local.open("wb") as file:
        for _, length in listed:
            line = spool.read(length)
            digest.update(line)
            file.write(line)
    at.write(f"keys/{name}.tsv", "".join(keys for keys, _ in listed).encode())
    written = BatchFile(name, len(listed), sum(length for _, length in listed), digest.hexdigest())
    row = {"name": written.name, "records": written.records, "bytes": written.bytes, "sha256": written.sha256}
    return pa.RecordBatch.from_pylist([row], FILES)
