"""Request -> Reply, over HTTP: any server that speaks OpenAI's chat and completions calls.

One call, no retry. A key that is missing or wrong is a Reply of class `refused`: a client lives in a worker, and an
exception loses its type on the way to the driver. No text that leaves this module holds the key, even when a server
repeats it.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError, NewConnectionError
from urllib3.exceptions import TimeoutError as NoAnswerInTime

from raft_spark.config import Endpoint
from raft_spark.endpoints import ErrorClass, Reply, Request

CLASSES: Mapping[int, ErrorClass] = {
    401: "refused",
    402: "refused",  # the account is empty, as some providers say it
    403: "refused",
    404: "refused",  # no such model, or no such route
    408: "timeout",
    429: "throttled",
    502: "unavailable",
    503: "unavailable",
    504: "unavailable",
    4: "bad_request",  # any other 4xx
    5: "model_error",  # any other 5xx
}
CONNECT_SECONDS = 10.0
ERROR_CHARS = 300
READ_BYTES = 65_536


class OpenAIClient:
    """A pool of connections to one server; `ask` is called from many threads at once and never raises."""

    def __init__(self, conf: Endpoint, connections: int, timeout_seconds: float) -> None:
        self._path = urlsplit(conf.url).path
        self._pool = urllib3.connection_from_url(conf.url, maxsize=connections, block=True, retries=False)
        self._seconds = timeout_seconds
        self._key_name = conf.api_key_env
        self._key = os.environ.get(conf.api_key_env, "").strip()

    def ask(self, request: Request, seconds: float | None = None) -> Reply:
        """Send one request, once; wait at most `timeout_seconds`, or `seconds`, for the whole answer."""
        patience = min(seconds or self._seconds, self._seconds)
        if self._key_name and not (self._key and self._key.isascii() and self._key.isprintable()):
            return _failed("refused", f"the environment variable {self._key_name}, named by api_key_env, holds no key")
        try:
            status, headers, body = self._posted(request, patience)
        except HTTPError as error:
            if isinstance(error, NoAnswerInTime) and not isinstance(error, NewConnectionError):  # a refusal is both
                return _failed("timeout", f"no answer within {patience:g} s")
            return _failed("unavailable", self._clean(f"no answer: {error}"))
        reply = _answered(body) if status == 200 else _declined(status, headers, body)  # noqa: PLR2004 - OK
        return replace(reply, error=self._clean(reply.error)) if reply.error else reply

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.close()

    def _posted(self, request: Request, seconds: float) -> tuple[int, Mapping[str, str], bytes]:
        """Return status, headers and body. The limit covers all of it: a server may send blanks to keep a call alive."""
        deadline = monotonic() + seconds
        is_text = isinstance(request.prompt, str)
        response = self._pool.urlopen(
            "POST",
            self._path + ("/completions" if is_text else "/chat/completions"),
            body=json.dumps(
                {"model": request.model, "prompt" if is_text else "messages": request.prompt, **request.parameters}
            ).encode(),
            headers=self._headers(),
            timeout=urllib3.Timeout(connect=min(CONNECT_SECONDS, seconds), total=seconds),
            redirect=False,
            preload_content=False,
        )
        try:
            return response.status, response.headers, _whole(response, deadline)
        finally:
            response.release_conn()

    def _headers(self) -> dict[str, str]:
        key = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return {"Content-Type": "application/json", **key}

    def _clean(self, text: str) -> str:
        """Make an error one short line without the key; cut last, or the cut would hide half a key."""
        without = text.replace(self._key, "***") if self._key else text
        return " ".join(without.split())[:ERROR_CHARS]


def _whole(response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
    """Read the body, piece by piece as it comes."""
    pieces = []
    while piece := response.read1(READ_BYTES):
        pieces.append(piece)
        if monotonic() > deadline:
            response.close()
            raise NoAnswerInTime
    return b"".join(pieces)


def _answered(body: bytes) -> Reply:
    """Read a body that came with status 200. What a useless answer has used is told as well: it was paid for."""
    match _parsed(body):
        case {"choices": [dict() as choice, *_], **rest}:
            return replace(
                _chosen(choice), prompt_tokens=_count(rest, "prompt"), completion_tokens=_count(rest, "completion")
            )
    return _failed("model_error", f"the answer holds no choices: {_message(body)}")


def _chosen(choice: Mapping[str, Any]) -> Reply:
    """Read the first choice of an answer, of a chat or a completions call."""
    match choice:
        case {"finish_reason": "content_filter"}:
            return _failed("filtered", "the server's content filter stopped the answer")
        case {"message": {"content": str(text)}} | {"text": str(text)} if text.strip():
            whole = text.encode(errors="replace").decode()  # half a surrogate pair cannot be stored
            cut = choice.get("finish_reason") in {"length", "max_tokens"}
            return Reply(completion=whole, finish_reason="length" if cut else "stop")
        case {"message": {"content": str()}} | {"text": str()}:
            return _failed("model_error", "the answer is empty")
    return _failed("model_error", f"the answer holds no text: {json.dumps(choice)}")


def _declined(status: int, headers: Mapping[str, str], body: bytes) -> Reply:
    """Read a body that came with another status."""
    error_class = CLASSES.get(status) or CLASSES.get(status // 100, "refused")  # such as a redirection: a wrong address
    match _parsed(body):
        case {"error": {"code": "content_filter"}}:  # as Azure puts it
            error_class = "filtered"
    return Reply(
        error_class=error_class,
        error=f"status {status}: {_message(body) or headers.get('Location') or 'the server gave no reason'}",
        retry_after=_seconds(headers.get("Retry-After", "")),
    )


def _message(body: bytes) -> str:
    """Find the server's own words; the schemas of OpenAI, vLLM, FastAPI and plain text."""
    match _parsed(body):
        case {"error": {"message": str(text)}} | {"error": str(text)} | {"message": str(text)} | {"detail": str(text)}:
            return text
    return body[: 4 * ERROR_CHARS].decode(errors="replace")


def _parsed(body: bytes) -> Any:  # noqa: ANN401 - what a stranger sends
    """Return the JSON value, or None for a body that is none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _count(answer: Mapping[Any, Any], kind: str) -> int | None:
    """Return usage's number of `kind` tokens, None when the server does not say."""
    match answer.get("usage"):
        case dict() as usage if type(count := usage.get(f"{kind}_tokens")) is int:
            return count
    return None


def _seconds(retry_after: str) -> float | None:
    """Read Retry-After, seconds or a date (RFC 9110, section 10.2.3); None when it is neither."""
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            date = parsedate_to_datetime(retry_after)
        except ValueError:
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _failed(error_class: ErrorClass, error: str) -> Reply:
    return Reply(error_class=error_class, error=error)
