"""Write requests as the input files of batch jobs, each file within the limits of a job.

Spark distributes the requests evenly, about one task for each file. A task writes its lines to a temporary file on
its own disk and divides them into input files when it knows their number and sizes.
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

from raft_spark import config, endpoints
from raft_spark.endpoints.batch_service import BatchService
from raft_spark.errors import InputError
from raft_spark.inference.batch_jobs import BatchFile, RecordInfo, key_line
from raft_spark.lake.filesystem import Storage
from raft_spark.lake.tasks import map_in_arrow, worker_errors
from raft_spark.recipe import prompts

FILES_SCHEMA = pa.schema(
    [("name", pa.string()), ("records", pa.int64()), ("bytes", pa.int64()), ("sha256", pa.string())]
)
MB = 1_000_000


@dataclass(frozen=True, slots=True)
class BatchInputTask:
    """The arguments of every Spark task; the names of all files, and of their jobs, begin with `prefix`."""

    conf: config.Completions
    limits: config.Batch
    model: str
    folder: Storage
    prefix: str
    service: BatchService


def write_input_files(missing: DataFrame, conf: config.Config, folder: Storage, count: int) -> list[BatchFile]:
    """Write `missing` (columns key, pubid, question, oracle; `count` rows) as input files below `folder`.

    Every call uses new names, so that no job reads a file of an earlier attempt. Raises InputError if the files do
    not hold exactly `count` requests.
    """
    limits, service = conf.batch_limits, endpoints.batch_service_of(conf.teacher, conf.completions)
    tasks = max(1, -(-count // limits.max_records))
    prefix = f"{folder.root.rpartition('/')[2]}-{uuid.uuid4().hex[:8]}"
    task = BatchInputTask(conf.teacher_requests, limits, conf.teacher.model, folder, prefix, service)
    written = map_in_arrow(missing.repartition(tasks), partial(_write_files, task=task), FILES_SCHEMA)
    with worker_errors():
        files = [BatchFile(**row.asDict()) for row in written.collect()]  # a row for each file, some hundreds at most
    records = sum(file.records for file in files)
    if records != count:
        msg = f"{folder.root}/input holds {records} of {count} requests; no batch job was submitted. Run again"
        raise InputError(msg)
    return sorted(files, key=lambda file: file.name)


def records_per_file(lengths: Sequence[int], batch: config.Batch) -> list[int]:
    """Return how many consecutive records go into each file; `lengths` are the records' bytes.

    There are as few files as the limits allow, with equal numbers of records, so that no file is below min_records
    unless that cannot be avoided. A record that is larger than a file gets its own file.
    """
    if not lengths:
        return []
    fewest = max(1, -(-len(lengths) // batch.max_records))
    divisions = (_divide(len(lengths), files) for files in range(fewest, len(lengths) + 1))
    most = batch.max_file_mb * MB
    return next(counts for counts in divisions if len(counts) == len(lengths) or max(_sums(lengths, counts)) <= most)


def _divide(records: int, files: int) -> list[int]:
    return [records * (file + 1) // files - records * file // files for file in range(files)]


def _sums(lengths: Sequence[int], counts: Sequence[int]) -> list[int]:
    rest = iter(lengths)
    return [sum(itertools.islice(rest, count)) for count in counts]


def _write_files(batches: Iterator[pa.RecordBatch], task: BatchInputTask) -> Iterator[pa.RecordBatch]:
    """Write one partition's files; yield a description of each."""
    rows = (row for batch in batches for row in batch.to_pylist())
    context = TaskContext.get()
    partition = context.partitionId() if context else 0
    with tempfile.TemporaryFile() as spool:
        records = [_write_record(row, spool, task) for row in rows]
        spool.seek(0)
        begin = 0
        for part, count in enumerate(records_per_file([length for _, length in records], task.limits)):
            name = f"{task.prefix}-{partition:05d}-{part}"
            yield _write_file(name, records[begin : begin + count], spool, task.folder)
            begin += count


def _write_record(row: dict[str, Any], spool: IO[bytes], task: BatchInputTask) -> tuple[str, int]:
    """Write a request's line to the spool; return its line of the key file, and the bytes of the former."""
    request = prompts.teacher_request(row["question"], row["oracle"], task.model, task.conf)
    info = RecordInfo(row["pubid"], request.key_without_max_tokens, request.max_tokens, request.characters)
    return key_line(row["key"], info), spool.write(task.service.line(row["key"], request))


def _write_file(name: str, records: Sequence[tuple[str, int]], spool: IO[bytes], folder: Storage) -> pa.RecordBatch:
    """Copy the next lines of the spool to an input file, and write their key file; return the file's description."""
    digest = sha256()
    with folder.atomic_write(f"input/{name}.jsonl") as local, local.open("wb") as file:
        for _, length in records:
            line = spool.read(length)
            digest.update(line)
            file.write(line)
    folder.write(f"keys/{name}.tsv", "".join(keys for keys, _ in records).encode())
    size = sum(length for _, length in records)
    row = {"name": name, "records": len(records), "bytes": size, "sha256": digest.hexdigest()}
    return pa.RecordBatch.from_pylist([row], FILES_SCHEMA)
