"""Upload, create, find and read batch jobs of servers with OpenAI's API: /files and /batches.

    FILES/input/NAME.jsonl   {"custom_id": key, "method": "POST", "url": route, "body": body of a call}

The output stays at the server, in one file of answers and one of errors, and is read from there. A job is found again by
its metadata {"raft-spark": NAME}. Sources: OpenAI's API reference, Files and Batch; vllm/entrypoints/openai/run_batch.py.
"""

import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import date, timedelta
from functools import partial
from typing import Any

from raft_spark.config import Completions, Endpoint
from raft_spark.endpoints import batch_service, openai, responses
from raft_spark.endpoints.base import ErrorClass, Reply, Request
from raft_spark.endpoints.batch_service import BatchJob, BatchStatus, Files
from raft_spark.endpoints.codecs import openai_body, openai_reply
from raft_spark.endpoints.openai_files import OpenAIFiles
from raft_spark.errors import InputError

LOG = logging.getLogger(__name__)
NAME = "raft-spark"  # of the job's name in its metadata
QUEUE_FULL = "token_limit_exceeded"  # why a job fails before it starts, when the account's others fill the queue
POLLS_UNTIL_NEXT_TRY = 10  # of a job that did not fit into the queue
ERROR_CODES: Mapping[str, ErrorClass] = {
    "batch_expired": "unavailable",
    "batch_cancelled": "unavailable",
    "request_timeout": "timeout",
}


class OpenAIBatches:
    """A server's batch jobs as a BatchService. It connects when it is first used, so that Spark can send this object."""

    needs_bucket = False

    def __init__(self, conf: Endpoint, completions: Completions) -> None:
        self._conf, self._completions, self._server = conf, completions, OpenAIFiles(conf)
        self._next_try: dict[str, float] = {}  # by job, in seconds of time.monotonic

    @property
    def address(self) -> str:
        """Return the server."""
        return f"openai {self._conf.url.rstrip('/')}"

    def call(self, name: str, _digest: str, _files: Files) -> dict[str, Any]:
        """Return the body that creates a job, but for the id of its input, and with `modelId`."""
        return {
            "modelId": self._conf.model,
            "endpoint": self._route(is_chat=self._completions.template == "chat"),
            "completion_window": f"{self._completions.batch.timeout_hours}h",
            "metadata": {**self._conf.request_metadata, NAME: name},
        }

    def line(self, key: str, request: Request) -> bytes:
        """Return a request with the route that answers it."""
        route = self._route(is_chat=not isinstance(request.prompt, str))
        record = {"custom_id": key, "method": "POST", "url": route, "body": openai_body(request)}
        return json.dumps(record).encode() + b"\n"

    def find(self, job: BatchJob, _files: Files) -> str | None:
        """Return the id of a job, except of one that did not fit into the queue and has to be created again."""
        begin = time.mktime((date.fromisoformat(job.day) - timedelta(days=2)).timetuple())
        last = ""
        while True:
            page = self._server.get(f"/batches?limit=100{f'&after={last}' if last else ''}")
            if page is None:
                return None
            jobs = page.get("data") or []
            for found in jobs:
                if (found.get("metadata") or {}).get(NAME) == job.name and not _has_not_fitted(found):
                    return str(found["id"])
            created = jobs[-1].get("created_at") if jobs else 0
            is_old = isinstance(created, int) and created < begin  # the newest come first
            if not page.get("has_more") or is_old or jobs[-1]["id"] == last:
                return ""
            last = jobs[-1]["id"]

    def create(self, job: BatchJob, files: Files, _should_continue: Callable[[], bool]) -> str | None:
        """Upload the input and create the job. An input whose job is never created costs nothing."""
        if time.monotonic() < self._next_try.get(job.name, 0):
            return None
        uploaded = self._server.upload(files, job.name)
        if uploaded is None:
            return None
        sent = {name: value for name, value in job.call.items() if name != "modelId"}
        call = json.dumps({**sent, "input_file_id": uploaded["id"]}).encode()
        made = self._server.post("/batches", call, job.name)
        if made is None:
            return None
        if (made.get("metadata") or {}).get(NAME) != job.name:
            LOG.warning(
                "%s does not keep the metadata of batch job %s: if the next reply is lost, its job is created twice",
                self.address,
                job.name,
            )
        return str(made["id"])

    def status(self, job: BatchJob, _files: Files) -> BatchStatus | None:
        """Return the state of a job; one that did not fit into the queue is DEFERRED, and created again later."""
        found = self._server.get(f"/batches/{job.arn}")
        if found is None:
            return None
        if _has_not_fitted(found):
            pause = POLLS_UNTIL_NEXT_TRY * self._completions.batch.poll_seconds
            self._next_try[job.name] = time.monotonic() + pause
            return BatchStatus(batch_service.DEFERRED, _message(found), 0, 0)
        counts = found.get("request_counts") or {}
        numbers = (int(counts.get(name) or 0) for name in ("completed", "failed"))
        return BatchStatus(str(found.get("status", "")).lower(), _message(found), *numbers)

    def output(self, job: BatchJob, _files: Files) -> Iterator[tuple[str, Reply]]:
        """Download the files of answers and errors, and yield their lines."""
        found = self._server.repeated(lambda: self._server.get(f"/batches/{job.arn}"))
        if not found.get("output_file_id") and job.answered:
            raise InputError(_gone(job, "the server names no file of answers"))
        for file_id in filter(None, (found.get("output_file_id"), found.get("error_file_id"))):
            with tempfile.TemporaryFile() as spool:
                if not self._server.repeated(partial(self._server.download, file_id, spool)):
                    raise InputError(_gone(job, f"the server has no file {file_id} any more"))
                spool.seek(0)
                for key, reply in map(read_line, spool):
                    yield key, replace(reply, error=self._server.redact(reply.error)) if reply.error else reply

    def _route(self, *, is_chat: bool) -> str:
        return self._conf.route or ("/v1/chat/completions" if is_chat else "/v1/completions")


