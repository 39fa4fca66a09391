"""Create, watch and read batch jobs: half the price of calls, and hours of time. Does not import Spark.

    ROOT/completions/batches/NAME.json    a job and its state: submitting -> submitted -> collected
    FOLDER/RUN_ID/input/NAME.jsonl        its requests, in the lines of the service: see BatchService
    FOLDER/RUN_ID/keys/NAME.tsv           what a row needs in addition to the reply: see RecordInfo

`batch_input.write_input_files` writes the requests. `register_jobs` writes the jobs into the lake before the service
knows of them. `submit_and_poll` submits them and waits for their end. `replies` reads their output. `mark_collected`
ends a job after its answers are stored.

A driver may die between any two of these steps. `pending` finds the jobs that it registered. Before a job is created,
the service is asked for a job of its name, so no job is created twice. A run collects all pending jobs before it creates new ones.
"""

import dataclasses
import datetime as dt
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar
from urllib.parse import urlsplit

from raft_spark import endpoints
from raft_spark.config import Config, Lake
from raft_spark.endpoints import converse
from raft_spark.endpoints.base import Reply
from raft_spark.endpoints.batch_service import DEFERRED, BatchJob, BatchService
from raft_spark.errors import ConfigError, EndpointError, InputError
from raft_spark.lake import schemas
from raft_spark.lake.filesystem import Storage

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
POLL_SLICE = 1.0  # seconds: the longest sleep before `should_continue` is called again


@dataclass(frozen=True, slots=True)
class RecordInfo:
    """What the row of an answer, and its bill, need in addition to its key and its reply; `characters` of the prompt."""

    pubid: int
    key_of_any_length: str
    max_tokens: int
    characters: int = 0


BatchAnswer = tuple[str, RecordInfo, Reply]  # the key comes first
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class BatchFile:
    """One input file: its job's name, its number of records, its size and digest."""

    name: str
    records: int
    bytes: int
    sha256: str


def pending(lake: Lake) -> list[BatchJob]:
    """Return the jobs of all runs that are registered and not collected, sorted by name."""
    folder = _jobs_folder(lake)
    stored = (folder.read(file.path) for file in folder.list(recursive=False) if file.path.endswith(".json"))
    jobs = (BatchJob(**json.loads(content)) for content in stored if content)
    return [job for job in jobs if job.state in {"submitting", "submitted"}]


def split_pending(conf: Config) -> tuple[list[BatchJob], list[BatchJob]]:
    """Return the pending jobs that the teacher's service can collect, and those of other services."""
    jobs, address = pending(conf.lake), endpoints.batch_service_of(conf.teacher, conf.completions).address
    return [job for job in jobs if job.service == address], [job for job in jobs if job.service != address]


def run_folder(conf: Config, run_id: str) -> Storage:
    """Return the folder of a run's input and output files. Raises ConfigError if the service cannot read it."""
    folder = Storage.of(conf.lake, conf.teacher.batch_folder.rstrip("/") or _jobs_folder(conf.lake).root).at(run_id)
    needs_bucket = endpoints.batch_service_of(conf.teacher, conf.completions).needs_bucket
    if needs_bucket and folder.is_local and urlsplit(conf.teacher.url).hostname not in LOOPBACK:
        msg = (
            f"batch jobs read their input from S3, but {folder.root} is a local folder; "
            f"set endpoints.{conf.completions.endpoint}.batch_folder to s3://..."
        )
        raise ConfigError(msg)
    return folder


def register_jobs(conf: Config, folder: Storage, files: Sequence[BatchFile]) -> list[BatchJob]:
    """Write a job for each file into the lake; from now on no other run sends the same requests."""
    day = dt.datetime.now(dt.UTC).date().isoformat()
    service = endpoints.batch_service_of(conf.teacher, conf.completions)
    calls = (service.call(file.name, file.sha256, folder) for file in files)
    jobs = [
        BatchJob(file.name, folder.root, day, file.records, call, service=service.address)
        for file, call in zip(files, calls, strict=True)
    ]
    for job in jobs:
        _store(conf.lake, job)
    return jobs


def submit_and_poll(
    conf: Config,
    jobs: Sequence[BatchJob],
    on_poll: Callable[[list[BatchJob]], None],
    should_continue: Callable[[], bool],
) -> Iterator[list[BatchJob]]:
    """Submit the jobs, poll them every poll_seconds, and yield those that have ended since the last poll.

    `on_poll` gets all jobs after each poll. The iterator ends early when `should_continue` returns False, or with an
    EndpointError when the service refuses a job or a call. The jobs that have not ended then stay registered for the next
    run.
    """
    service = endpoints.batch_service_of(conf.teacher, conf.completions)
    known = {job.name: job for job in jobs}
    waiting = list(known)
    while waiting and should_continue():
        for name in itertools.takewhile(lambda _: should_continue(), waiting):
            known[name] = _advance(service, conf, known[name], should_continue)
        on_poll(list(known.values()))
        ended = [known[name] for name in waiting if known[name].ended]
        waiting = [name for name in waiting if not known[name].ended and known[name].state != "dropped"]
        if ended:
            yield ended
        _sleep(conf.completions.batch.poll_seconds if waiting else 0, should_continue)


