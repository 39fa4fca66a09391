"""Create, watch and read Bedrock's batch jobs: half the price of calls, and hours of time. Does not import Spark.

    ROOT/completions/batches/NAME.json    a job and its state: submitting -> submitted -> collected
    FOLDER/RUN_ID/input/NAME.jsonl        its requests: {"recordId": key, "modelInput": body of a Converse call}
    FOLDER/RUN_ID/keys/NAME.tsv           what a row needs in addition to the reply: see RecordInfo
    FOLDER/RUN_ID/output/...              what Bedrock writes: NAME.jsonl.out in a folder that Bedrock names

`batch_input.write_input_files` writes the requests. `register_jobs` writes the jobs into the lake before Bedrock
knows of them. `submit_and_poll` submits them and waits for their end. `replies` reads their output. `mark_collected`
ends a job after its answers are stored.

A driver may die between any two of these steps. `pending` finds the jobs that it registered. Before a job is created,
Bedrock is asked for a job of its name, and every call to create it carries the same token, so no job is created
twice. A run collects all pending jobs before it creates new ones.
"""

import dataclasses
import datetime as dt
import io
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from raft_spark.config import Config, Lake
from raft_spark.endpoints import bedrock_batch, converse
from raft_spark.endpoints.base import Reply
from raft_spark.errors import ConfigError, EndpointError, InputError
from raft_spark.lake import schemas
from raft_spark.lake.filesystem import Storage

State = Literal["submitting", "submitted", "collected", "dropped"]
READ_BYTES = 8_000_000  # of each call to S3
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


@dataclass(frozen=True, slots=True)
class BatchJob:
    """A batch job as the lake stores it.

    `call` holds the arguments that create it, `day` (YYYY-MM-DD, UTC) is the day of its registration. `status`,
    `message`, `answered` and `failed` are Bedrock's last report to the running driver.
    """

    name: str
    folder: str
    day: str
    records: int
    call: Mapping[str, Any]
    state: State = "submitting"
    arn: str = ""
    status: str = ""
    message: str = ""
    answered: int = 0
    failed: int = 0

    @property
    def ended(self) -> bool:
        """Return whether Bedrock has ended the job, successfully or not."""
        return self.status in bedrock_batch.ENDED


def pending(lake: Lake) -> list[BatchJob]:
    """Return the jobs of all runs that are registered and not collected, sorted by name."""
    folder = _jobs_folder(lake)
    stored = (folder.read(file.path) for file in folder.list(recursive=False) if file.path.endswith(".json"))
    jobs = (BatchJob(**json.loads(content)) for content in stored if content)
    return [job for job in jobs if job.state in {"submitting", "submitted"}]


def run_folder(conf: Config, run_id: str) -> Storage:
    """Return the folder of a run's input and output files. Raises ConfigError if Bedrock cannot read it."""
    folder = Storage.of(conf.lake, conf.teacher.batch_folder.rstrip("/") or _jobs_folder(conf.lake).root).at(run_id)
    if folder.is_local and urlsplit(conf.teacher.url).hostname not in LOOPBACK:
        msg = (
            f"batch jobs read their input from S3, but {folder.root} is a local folder; "
            f"set endpoints.{conf.completions.endpoint}.batch_folder to s3://..."
        )
        raise ConfigError(msg)
    return folder


