"""Serve Bedrock's batch jobs with made-up answers: the control plane that boto3's `bedrock` client calls.

A server includes it as `Starlette(routes=[..., *batch_jobs.routes()])`. A job passes by the clock from Submitted over
InProgress to its final status. The first look after its end writes the output where the service does, in another order
than the input. POST /jobs/behave takes fields of BatchFault; GET /jobs/records returns how often each record was sent
and answered, and so what was billed.
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
    """The faults of batch jobs.

    seconds      from the start of a job to its end
    failed       share of the records that fail with `error_code`, drawn by hash anew each time a record is sent
    left_out     share of the records without an answer, likewise
    status       the final status of jobs, "" = by their records. A Failed job answers no record, an Expired or Stopped
                 one half of its records
    message      the message of a job
    min_records, max_records    the size of a job, else its call is refused
    throttled    the number of the next calls that are throttled
    lost         the number of the next jobs that are created although their call fails with status 500
    forgetful    ignore clientRequestToken: a repeated call creates another job
    unlisted     list no job
    full         the number of the next jobs of OpenAI that fail because the queue is full
    cut          the number of the next downloads from OpenAI that end in the middle
    no_metadata  keep no metadata of jobs of OpenAI
    output, failure    where asynchronous endpoints of SageMaker write answers and failures: a folder or s3://..., "" = a
                 temporary folder, and nowhere
    s3           the URL of the S3 server, "" = AWS; a URI without s3:// is a local path
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
    full: int = 0
    cut: int = 0
    no_metadata: bool = False
    output: str = ""
    failure: str = ""
    s3: str = ""


@dataclass(frozen=True, slots=True)
class FakeBatchJob:
    """A job: its call, ARN, time of creation (time.monotonic and ISO 8601), and the lines of its output."""

    call: dict[str, Any]
    arn: str
    created: float
    created_at: str
    records: int
    lines: tuple[dict[str, Any], ...]
    fault: BatchFault
    stopped: bool = False

    @property
    def status(self) -> str:
        """Return the status at this moment."""
        past = (time.monotonic() - self.created) / max(self.fault.seconds, 1e-9)
        if self.stopped or past >= 1:
            whole = "Completed" if len(self.lines) == self.records else "PartiallyCompleted"
            return "Stopped" if self.stopped else self.fault.status or whole
        return "Submitted" if past < 1 / 3 else "InProgress"

    @property
    def ended(self) -> bool:
        """Return whether the job has ended."""
        return self.status not in {"Submitted", "InProgress"}