def replies(job: BatchJob, folder: Storage, service: BatchService, ignored: Counter[str]) -> Iterator[BatchAnswer]:
    """Yield one reply for every record of a job that has ended. Runs in Spark tasks and reads line by line.

    `ignored` counts the output lines that are no reply: `unknown`, `doubled` or `unreadable`. Raises InputError if
    the service reports answers and there is no output, so that no request is paid for again because its answer was
    not found.
    """
    lines = (folder.read(f"keys/{job.name}.tsv") or b"").decode().splitlines()
    records = dict(map(_parse_key_line, lines))
    if len(records) != job.records:
        msg = (
            f"{folder.root}/keys/{job.name}.tsv holds {len(records)} of {job.records} records; restore it and run again"
        )
        raise InputError(msg)
    error = f"no answer from the batch job, which is {job.status}" + (f": {job.message}" if job.message else "")
    yield from match_replies(service.output(job, folder), records, error, ignored)


def match_replies(
    output: Iterator[tuple[str, Reply]], records: Mapping[str, _T], error: str, ignored: Counter[str]
) -> Iterator[tuple[str, _T, Reply]]:
    """Yield exactly one reply for every key of `records`, with what the key maps to; in any order.

    `output` has (key, reply) of each line, the key "" for one that cannot be read. The reply is that of the first line
    with an answer, else that of the first line with an error. Without a line it is of class `unavailable`, with
    `error`.
    """
    missing = dict(records)
    failed: dict[str, Reply] = {}
    for key, reply in output:
        if key in missing and reply.completion is not None:
            yield key, missing.pop(key), reply
            failed.pop(key, None)
        elif key in missing and key not in failed:
            failed[key] = reply
        else:
            ignored["unreadable" if not key else "doubled" if key in records else "unknown"] += 1
    for key, info in missing.items():
        yield key, info, failed.get(key) or converse.one_line_failure("unavailable", error)


def key_line(key: str, info: RecordInfo) -> str:
    """Return a line of keys/NAME.tsv."""
    return f"{key}\t{info.pubid}\t{info.key_of_any_length}\t{info.max_tokens}\t{info.characters}\n"


def _parse_key_line(line: str) -> tuple[str, RecordInfo]:
    key, pubid, key_of_any_length, *numbers = line.split("\t")  # one number in the files of earlier releases
    return key, RecordInfo(int(pubid), key_of_any_length, *map(int, numbers))


def mark_collected(lake: Lake, job: BatchJob) -> None:
    """Store that all answers of a job are stored."""
    _store(lake, replace(job, state="collected"))


def _jobs_folder(lake: Lake) -> Storage:
    return Storage.of(lake).at(schemas.COMPLETIONS, "batches")


def _store(lake: Lake, job: BatchJob) -> BatchJob:
    _jobs_folder(lake).write(f"{job.name}.json", json.dumps(dataclasses.asdict(job), indent=1).encode())
    return job


def _advance(service: BatchService, conf: Config, job: BatchJob, should_continue: Callable[[], bool]) -> BatchJob:
    """Submit a job that is not submitted, else ask for its status; return it unchanged if the service throttles."""
    folder = Storage.of(conf.lake, job.folder)
    if job.state == "submitting":
        job = _submit(service, conf, job, should_continue)
    status = service.status(job, folder) if job.state == "submitted" else None
    if status and status.status == DEFERRED:
        return _store(conf.lake, replace(job, state="submitting", arn="", status="", message=status.message))
    return replace(job, **dataclasses.asdict(status)) if status else job


def _submit(service: BatchService, conf: Config, job: BatchJob, should_continue: Callable[[], bool]) -> BatchJob:
    """Find the job at the service, or create it; store its ARN before anything else happens.

    A job that the service does not know is dropped if the model or the role has changed: its requests are sent again
    in others.
    """
    folder = Storage.of(conf.lake, job.folder)
    arn = service.find(job, folder)
    if arn == "" and not _has_current_settings(conf, job):
        return _store(conf.lake, replace(job, state="dropped", message="the settings have changed since"))
    if arn == "":
        try:
            arn = service.create(job, folder, should_continue)
        except EndpointError as error:
            _store(conf.lake, replace(job, state="dropped", message=str(error)))
            raise
    return _store(conf.lake, replace(job, state="submitted", arn=arn)) if arn else job


def _has_current_settings(conf: Config, job: BatchJob) -> bool:
    return (job.model, job.call.get("roleArn", "")) == (conf.teacher.model, conf.teacher.role_arn)


def _sleep(seconds: float, should_continue: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while (rest := end - time.monotonic()) > 0 and should_continue():
        time.sleep(min(rest, POLL_SLICE))