def register_jobs(conf: Config, folder: Storage, files: Sequence[BatchFile]) -> list[BatchJob]:
    """Write a job for each file into the lake; from now on no other run sends the same requests."""
    day = dt.datetime.now(dt.UTC).date().isoformat()
    jobs = [
        BatchJob(file.name, folder.root, day, file.records, _job_arguments(conf, folder, file.name, file.sha256))
        for file in files
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
    EndpointError when Bedrock refuses a job or a call. The jobs that have not ended then stay registered for the next
    run.
    """
    client = bedrock_batch.connect(conf.teacher)
    known = {job.name: job for job in jobs}
    waiting = list(known)
    while waiting and should_continue():
        for name in itertools.takewhile(lambda _: should_continue(), waiting):
            known[name] = _advance(client, conf, known[name])
        on_poll(list(known.values()))
        ended = [known[name] for name in waiting if known[name].ended]
        waiting = [name for name in waiting if not known[name].ended and known[name].state != "dropped"]
        if ended:
            yield ended
        _sleep(conf.completions.batch.poll_seconds if waiting else 0, should_continue)


def replies(job: BatchJob, folder: Storage, ignored: Counter[str]) -> Iterator[BatchAnswer]:
    """Yield one reply for every record of a job that has ended. Runs in Spark tasks and reads line by line.

    `ignored` counts the output lines that are no reply: `unknown`, `doubled` or `unreadable`. Raises InputError if
    Bedrock reports answers and there is no output, so that no request is paid for again because its answer was not
    found.
    """
    lines = (folder.read(f"keys/{job.name}.tsv") or b"").decode().splitlines()
    records = dict(map(_parse_key_line, lines))
    if len(records) != job.records:
        msg = (
            f"{folder.root}/keys/{job.name}.tsv holds {len(records)} of {job.records} records; restore it and run again"
        )
        raise InputError(msg)
    output = folder.at("output")
    paths = [file.path for file in output.list() if file.path.endswith(f"{job.name}.jsonl.out")]
    if not paths and job.answered:
        msg = (
            f"batch job {job.name} has {job.answered} answers, but {output.root} holds no {job.name}.jsonl.out; "
            "restore it and run again"
        )
        raise InputError(msg)
    error = f"no answer from the batch job, which is {job.status}" + (f": {job.message}" if job.message else "")
    yield from match_replies((line for path in paths for line in _lines(output, path)), records, error, ignored)


def match_replies(
    lines: Iterator[bytes], records: Mapping[str, _T], error: str, ignored: Counter[str]
) -> Iterator[tuple[str, _T, Reply]]:
    """Yield exactly one reply for every key of `records`, with what the key maps to; in any order.

    The reply is that of the first line with an answer, else that of the first line with an error. Without a line it
    is of class `unavailable`, with `error`.
    """
    missing = dict(records)
    failed: dict[str, Reply] = {}
    for line in lines:
        key, reply = converse.read_batch_line(line)
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


def _job_arguments(conf: Config, folder: Storage, name: str, digest: str) -> dict[str, Any]:
    """Return the arguments of CreateModelInvocationJob; they depend on the settings and the input only."""
    teacher = conf.teacher
    tags = {**teacher.request_metadata, "raft-spark": name}
    return {
        "jobName": name,
        "roleArn": teacher.role_arn,
        "modelId": teacher.model,
        "modelInvocationType": "Converse",
        "clientRequestToken": sha256(f"{name} {digest}".encode()).hexdigest(),
        "inputDataConfig": {
            "s3InputDataConfig": {"s3InputFormat": "JSONL", "s3Uri": _s3_uri(folder, f"input/{name}.jsonl")}
        },
        "outputDataConfig": {"s3OutputDataConfig": {"s3Uri": _s3_uri(folder, "output/")}},
        "timeoutDurationInHours": conf.completions.batch.timeout_hours,
        "tags": [{"key": key, "value": value} for key, value in sorted(tags.items())],
    }


def _s3_uri(folder: Storage, path: str) -> str:
    return folder.path(path) if folder.is_local else f"s3://{folder.path(path)}"


def _advance(client: Any, conf: Config, job: BatchJob) -> BatchJob:  # noqa: ANN401 - boto3's
    """Submit a job that is not submitted, else ask for its status; return it unchanged if Bedrock throttles."""
    if job.state == "submitting":
        job = _submit(client, conf, job)
    status = bedrock_batch.get_status(client, job.arn) if job.state == "submitted" else None
    return replace(job, **dataclasses.asdict(status)) if status else job


def _submit(client: Any, conf: Config, job: BatchJob) -> BatchJob:  # noqa: ANN401 - boto3's
    """Find the job at Bedrock, or create it; store its ARN before anything else happens.

    A job that Bedrock does not know is dropped if the model or the role has changed: its requests are sent again in
    others.
    """
    arn = bedrock_batch.find(client, job.name)
    if arn == "" and not _has_current_settings(conf, job):
        return _store(conf.lake, replace(job, state="dropped", message="the settings have changed since"))
    if arn == "":
        try:
            arn = bedrock_batch.create(client, job.call)
        except EndpointError as error:
            _store(conf.lake, replace(job, state="dropped", message=str(error)))
            raise
    return _store(conf.lake, replace(job, state="submitted", arn=arn)) if arn else job


def _has_current_settings(conf: Config, job: BatchJob) -> bool:
    return (job.call["modelId"], job.call["roleArn"]) == (conf.teacher.model, conf.teacher.role_arn)


def _sleep(seconds: float, should_continue: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while (rest := end - time.monotonic()) > 0 and should_continue():
        time.sleep(min(rest, POLL_SLICE))


def _lines(folder: Storage, path: str) -> Iterator[bytes]:
    with folder.open(path) as stream:
        yield from io.BufferedReader(stream, READ_BYTES)