def read_line(line: bytes) -> tuple[str, Reply]:
    """Return the key of a line of either output file and its reply; the key is "" when the line cannot be read."""
    match responses.parse_json(line):
        case {"custom_id": str(key), **rest}:
            reply = _line_reply(rest.get("response"), rest.get("error"))
            return key, replace(reply, error=responses.one_line(reply.error)) if reply.error else reply
    return "", Reply()


def _line_reply(response: Any, error: Any) -> Reply:  # noqa: ANN401 - any JSON
    match response:
        case {"status_code": 200, "body": body}:
            return openai_reply(body)
        case {"choices": [*_]}:  # without a status, as some servers have it
            return openai_reply(response)
        case {"status_code": int(status), **rest} if status != 200:  # noqa: PLR2004 - OK
            return openai._error_reply(status, {}, rest.get("body") or error)  # noqa: SLF001 - as a call that fails
    code = str(error.get("code", "")) if isinstance(error, dict) else ""
    return responses.failed_reply(ERROR_CODES.get(code, "model_error"), f"error {code}: {responses.message_in(error)}")


def _has_not_fitted(job: Mapping[str, Any]) -> bool:
    return str(job.get("status")).lower() == "failed" and any(error.get("code") == QUEUE_FULL for error in _errors(job))


def _errors(job: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    match job.get("errors"):
        case {"data": [*errors]}:
            return [error for error in errors if isinstance(error, dict)]
    return []


def _message(job: Mapping[str, Any]) -> str:
    """Return the first error of a job, "" without one."""
    return responses.one_line(next((str(error.get("message") or error.get("code")) for error in _errors(job)), ""))


def _gone(job: BatchJob, reason: str) -> str:
    return (
        f"batch job {job.name} has {job.answered} answers, but {reason}; to ask these requests again, "
        f"delete completions/batches/{job.name}.json in the lake"
    )
