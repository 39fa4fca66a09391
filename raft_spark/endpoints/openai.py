"""Request -> Reply, over HTTP: any server that speaks OpenAI's chat and completions calls.

One call, no retry. A key that is missing or wrong is a Reply of class `refused`: a client lives in a worker, and an
exception loses its type on the way to the driver. No text that leaves this module holds the key, even when a server
repeats it.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError, NewConnectionError
from urllib3.exceptions import TimeoutError as NoAnswerInTime

from raft_spark.config import Endpoint
from raft_spark.endpoints import responses
from raft_spark.endpoints.base import Reply, Request
from raft_spark.endpoints.codecs import openai_body, openai_reply
from raft_spark.endpoints.responses import failed_reply

CONNECT_SECONDS = 10.0
READ_BYTES = 65_536


class OpenAIClient:
    """A pool of connections to one server; `ask` is called from many threads at once and never raises."""

    def __init__(self, conf: Endpoint, connections: int, timeout_seconds: float) -> None:
        self._path = urlsplit(conf.url).path
        self._pool = urllib3.connection_from_url(conf.url, maxsize=connections, block=True, retries=False)
        self._seconds = timeout_seconds
        self._key, self._keyless = _load_key(conf)

    def ask(self, request: Request, seconds: float | None = None) -> Reply:
        """Send one request, once; wait at most `timeout_seconds`, or `seconds`, for the whole answer."""
        patience = min(seconds or self._seconds, self._seconds)
        if self._keyless:
            return failed_reply("refused", responses.one_line(self._keyless))
        try:
            status, headers, body = self._posted(request, patience)
        except HTTPError as error:
            if isinstance(error, NoAnswerInTime) and not isinstance(error, NewConnectionError):  # a refusal is both
                return failed_reply("timeout", f"no answer within {patience:g} s")
            return failed_reply("unavailable", self._clean(f"no answer: {error}"))
        answer = responses.parse_json(body)
        reply = openai_reply(answer) if status == 200 else _error_reply(status, headers, answer)  # noqa: PLR2004 - OK
        return replace(reply, error=self._clean(reply.error)) if reply.error else reply

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.close()

    def _posted(self, request: Request, seconds: float) -> tuple[int, Mapping[str, str], bytes]:
        """Return status, headers and body. The limit covers all of it: a server may send blanks to keep a call alive."""
        deadline = monotonic() + seconds
        call = "/completions" if isinstance(request.prompt, str) else "/chat/completions"
        response = self._pool.urlopen(
            "POST",
            self._path + call,
            body=json.dumps(openai_body(request)).encode(),
            headers=self._headers(request.key),
            timeout=urllib3.Timeout(connect=min(CONNECT_SECONDS, seconds), total=seconds),
            redirect=False,
            preload_content=False,
        )
        try:
            return response.status, response.headers, _read_body(response, deadline)
        finally:
            response.release_conn()

    def _headers(self, request_key: str) -> dict[str, str]:
        """Name the request, so that a server that knows the header answers a repeated one without doing it again."""
        key = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return {"Content-Type": "application/json", "Idempotency-Key": request_key, **key}

    def _clean(self, text: str) -> str:
        """Make an error one short line without the key; cut last, or the cut would hide half a key."""
        return responses.one_line(text.replace(self._key, "***") if self._key else text)


def _read_body(response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
    """Read the body, piece by piece as it comes."""
    pieces = []
    while piece := response.read1(READ_BYTES):
        pieces.append(piece)
        if monotonic() > deadline:
            response.close()
            raise NoAnswerInTime
    return b"".join(pieces)


def _error_reply(status: int, headers: Mapping[str, str], answer: Any) -> Reply:  # noqa: ANN401 - what a stranger sends
    """Read what came with another status than 200."""
    error_class = responses.class_of_status(status)
    match answer:
        case {"error": {"code": "content_filter"}}:  # as Azure puts it
            error_class = "filtered"
    reason = responses.message_in(answer) or headers.get("Location") or "the server gave no reason"
    return failed_reply(
        error_class, f"status {status}: {reason}", responses.retry_after_seconds(headers.get("Retry-After", ""))
    )


def _load_key(conf: Endpoint) -> tuple[str, str]:
    """Return the key, empty when none is named, and why it cannot be had, empty when it can."""
    if conf.api_key_secret:
        from raft_spark.endpoints import secrets  # noqa: PLC0415 - boto3, only where a secret is named

        return secrets.read_key(conf)
    key = os.environ.get(conf.api_key_env, "").strip()
    if conf.api_key_env and not (key and key.isascii() and key.isprintable()):
        return "", f"the environment variable {conf.api_key_env}, named by api_key_env, holds no key"
    return key, ""
