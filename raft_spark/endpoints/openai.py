"""Send requests over HTTP to any server with OpenAI's API: chat completions and completions.

Each request is sent once, without retries. A missing or wrong key gives a Reply of class `refused` and not an
exception, since an exception in a worker loses its type on the way to the driver. The key is removed from every text
that leaves this module, even when a server repeats it.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError, NewConnectionError, SSLError
from urllib3.exceptions import TimeoutError as NoAnswerInTime

from raft_spark.config import Endpoint
from raft_spark.endpoints import failures, responses
from raft_spark.endpoints.base import Reply, Request
from raft_spark.endpoints.codecs import openai_body, openai_reply
from raft_spark.endpoints.responses import failed_reply

CONNECT_SECONDS = 10.0
CHUNK_BYTES = 65_536


class OpenAIClient:
    """A pool of connections to one server. Many threads call `ask` at the same time; it never raises."""

    def __init__(self, conf: Endpoint, connections: int, timeout_seconds: float) -> None:
        self._path = urlsplit(conf.url).path
        self._pool = urllib3.connection_from_url(conf.url, maxsize=connections, block=True, retries=False)
        self._seconds = timeout_seconds
        self._key, self._key_problem = _load_key(conf)

    def ask(self, request: Request, seconds: float | None = None) -> Reply:
        """Send a request once; the whole answer must arrive within `timeout_seconds` or `seconds`, if less."""
        timeout = min(seconds or self._seconds, self._seconds)
        if self._key_problem:
            return failed_reply("refused", responses.one_line(self._key_problem))
        try:
            status, headers, body = self._post(request, timeout)
        except HTTPError as error:
            if isinstance(error, NoAnswerInTime) and not isinstance(
                error, NewConnectionError
            ):  # a refused connection is both
                return failed_reply("timeout", f"no answer within {timeout:g} s")
            failed = failed_reply("unavailable", self._redact(f"no answer: {error}"))
            return replace(failed, is_cut_off=not isinstance(error, NewConnectionError | SSLError))
        answer = responses.parse_json(body)
        reply = openai_reply(answer) if status == 200 else _error_reply(status, headers, answer)  # noqa: PLR2004 - OK
        return replace(reply, error=self._redact(reply.error)) if reply.error else reply

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.close()

    def _post(self, request: Request, seconds: float) -> tuple[int, Mapping[str, str], bytes]:
        """Return status, headers and body.

        The timeout covers the whole body, as a server may send blanks to keep a call open.
        """
        deadline = monotonic() + seconds
        route = "/completions" if isinstance(request.prompt, str) else "/chat/completions"
        response = self._pool.urlopen(
            "POST",
            self._path + route,
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
        """Return the headers.

        A server that supports Idempotency-Key answers a repeated request without computing it again.
        """
        key = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return {"Content-Type": "application/json", "Idempotency-Key": request_key, **key}

    def _redact(self, text: str) -> str:
        """Return an error as one line without the key.

        The line is shortened last, or half a key could be left at its end.
        """
        return responses.one_line(text.replace(self._key, "***") if self._key else text)


def _read_body(response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
    """Read the body in chunks until the deadline."""
    chunks = []
    while chunk := response.read1(CHUNK_BYTES):
        chunks.append(chunk)
        if monotonic() > deadline:
            response.close()
            raise NoAnswerInTime
    return b"".join(chunks)


def _error_reply(status: int, headers: Mapping[str, str], answer: Any) -> Reply:  # noqa: ANN401 - any JSON
    """Return the failed reply of a response whose status is not 200."""
    reason = responses.message_in(answer) or headers.get("Location") or "the server gave no reason"
    wait = failures.wait_seconds(headers, answer)
    failed = failed_reply(failures.error_class(status, answer), f"status {status}: {reason}", wait)
    return replace(failed, is_cut_off=status in responses.CUT_OFF)


def _load_key(conf: Endpoint) -> tuple[str, str]:
    """Return (key, problem): the key is "" when none is configured, the problem "" when the key can be read."""
    if conf.api_key_secret:
        from raft_spark.endpoints import secrets  # noqa: PLC0415 - boto3 is imported only for a secret

        return secrets.read_key(conf)
    key = os.environ.get(conf.api_key_env, "").strip()
    if conf.api_key_env and not (key and key.isascii() and key.isprintable()):
        return "", f"the environment variable {conf.api_key_env}, named by api_key_env, has no valid key"
    return key, ""
