"""Serve OpenAI's files and batch jobs with made-up answers: /v1/files and /v1/batches.

A job passes by the clock from validating over in_progress to its final status. Its output is in another order than the
input. POST /batches/behave takes fields of BatchFault; GET /batches/records returns how often each record was sent and
answered, and so what was billed, and how many jobs, files and calls there were.
"""

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from raft_spark.endpoints.fake.batch_jobs import BatchFault, make_answer, uniform
from raft_spark.endpoints.fake.errors import ServiceError
from raft_spark.endpoints.local.process import error_body

PAGE = 20  # jobs of one page of the list, at most


@dataclass(frozen=True, slots=True)
class FakeOpenAIBatch:
    """A job: its call, id, times of creation (time.monotonic and seconds since 1970), and the lines of its output."""

    call: dict[str, Any]
    id: str
    created: float
    created_at: int
    lines: tuple[dict[str, Any], ...]
    fault: BatchFault
    is_refused: bool

    @property
    def status(self) -> str:
        """Return the status at this moment."""
        past = (time.monotonic() - self.created) / max(self.fault.seconds, 1e-9)
        if past >= 1 or self.is_refused:
            return "failed" if self.is_refused else self.fault.status or "completed"
        return "validating" if past < 1 / 3 else "in_progress"

    def described(self) -> dict[str, Any]:
        """Return the object that the service has for the job."""
        status, lines = self.status, self.lines
        ended = status not in {"validating", "in_progress"}
        answered = sum(_is_answer(line) for line in lines) if ended else 0
        code = "token_limit_exceeded" if self.is_refused else "invalid"
        errors = {"object": "list", "data": [{"code": code, "message": self.fault.message or "told to fail"}]}
        files = {"output_file_id": f"{self.id}-output" if answered else None}
        files["error_file_id"] = f"{self.id}-errors" if ended and answered < len(lines) else None
        return {
            **self.call,
            **(files if status != "failed" else {"output_file_id": None, "error_file_id": None}),
            "id": self.id,
            "object": "batch",
            "status": status,
            "created_at": self.created_at,
            "errors": errors if status == "failed" else None,
            "request_counts": {
                "total": len(lines),
                "completed": answered,
                "failed": len(lines) - answered if ended else 0,
            },
        }