class FakeBatchService:
    """The jobs by ARN, and how often each record was sent and answered."""

    def __init__(self, fault: BatchFault) -> None:
        self._fault = fault
        self._jobs: dict[str, FakeBatchJob] = {}
        self._written: set[str] = set()
        self._sent: Counter[str] = Counter()
        self._answered: Counter[str] = Counter()

    async def create(self, request: Request) -> Response:
        """Create a job; calls with the same clientRequestToken create one job."""
        call = await request.json()
        if refusal := self._throttled():
            return refusal
        known = {} if self._fault.forgetful else {job.call["clientRequestToken"]: job for job in self._jobs.values()}
        if job := known.get(call["clientRequestToken"]):
            same = job.call == call
            return JSONResponse({"jobArn": job.arn}) if same else _error("ConflictException", "another call", 400)
        try:
            records = await asyncio.to_thread(_read_records, call, self._fault.s3)
        except Exception as error:  # noqa: BLE001 - any problem of the input is an error response
            return _error("ValidationException", f"the input cannot be read: {error!r}", 400)
        least, most = self._fault.min_records, self._fault.max_records
        if not least <= len(records) <= most:
            return _error("ValidationException", f"{len(records)} records; a job has {least} to {most}", 400)
        return self._add_job(call, records)

    async def get(self, request: Request) -> Response:
        """Describe a job; the first call after its end writes its output."""
        if refusal := self._throttled():
            return refusal
        job = self._jobs.get(_arn(request))
        if job is None:
            return _error("ResourceNotFoundException", "no such job", 404)
        if job.ended and job.arn not in self._written and job.status != "Failed":
            self._written.add(job.arn)
            await asyncio.to_thread(_write_output, job)
        return JSONResponse({**job.call, **_summary(job), **_record_counts(job)})

    async def stop(self, request: Request) -> Response:
        """Stop a job that has not ended."""
        job = self._jobs.get(_arn(request))
        if job is None:
            return _error("ResourceNotFoundException", "no such job", 404)
        if not job.ended:
            self._jobs[job.arn] = replace(job, stopped=True, lines=job.lines[: len(job.lines) // 2])
        return JSONResponse({})

    async def list_jobs(self, request: Request) -> Response:
        """List the jobs whose name contains `nameContains`."""
        if refusal := self._throttled():
            return refusal
        part = request.query_params.get("nameContains", "")
        known = [] if self._fault.unlisted else self._jobs.values()
        jobs = [{**job.call, **_summary(job)} for job in known if part in job.call["jobName"]]
        return JSONResponse({"invocationJobSummaries": jobs})

    async def records(self, _: Request) -> Response:
        """Return by record how often it was sent in a job and how often it was answered."""
        return JSONResponse({"jobs": len(self._jobs), "sent": self._sent, "answered": self._answered})

    async def behave(self, request: Request) -> Response:
        """Change fields of the faults for new jobs; existing jobs keep theirs."""
        self._fault = replace(self._fault, **await request.json())
        return JSONResponse({})

    def _add_job(self, call: dict[str, Any], records: list[dict[str, Any]]) -> Response:
        fault = self._fault
        self._sent.update(str(record["recordId"]) for record in records)
        lines = [line for record in records if (line := _output_line(record, fault, self._sent))]
        lines.sort(key=lambda line: uniform("order", line["recordId"]))
        lines = lines[: {"Failed": 0, "Expired": len(lines) // 2, "Stopped": len(lines) // 2}.get(fault.status)]
        self._answered.update(line["recordId"] for line in lines if "modelOutput" in line)
        arn = PREFIX + sha256(f"{call['clientRequestToken']} {len(self._jobs)}".encode()).hexdigest()[:12]
        created_at = datetime.now(UTC).isoformat()
        self._jobs[arn] = FakeBatchJob(call, arn, time.monotonic(), created_at, len(records), tuple(lines), fault)
        if fault.lost:
            self._fault = replace(fault, lost=fault.lost - 1)
            return _error("InternalServerException", "told to lose the answer", 500)
        return JSONResponse({"jobArn": arn})

    def _throttled(self) -> Response | None:
        if not self._fault.throttled:
            return None
        self._fault = replace(self._fault, throttled=self._fault.throttled - 1)
        return _error("ThrottlingException", "told to throttle", 429)


def _arn(request: Request) -> str:
    return PREFIX + str(request.path_params["job"]).rpartition("/")[2]


def _error(name: str, message: str, status: int) -> Response:
    return JSONResponse({"message": message}, status, {"x-amzn-ErrorType": name})


def uniform(*parts: object) -> float:
    """Return a number in [0, 1) drawn by hash."""
    return int(sha256(" ".join(map(str, parts)).encode()).hexdigest()[:8], 16) / 16**8


def _read_records(call: dict[str, Any], s3: str) -> list[dict[str, Any]]:
    """Read a job's input. Raises an exception when a record has no valid body of Converse."""
    text = read(call["inputDataConfig"]["s3InputDataConfig"]["s3Uri"], s3).decode()
    records = [json.loads(line) for line in text.splitlines()]
    for record in records:
        if not record["recordId"] or not record["modelInput"]["messages"][-1]["content"][0]["text"]:
            msg = f"the record has no body of Converse: {record}"
            raise ValueError(msg)
    return records


def _output_line(record: dict[str, Any], fault: BatchFault, sent: Counter[str]) -> dict[str, Any] | None:
    """Return the output line of a record, None for one that is left out."""
    key = str(record["recordId"])
    draw = uniform(key, sent[key])
    if draw < fault.left_out:
        return None
    if draw < fault.left_out + fault.failed:
        return {**record, "error": {"errorCode": fault.error_code, "errorMessage": "told to fail"}}
    try:
        return {**record, "modelOutput": make_answer(CONVERSE, record["modelInput"])}
    except ServiceError as error:
        return {**record, "error": {"errorCode": error.status, "errorMessage": error.message}}


def make_answer(path: str, body: dict[str, Any]) -> object:
    """Return an answer in the schema of a call's path: the first two sentences of the user's message and a hash of the whole body."""
    sent = json.dumps(body, sort_keys=True).encode()
    request = protocols.parse(path, sent, "")
    sentences = re.split(r"(?<=[.!?])\s+", request.question.strip())
    words = f"{' '.join(sentences[:2])} [{sha256(sent).hexdigest()[:8]}]".split()
    limit = request.limit or len(words)
    finish = "length" if len(words) > limit else "stop"
    return request.render(ModelAnswer(" ".join(words[:limit]), finish, request.prompt_tokens, min(limit, len(words))))


def _summary(job: FakeBatchJob) -> dict[str, Any]:
    return {"jobArn": job.arn, "status": job.status, "message": job.fault.message, "submitTime": job.created_at}


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
    """Write the output and the manifest to the folder of the job's id below the output folder."""
    folder = job.call["outputDataConfig"]["s3OutputDataConfig"]["s3Uri"].rstrip("/") + "/" + job.arn.rpartition("/")[2]
    name = job.call["inputDataConfig"]["s3InputDataConfig"]["s3Uri"].rpartition("/")[2]
    text = "".join(json.dumps(line) + "\n" for line in job.lines)
    write(f"{folder}/{name}.out", text.encode(), job.fault.s3)
    write(f"{folder}/manifest.json.out", json.dumps(_record_counts(job)).encode(), job.fault.s3)


def read(uri: str, s3: str) -> bytes:
    """Return an object of S3, or a file of this machine."""
    if not uri.startswith("s3://"):
        return Path(uri).read_bytes()
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bytes(_client(s3).get_object(Bucket=bucket, Key=key)["Body"].read())


def write(uri: str, data: bytes, s3: str) -> None:
    """Write an object of S3, or a file of this machine whole."""
    if uri.startswith("s3://"):
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        _client(s3).put_object(Bucket=bucket, Key=key, Body=data)
        return
    Path(uri).parent.mkdir(parents=True, exist_ok=True)
    Path(f"{uri}.part").write_bytes(data)
    Path(f"{uri}.part").rename(uri)


def _client(s3: str) -> Any:  # noqa: ANN401 - boto3 creates its classes at run time
    import boto3  # noqa: PLC0415 - the import takes half a second and only jobs in a bucket need it

    return boto3.client("s3", endpoint_url=s3 or None)


def routes(fault: BatchFault | None = None, prefix: str = "") -> list[Route]:
    """Return the routes of a new control plane; `prefix` is the path of the server's base URL, such as /v1."""
    jobs = FakeBatchService(fault or BatchFault())
    handlers: list[tuple[str, Callable[..., Any], str]] = [
        ("/model-invocation-job", jobs.create, "POST"),
        ("/model-invocation-job/{job:path}/stop", jobs.stop, "POST"),
        ("/model-invocation-job/{job:path}", jobs.get, "GET"),
        ("/model-invocation-jobs", jobs.list_jobs, "GET"),
    ]
    admin = [Route("/jobs/records", jobs.records), Route("/jobs/behave", jobs.behave, methods=["POST"])]
    return [*(Route(prefix + path, endpoint, methods=[method]) for path, endpoint, method in handlers), *admin]
