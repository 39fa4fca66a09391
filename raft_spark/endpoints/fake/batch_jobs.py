"""Bedrock's batch jobs -> made-up answers: the control plane that botocore's `bedrock` client reaches by endpoint_url.

Included in a server as `Starlette(routes=[..., *fake_jobs.routes()])`. A job goes by the clock from Submitted over
InProgress to its end; its output lies where the service writes it, in another order than its input, from the first
look after its end. POST /jobs/behave takes a Behaviour; GET /jobs/records tells how often each record was sent and
answered, and so what was paid for.
"""

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from raft_spark.endpoints.fake import protocols
from raft_spark.endpoints.fake.errors import ServiceError
from raft_spark.endpoints.local.process import ModelAnswer

CONVERSE = "/model/any/converse"
PREFIX = "arn:aws:bedrock:us-east-1:123456789012:model-invocation-job/"


@dataclass(frozen=True, slots=True)
class BatchFault:
    """How jobs go. `failed` and `left_out` are shares of the records (chosen by hash, anew each time a record is sent)
    that come back with `error_code`, or not at all; status: what jobs end with, "" = as their records are: Failed jobs
    do nothing, Expired and Stopped ones half of their records. throttled: so many of the next calls are declined;
    lost: so many of the next jobs are made, and the call that made them gets status 500; forgetful: no token is
    remembered; unlisted: no job is listed. s3: the address of the S3 server, "" = AWS; a URI without s3:// is a path on
    this disk.
    """

    seconds: float = 0.0
    failed: float = 0.0
    error_code: int = 500
    left_out: float = 0.0
    status: str = ""
    message: str = ""
    min_records: int = 100
    max_records: int = 50_000
    throttled: int = 0
    lost: int = 0
    forgetful: bool = False
    unlisted: bool = False
    s3: str = ""


@dataclass(frozen=True, slots=True)
class FakeBatchJob:
    """A job that was taken: the call, its ARN, when it came (time.monotonic and ISO 8601), the lines it will write."""

    call: dict[str, Any]
    arn: str
    came: float
    came_at: str
    records: int
    lines: tuple[dict[str, Any], ...]
    behaviour: BatchFault
    stopped: bool = False

    @property
    def status(self) -> str:
        """Say how far it is now."""
        past = (time.monotonic() - self.came) / max(self.behaviour.seconds, 1e-9)
        if self.stopped or past >= 1:
            whole = "Completed" if len(self.lines) == self.records else "PartiallyCompleted"
            return "Stopped" if self.stopped else self.behaviour.status or whole
        return "Submitted" if past < 1 / 3 else "InProgress"

    @property
    def ended(self) -> bool:
        """Say whether its output is there."""
        return self.status not in {"Submitted", "InProgress"}