class FakeOpenAIBatches:
    """The files and jobs by id, and how often each record was sent and answered."""

    def __init__(self, fault: BatchFault) -> None:
        self._fault = fault
        self._files: dict[str, bytes] = {}
        self._jobs: dict[str, FakeOpenAIBatch] = {}
        self._calls: Counter[str] = Counter()
        self._sent: Counter[str] = Counter()
        self._answered: Counter[str] = Counter()

    async def upload(self, request: Request) -> Response:
        """Store the file of a form with the fields `purpose` and `file`."""
        if refusal := self._refusal("upload"):
            return refusal
        boundary = request.headers["content-type"].partition("boundary=")[2].encode()
        parts = [part.partition(b"\r\n\r\n")[::2] for part in (await request.body()).split(b"--" + boundary)]
        fields = {head.partition(b'name="')[2].partition(b'"')[0]: body.removesuffix(b"\r\n") for head, body in parts}
        if fields.get(b"purpose") != b"batch" or b"file" not in fields:
            return _error(400, "a file with the purpose batch is needed")
        name = f"file-{len(self._files)}"
        self._files[name] = fields[b"file"]
        return JSONResponse({"id": name, "object": "file", "bytes": len(fields[b"file"]), "purpose": "batch"})

    async def create(self, request: Request) -> Response:
        """Create a job."""
        if refusal := self._refusal("create"):
            return refusal
        call = await request.json()
        text = self._files.get(call.get("input_file_id", ""))
        if text is None or call.get("completion_window") != "24h":
            return _error(400, "input_file_id must be that of a file, and completion_window 24h")
        records = [json.loads(line) for line in text.splitlines()]
        wrong = [record for record in records if record["url"] != call["endpoint"] or record["method"] != "POST"]
        if wrong or len({record["custom_id"] for record in records}) < len(records):
            return _error(400, "every record must have the endpoint of the job and a custom_id of its own")
        job = self._add_job(call, records)
        if self._fault.lost:
            self._fault = replace(self._fault, lost=self._fault.lost - 1)
            return _error(500, "told to lose the answer")
        return JSONResponse(job.described())

    async def list_jobs(self, request: Request) -> Response:
        """List the jobs, the newest first, a page after the job `after`."""
        if refusal := self._refusal("list"):
            return refusal
        jobs = [] if self._fault.unlisted else list(reversed(self._jobs.values()))
        ids = [job.id for job in jobs]
        begin = ids.index(after) + 1 if (after := request.query_params.get("after", "")) else 0
        page = jobs[begin : begin + PAGE]
        has_more = begin + PAGE < len(jobs)
        return JSONResponse({"object": "list", "data": [job.described() for job in page], "has_more": has_more})

    async def get(self, request: Request) -> Response:
        """Describe a job."""
        if refusal := self._refusal("get"):
            return refusal
        job = self._jobs.get(request.path_params["job"])
        return JSONResponse(job.described()) if job else _error(404, "no such batch")

    async def content(self, request: Request) -> Response:
        """Return the lines of a job's output or of its errors."""
        if refusal := self._refusal("content"):
            return refusal
        name, _, kind = request.path_params["file"].rpartition("-")
        job = self._jobs.get(name)
        if job is None or self._fault.forgetful:
            return _error(404, "no such file")
        lines = [json.dumps(line) for line in job.lines if _is_answer(line) == (kind == "output")]
        text = "".join(f"{line}\n" for line in lines).encode()
        if self._fault.cut:
            self._fault = replace(self._fault, cut=self._fault.cut - 1)
            return Response(text[: len(text) // 2], headers={"content-length": str(len(text))})
        return Response(text)

    async def records(self, _: Request) -> Response:
        """Return by record how often it was sent in a job and how often it was answered; and the calls by kind."""
        counts = {"sent": self._sent, "answered": self._answered, "calls": self._calls}
        return JSONResponse({"jobs": len(self._jobs), "files": len(self._files), **counts})

    async def behave(self, request: Request) -> Response:
        """Change fields of the faults for new jobs; existing jobs keep theirs."""
        self._fault = replace(self._fault, **await request.json())
        return JSONResponse({})

    def _refusal(self, call: str) -> Response | None:
        self._calls[call] += 1
        if not self._fault.throttled:
            return None
        self._fault = replace(self._fault, throttled=self._fault.throttled - 1)
        return _error(429, "told to throttle")

    def _add_job(self, call: dict[str, Any], records: Sequence[dict[str, Any]]) -> FakeOpenAIBatch:
        fault, is_refused = self._fault, self._fault.full > 0
        self._fault = replace(fault, full=max(0, fault.full - 1))
        sent = [] if is_refused or fault.status == "failed" else records
        self._sent.update(str(record["custom_id"]) for record in sent)
        found = (_output_line(record, fault, self._sent) for record in sent)
        lines = sorted((line for line in found if line), key=lambda line: uniform("order", line["custom_id"]))
        if fault.status in {"expired", "cancelled"}:
            rest = lines[len(lines) // 2 :]
            error = {"code": f"batch_{fault.status}", "message": "This request was not executed in time."}
            lines = lines[: len(lines) // 2] + [{**line, "response": None, "error": error} for line in rest]
        self._answered.update(line["custom_id"] for line in lines if _is_answer(line))
        name = f"batch_{len(self._jobs)}"
        metadata = {} if fault.no_metadata else {"metadata": call.get("metadata")}
        call = {key: value for key, value in call.items() if key != "metadata"} | metadata
        job = FakeOpenAIBatch(call, name, time.monotonic(), int(time.time()), tuple(lines), fault, is_refused)
        self._jobs[name] = job
        return job


def _error(status: int, message: str) -> Response:
    return JSONResponse(error_body(message), status)


def _is_answer(line: dict[str, Any]) -> bool:
    return bool(line["response"]) and line["response"]["status_code"] == 200  # noqa: PLR2004 - OK


def _output_line(record: dict[str, Any], fault: BatchFault, sent: Counter[str]) -> dict[str, Any] | None:
    """Return the output line of a record, None for one that is left out."""
    key = str(record["custom_id"])
    draw = uniform(key, sent[key])
    if draw < fault.left_out:
        return None
    body: object = error_body("told to fail")
    status = fault.error_code
    if draw >= fault.left_out + fault.failed:
        try:
            body, status = make_answer(record["url"], record["body"]), 200
        except ServiceError as error:
            body, status = error_body(error.message), error.status
    response = {"status_code": status, "request_id": f"req-{key}", "body": body}
    return {"id": f"batch_req_{key}", "custom_id": key, "response": response, "error": None}


def routes() -> list[Route]:
    """Return the routes of a new service."""
    jobs = FakeOpenAIBatches(BatchFault())
    return [
        Route("/v1/files", jobs.upload, methods=["POST"]),
        Route("/v1/files/{file}/content", jobs.content),
        Route("/v1/batches", jobs.create, methods=["POST"]),
        Route("/v1/batches", jobs.list_jobs),
        Route("/v1/batches/{job}", jobs.get),
        Route("/batches/records", jobs.records),
        Route("/batches/behave", jobs.behave, methods=["POST"]),
    ]
