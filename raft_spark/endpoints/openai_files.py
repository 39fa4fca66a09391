"""Send requests to a server with OpenAI's API about its files and its batch jobs: /files and /batches.

A method returns None when its call must be repeated later: the server throttles, fails or cannot be reached. The API key
is removed from every text that leaves this module.
"""

import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from typing import IO, Any, TypeVar

import urllib3
from urllib3.exceptions import HTTPError

from raft_spark.config import Endpoint
from raft_spark.endpoints import api_keys, openai, responses
from raft_spark.endpoints.authorities import find_authorities
from raft_spark.endpoints.batch_service import Files
from raft_spark.endpoints.http import CONNECT_SECONDS, Body, HttpClient
from raft_spark.errors import ConfigError, EndpointError

LOG = logging.getLogger(__name__)
READ_SECONDS = 600  # of 200 MB that a server checks before it answers
TIMEOUT = urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)
CHUNK_BYTES = 1_000_000
TRIES, PAUSE = 5, 2.0  # of a download, and seconds between the first two
RETRY_LATER = frozenset({408, 409, 425, 429})
NOT_FOUND = 404
NO_QUOTA = "insufficient_quota"  # an account without money, with status 429
T = TypeVar("T")


class OpenAIFiles:
    """A connection to one server."""

    def __init__(self, conf: Endpoint) -> None:
        self._conf = conf

    @cached_property
    def _http(self) -> HttpClient:
        try:
            return HttpClient(self._conf.url, 1, find_authorities(self._conf.ca_bundle))
        except ConfigError as error:
            raise EndpointError(str(error)) from error

    @cached_property
    def _key(self) -> str:
        key, problem = openai.load_key(self._conf)
        if problem:
            raise EndpointError(problem)
        return key

    def get(self, path: str) -> dict[str, Any] | None:
        """Return the JSON object at a path. Raises EndpointError for any other answer."""
        return self._json("GET", path, None, {})

    def post(self, path: str, body: bytes, key: str) -> dict[str, Any] | None:
        """Send JSON and return the object that was made; a server that supports Idempotency-Key makes one per `key`."""
        return self._made(self._json("POST", path, body, {"Content-Type": "application/json", "Idempotency-Key": key}))

    def upload(self, files: Files, name: str) -> dict[str, Any] | None:
        """Send input/NAME.jsonl as a file for batch jobs, reading it meanwhile; return the server's description of it."""
        content_type, size, body = _form(files, name)
        return self._made(
            self._json("POST", "/files", body, {"Content-Type": content_type, "Content-Length": str(size)})
        )

    def download(self, file_id: str, spool: IO[bytes]) -> bool | None:
        """Write a file of the server to `spool`; return whether the server still has it."""
        spool.seek(0)
        spool.truncate()
        path = f"/files/{file_id}/content"
        try:
            with self._send("GET", path, None, {}) as response:
                if _is_good(response.status):
                    for chunk in response.stream(CHUNK_BYTES):
                        spool.write(chunk)
                    return True
                answer = responses.parse_json(response.read())
        except HTTPError as error:
            self._warn_unless_refused(f"GET {path}", error)
            return None
        if response.status == NOT_FOUND:
            return False
        if _is_temporary(response.status, answer):
            self._warn(f"GET {path}: status {response.status}: {responses.message_in(answer)}")
            return None
        raise EndpointError(self._refusal("GET", path, response.status, responses.message_in(answer)))

    def repeated(self, call: Callable[[], T | None]) -> T:
        """Call until there is a result. Raises EndpointError after TRIES calls."""
        for attempt in range(TRIES):
            if (found := call()) is not None:
                return found
            time.sleep(PAUSE * 2**attempt)
        msg = f"the output of batch jobs at {self._conf.url} cannot be read; the next run collects it"
        raise EndpointError(msg)

    def redact(self, text: str) -> str:
        """Return a text of the server as one line without the key."""
        return api_keys.redact(text, self._key)

    def _send(
        self, method: str, path: str, body: Body, headers: Mapping[str, str]
    ) -> AbstractContextManager[urllib3.BaseHTTPResponse]:
        access = openai.access_headers(self._conf, self._key)
        return self._http.open(method, openai.target(self._conf, path), body, {**headers, **access}, TIMEOUT)

    def _json(self, method: str, path: str, body: Body, headers: Mapping[str, str]) -> dict[str, Any] | None:
        try:
            with self._send(method, path, body, headers) as response:
                answer = responses.parse_json(response.read())
        except HTTPError as error:
            self._warn_unless_refused(f"{method} {path}", error)
            return None
        if _is_good(response.status) and isinstance(answer, dict):
            return answer
        problem = f"status {response.status}: {responses.message_in(answer)}"
        if _is_temporary(response.status, answer) or (_is_good(response.status) and method == "POST"):
            self._warn(f"{method} {path}: {problem}")  # what a POST made is looked for before it is repeated
            return None
        raise EndpointError(self._refusal(method, path, response.status, responses.message_in(answer)))

    def _made(self, answer: dict[str, Any] | None) -> dict[str, Any] | None:
        if answer is None or isinstance(answer.get("id"), str):
            return answer
        self._warn(f"the answer has no id: {responses.message_in(answer)}")
        return None

    def _warn_unless_refused(self, call: str, error: HTTPError) -> None:
        """Warn that a call will be repeated. Raises EndpointError when every other call will fail in the same way."""
        reply = self._http.failure(error, READ_SECONDS)
        problem = f"{call}: {reply.error}"
        if reply.error_class == "refused":
            raise EndpointError(self.redact(problem))
        self._warn(problem)

    def _warn(self, problem: str) -> None:
        LOG.warning("a call of batch jobs failed and will be repeated: %s", self.redact(problem))

    def _refusal(self, method: str, path: str, status: int, reason: str) -> str:
        url = self._conf.url.rstrip("/") + path.partition("?")[0]
        has_none = status == NOT_FOUND and path.startswith(("/batches?", "/files"))
        advice = "; a server without batch jobs is asked with completions.mode = 'realtime'" if has_none else ""
        return self.redact(f"{method} {url}: status {status}: {reason}") + advice


def _is_good(status: int) -> bool:
    return 200 <= status < 300  # noqa: PLR2004 - 2xx


def _is_temporary(status: int, answer: Any) -> bool:  # noqa: ANN401 - any JSON
    match answer:
        case {"error": {"code": code}} if code == NO_QUOTA:
            return False
    return status in RETRY_LATER or status >= 500  # noqa: PLR2004 - 5xx


def _form(files: Files, name: str) -> tuple[str, int, Iterator[bytes]]:
    """Return content type, length and body of a form with the fields `purpose` and `file`, which is read as it is sent."""
    boundary = uuid.uuid4().hex
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}.jsonl"\r\n'
        "Content-Type: application/jsonl\r\n\r\n"
    ).encode()
    tail = f"\r\n--{boundary}--\r\n".encode()
    with files.open(f"input/{name}.jsonl") as stream:
        size = stream.size()

    def body() -> Iterator[bytes]:
        yield head
        with files.open(f"input/{name}.jsonl") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                yield chunk
        yield tail

    return f"multipart/form-data; boundary={boundary}", len(head) + size + len(tail), body()