class FakeBatchService:
    """The jobs that were taken, by ARN, and what was sent and answered."""

    def __init__(self, behaviour: BatchFault) -> None:
        self._behaviour = behaviour
        self._jobs: dict[str, FakeBatchJob] = {}
        self._written: set[str] = set()
        self._sent: Counter[str] = Counter()
        self._answered: Counter[str] = Counter()

    async def create(self, request: Request) -> Response:
        """Take a job; the same token is the same job."""
        call = await request.json()
        if declined := self._throttled():
            return declined
        known = (
            {} if self._behaviour.forgetful else {job.call["clientRequestToken"]: job for job in self._jobs.values()}
        )
        if job := known.get(call["clientRequestToken"]):
            same = job.call == call
            return JSONResponse({"jobArn": job.arn}) if same else _error("ConflictException", "another call", 400)
        try:
            records = await asyncio.to_thread(_read_records, call, self._behaviour.s3)
        except Exception as error:  # noqa: BLE001 - whatever keeps an input from being read, the caller is told
            return _error("ValidationException", f"the input cannot be read: {error!r}", 400)
        least, most = self._behaviour.min_records, self._behaviour.max_records
        if not least <= len(records) <= most:
            return _error("ValidationException", f"{len(records)} records; a job has {least} to {most}", 400)
        return self._taken(call, records)

    async def get(self, request: Request) -> Response:
        """Tell how a job is; the first look after its end finds its output written."""
        if declined := self._throttled():
            return declined
        job = self._jobs.get(_arn(request))
        if job is None:
            return _error("ResourceNotFoundException", "no such job", 404)
        if job.ended and job.arn not in self._written and job.status != "Failed":
            self._written.add(job.arn)
            await asyncio.to_thread(_write_output, job)
        return JSONResponse({**job.call, **_summary(job), **_record_counts(job)})

    async def stop(self, request: Request) -> Response:
        """Stop a job, if it is still going."""
        job = self._jobs.get(_arn(request))
        if job is None:
            return _error("ResourceNotFoundException", "no such job", 404)
        if not job.ended:
            self._jobs[job.arn] = replace(job, stopped=True, lines=job.lines[: len(job.lines) // 2])
        return JSONResponse({})

    async def listed(self, request: Request) -> Response:
        """List the jobs whose name contains `nameContains`."""
        if declined := self._throttled():
            return declined
        part = request.query_params.get("nameContains", "")
        known = [] if self._behaviour.unlisted else self._jobs.values()
        jobs = [{**job.call, **_summary(job)} for job in known if part in job.call["jobName"]]
        return JSONResponse({"invocationJobSummaries": jobs})

    async def records(self, _: Request) -> Response:
        """Tell how often each record was sent in a job that was taken, and how often it was answered."""
        return JSONResponse({"jobs": len(self._jobs), "sent": self._sent, "answered": self._answered})

    async def behave(self, request: Request) -> Response:
        """Take the fields of a Behaviour that are to change; jobs keep the one they were made under."""
        self._behaviour = replace(self._behaviour, **await request.json())
        return JSONResponse({})

    def _taken(self, call: dict[str, Any], records: list[dict[str, Any]]) -> Response:
        now = self._behaviour
        self._sent.update(str(record["recordId"]) for record in records)
        lines = [line for record in records if (line := _output_line(record, now, self._sent))]
        lines.sort(key=lambda line: _uniform("order", line["recordId"]))
        lines = lines[: {"Failed": 0, "Expired": len(lines) // 2, "Stopped": len(lines) // 2}.get(now.status)]
        self._answered.update(line["recordId"] for line in lines if "modelOutput" in line)
        arn = PREFIX + sha256(f"{call['clientRequestToken']} {len(self._jobs)}".encode()).hexdigest()[:12]
        came_at = datetime.now(UTC).isoformat()
        self._jobs[arn] = FakeBatchJob(call, arn, time.monotonic(), came_at, len(records), tuple(lines), now)
        if now.lost:
            self._behaviour = replace(now, lost=now.lost - 1)
            return _error("InternalServerException", "told to lose the answer", 500)
        return JSONResponse({"jobArn": arn})

    def _throttled(self) -> Response | None:
        if not self._behaviour.throttled:
            return None
        self._behaviour = replace(self._behaviour, throttled=self._behaviour.throttled - 1)
        return _error("ThrottlingException", "told to throttle", 429)


def _arn(request: Request) -> str:
    return PREFIX + str(request.path_params["job"]).rpartition("/")[2]


def _error(name: str, message: str, status: int) -> Response:
    return JSONResponse({"message": message}, status, {"x-amzn-ErrorType": name})


def _uniform(*parts: object) -> float:
    return int(sha256(" ".join(map(str, parts)).encode()).hexdigest()[:8], 16) / 16**8


def _read_records(call: dict[str, Any], s3: str) -> list[dict[str, Any]]:
    """Read a job's input; each record must be one that Converse takes."""
    text = _read(call["inputDataConfig"]["s3InputDataConfig"]["s3Uri"], s3).decode()
    records = [json.loads(line) for line in text.splitlines()]
    for record in records:
        if not record["recordId"] or not record["modelInput"]["messages"][-1]["content"][0]["text"]:
            msg = f"no Converse body: {record}"
            raise ValueError(msg)
    return records


def _output_line(record: dict[str, Any], behaviour: BatchFault, sent: Counter[str]) -> dict[str, Any] | None:
    """Make up what becomes of one record."""
    key = str(record["recordId"])
    chance = _uniform(key, sent[key])
    if chance < behaviour.left_out:
        return None
    if chance < behaviour.left_out + behaviour.failed:
        return {**record, "error": {"errorCode": behaviour.error_code, "errorMessage": "told to fail"}}
    try:
        return {**record, "modelOutput": _answer(record["modelInput"])}
    except ServiceError as trouble:
        return {**record, "error": {"errorCode": trouble.status, "errorMessage": trouble.message}}


def _answer(body: dict[str, Any]) -> object:
    """Answer, laid out as Converse, with the first two sentences of what the user said and a hash of all of it."""
    sent = json.dumps(body, sort_keys=True).encode()
    asked = protocols.parse(CONVERSE, sent, "")
    sentences = re.split(r"(?<=[.!?])\s+", asked.question.strip())
    words = f"{' '.join(sentences[:2])} [{sha256(sent).hexdigest()[:8]}]".split()
    limit = asked.limit or len(words)
    finish = "length" if len(words) > limit else "stop"
    return asked.lay_out(ModelAnswer(" ".join(words[:limit]), finish, asked.prompt_tokens, min(limit, len(words))))


def _summary(job: FakeBatchJob) -> dict[str, Any]:
    return {"jobArn": job.arn, "status": job.status, "message": job.behaviour.message, "submitTime": job.came_at}


def _record_counts(job: FakeBatchJob) -> dict[str, int]:
    lines = job.lines if job.ended else ()
    failed = sum("error" in line for line in lines)
    return {
        "totalRecordCount": job.records,
        "processedRecordCount": len(lines),
        "successRecordCount": len(lines) - failed,
        "errorRecordCount": failed,
    }


def _write_output(job: FakeBatchJob) -> None:
    """Write output and manifest below the output folder, in a folder named by the job's id."""
    folder = job.call["outputDataConfig"]["s3OutputDataConfig"]["s3Uri"].rstrip("/") + "/" + job.arn.rpartition("/")[2]
    name = job.call["inputDataConfig"]["s3InputDataConfig"]["s3Uri"].rpartition("/")[2]
    text = "".join(json.dumps(line) + "\n" for line in job.lines)
    _write(f"{folder}/{name}.out", text.encode(), job.behaviour.s3)
    _write(f"{folder}/manifest.json.out", json.dumps(_record_counts(job)).encode(), job.behaviour.s3)


def _read(uri: str, s3: str) -> bytes:
    if not uri.startswith("s3://"):
        return Path(uri).read_bytes()
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bytes(_client(s3).get_object(Bucket=bucket, Key=key)["Body"].read())


def _write(uri: str, data: bytes, s3: str) -> None:
    if uri.startswith("s3://"):
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        _client(s3).put_object(Bucket=bucket, Key=key, Body=data)
        return
    Path(uri).parent.mkdir(parents=True, exist_ok=True)
    Path(uri).write_bytes(data)


def _client(s3: str) -> Any:  # noqa: ANN401 - boto3 makes its classes at run time
    import boto3  # noqa: PLC0415 - half a second that only a job in a bucket needs

    return boto3.client("s3", endpoint_url=s3 or None)


def routes(behaviour: BatchFault | None = None, prefix: str = "") -> list[Route]:
    """Return the routes of a control plane without jobs; `prefix` is the path of the server's base URL, such as /v1."""
    jobs = FakeBatchService(behaviour or BatchFault())
    told: list[tuple[str, Callable[..., Any], str]] = [
        ("/model-invocation-job", jobs.create, "POST"),
        ("/model-invocation-job/{job:path}/stop", jobs.stop, "POST"),
        ("/model-invocation-job/{job:path}", jobs.get, "GET"),
        ("/model-invocation-jobs", jobs.listed, "GET"),
    ]
    own = [Route("/jobs/records", jobs.records), Route("/jobs/behave", jobs.behave, methods=["POST"])]
    return [*(Route(prefix + path, endpoint, methods=[method]) for path, endpoint, method in told), *own]
