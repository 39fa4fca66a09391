"""Requests -> answers by Bedrock's batch jobs: half the price, another clock. No Spark here.

    ROOT/completions/batches/NAME.json    a job and how far it has come: submitting -> submitted -> collected
    FOLDER/RUN_ID/input/NAME.jsonl        its requests: {"recordId": key, "modelInput": body of a Converse call}
    FOLDER/RUN_ID/keys/NAME.tsv           what a row needs beside the reply, see Named: its end is told without its input
    FOLDER/RUN_ID/output/...              what the service writes: NAME.jsonl.out below a folder of its own

`cutting.files` writes the requests; `begun` writes the jobs into the lake before the service hears of them; `finished`
submits and watches; `replies` reads what came back; `collected` ends a job, after its answers are stored. A driver
may die between any two of these: `pending` finds what it had begun, and the service is asked for a job of that name,
and told the same token, before a job is made. So a run collects what is pending before it cuts anything new.
"""

import dataclasses
import datetime as dt
import io
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
READ_BYTES = 8_000_000  # a call to S3 each
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
POLL_SLICE = 1.0  # seconds: a request to stop is heard within


@dataclass(frozen=True, slots=True)
class RecordInfo:
    """What the row of a request says beside its key and its reply."""

    pubid: int
    key_of_any_length: str
    max_tokens: int


BatchAnswer = tuple[str, RecordInfo, Reply]  # key, named, reply
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class BatchFile:
    """One input file: its job's name, its records, its size and digest."""

    name: str
    records: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class BatchJob:
    """A job as the lake knows it, cut on the `day` (YYYY-MM-DD, UTC). `call` is all that is sent to make it; `status`, `message` and the counts are the
    service's last words, which only a running driver keeps.
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
        """Say whether the service is done with it, well or not."""
        return self.status in bedrock_batch.ENDED


def pending(lake: Lake) -> list[BatchJob]:
    """Return the jobs that were begun and not collected, by any run, in the order of their names."""
    at = _batches(lake)
    stored = (at.read(file.path) for file in at.list(recursive=False) if file.path.endswith(".json"))
    jobs = (BatchJob(**json.loads(told)) for told in stored if told)
    return [job for job in jobs if job.state in {"submitting", "submitted"}]


def run_folder(conf: Config, run_id: str) -> Storage:
    """Return where a run's files lie. Raises ConfigError when Bedrock could not read them there."""
    place = Storage.of(conf.lake, conf.teacher.batch_folder.rstrip("/") or _batches(conf.lake).root).at(run_id)
    if place.is_local and urlsplit(conf.teacher.url).hostname not in LOOPBACK:
        msg = (
            f"batch jobs read from S3, and {place.root} is a local folder, which only a fake endpoint on this machine reads; "
            f"set endpoints.{conf.completions.endpoint}.batch_folder to s3://..."
        )
        raise ConfigError(msg)
    return place


def register_jobs(conf: Config, at: Storage, files: Sequence[BatchFile]) -> list[BatchJob]:
    """Write a job for each file into the lake; from here on no other run cuts its keys again."""
    day = dt.datetime.now(dt.UTC).date().isoformat()
    jobs = [BatchJob(file.name, at.root, day, file.records, _call(conf, at, file.name, file.sha256)) for file in files]
    for job in jobs:
        _store(conf.lake, job)
    return jobs


def submit_and_poll(
    conf: Config, jobs: Sequence[BatchJob], tell: Callable[[list[BatchJob]], None], going: Callable[[], bool]
) -> Iterator[list[BatchJob]]:
    """Submit the jobs that are not submitted yet, look at all every poll_seconds, yield those that have ended since the
    last look, so that tasks can collect them side by side.

    `tell` gets every job after each look. The jobs stay in the lake, for the next run, when this ends early: because
    `going` says so, or with an EndpointError, when the service refuses a job or to be asked.
    """
    client = bedrock_batch.connect(conf.teacher)
    known = {job.name: job for job in jobs}
    left = list(known)
    while left and going():
        for name in left:
            known[name] = _looked(client, conf, known[name])
        tell(list(known.values()))
        ended = [known[name] for name in left if known[name].ended]
        left = [name for name in left if not known[name].ended and known[name].state != "dropped"]
        if ended:
            yield ended
        _pause(conf.completions.batch.poll_seconds if left else 0, going)


def replies(job: BatchJob, at: Storage, ignored: Counter[str]) -> Iterator[BatchAnswer]:
    """Read what became of every record of a job that has ended; `at` is its folder. Runs in workers, line by line.

    `ignored` counts lines of the output that are no answer: `unknown`, `doubled` or `unreadable`. Raises InputError
    when the service counts answers and there is no output: nothing may be paid again because it was not found.
    """
    listed = (at.read(f"keys/{job.name}.tsv") or b"").decode().splitlines()
    asked = dict(map(_named, listed))
    if len(asked) != job.records:
        msg = f"{at.root}/keys/{job.name}.tsv names {len(asked)} of {job.records} records"
        raise InputError(msg)
    found = [file.path for file in at.at("output").list() if file.path.endswith(f"{job.name}.jsonl.out")]
    if not found and job.answered:
        msg = f"job {job.name} has {job.answered} answers, and {at.root}/output holds no {job.name}.jsonl.out"
        raise InputError(msg)
    why = f"no answer from the job, which is {job.status}" + (f": {job.message}" if job.message else "")
    lines = (line for path in found for line in _lines(at.at("output"), path))
    yield from match_replies(lines, asked, why, ignored)


def match_replies(
    lines: Iterator[bytes], asked: Mapping[str, _T], why: str, ignored: Counter[str]
) -> Iterator[tuple[str, _T, Reply]]:
    """Give every key of `asked` (with what it maps to) exactly one reply, in any order: what the first good line says, else a
    line that says it failed, else class `unavailable` because of `why`.
    """
    left = dict(asked)
    failed: dict[str, Reply] = {}
    for line in lines:
        key, reply = converse.read_batch_line(line)
        if key in left and reply.completion is not None:
            yield key, left.pop(key), reply
            failed.pop(key, None)
        elif key in left and key not in failed:
            failed[key] = reply
        else:
            ignored["unreadable" if not key else "doubled" if key in asked else "unknown"] += 1
    for key, named in left.items():
        yield key, named, failed.get(key) or converse.one_line_failure("unavailable", why)


def key_line(key: str, named: RecordInfo) -> str:
    """Lay out a line of keys/NAME.tsv."""
    return f"{key}\t{named.pubid}\t{named.key_of_any_length}\t{named.max_tokens}\n"


def _named(line: str) -> tuple[str, RecordInfo]:
    key, pubid, key_of_any_length, max_tokens = line.split("\t")
    return key, RecordInfo(int(pubid), key_of_any_length, int(max_tokens))


def mark_collected(lake: Lake, job: BatchJob) -> None:
    """End a job, after all its answers are stored."""
    _store(lake, replace(job, state="collected"))


def _batches(lake: Lake) -> Storage:
    return Storage.of(lake).at(schemas.COMPLETIONS, "batches")


def _store(lake: Lake, job: BatchJob) -> BatchJob:
    _batches(lake).write(f"{job.name}.json", json.dumps(dataclasses.asdict(job), indent=1).encode())
    return job


def _call(conf: Config, at: Storage, name: str, digest: str) -> dict[str, Any]:
    """Lay out CreateModelInvocationJob, as a function of the settings and the input alone."""
    teacher = conf.teacher
    tags = {**teacher.request_metadata, "raft-spark": name}
    return {
        "jobName": name,
        "roleArn": teacher.role_arn,
        "modelId": teacher.model,
        "modelInvocationType": "Converse",
        "clientRequestToken": sha256(f"{name} {digest}".encode()).hexdigest(),
        "inputDataConfig": {"s3InputDataConfig": {"s3InputFormat": "JSONL", "s3Uri": _s3(at, f"input/{name}.jsonl")}},
        "outputDataConfig": {"s3OutputDataConfig": {"s3Uri": _s3(at, "output/")}},
        "timeoutDurationInHours": conf.completions.batch.timeout_hours,
        "tags": [{"key": key, "value": value} for key, value in sorted(tags.items())],
    }


def _s3(at: Storage, path: str) -> str:
    return at.path(path) if at.is_local else f"s3://{at.path(path)}"


def _looked(client: Any, conf: Config, job: BatchJob) -> BatchJob:  # noqa: ANN401 - boto3's
    """Bring a job one step on; it stays as it is when the service has no time."""
    if job.state == "submitting":
        job = _submitted(client, conf, job)
    told = bedrock_batch.get_status(client, job.arn) if job.state == "submitted" else None
    return replace(job, **dataclasses.asdict(told)) if told else job


def _submitted(client: Any, conf: Config, job: BatchJob) -> BatchJob:  # noqa: ANN401 - boto3's
    """Find the job at the service, else make it; its ARN is in the lake before anything else.

    A job that never reached the service, and would be made otherwise today, is dropped: its records are cut anew.
    """
    arn = bedrock_batch.find(client, job.name)
    if arn == "" and not _is_wanted(conf, job):
        return _store(conf.lake, replace(job, state="dropped", message="the settings have changed since"))
    if arn == "":
        try:
            arn = bedrock_batch.create(client, job.call)
        except EndpointError as error:
            _store(conf.lake, replace(job, state="dropped", message=str(error)))
            raise
    return _store(conf.lake, replace(job, state="submitted", arn=arn)) if arn else job


def _is_wanted(conf: Config, job: BatchJob) -> bool:
    own = {"modelId": conf.teacher.model, "roleArn": conf.teacher.role_arn}
    return all(job.call[name] == value for name, value in own.items())


def _pause(seconds: float, going: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while (rest := until - time.monotonic()) > 0 and going():
        time.sleep(min(rest, POLL_SLICE))


def _lines(at: Storage, path: str) -> Iterator[bytes]:
    with at.filesystem.open_input_stream(at.path(path)) as stream:
        yield from io.BufferedReader(stream, READ_BYTES)
