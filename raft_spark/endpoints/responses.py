"""A body that came back -> its parts, for every client: the JSON value, the words in it, what it means for the row.

Nothing here raises, whatever a server sends.
"""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from raft_spark.endpoints.base import ErrorClass, Reply

STATUS_CLASSES: Mapping[int, ErrorClass] = {
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
ERROR_CHARS = 300


def class_of_status(status: int) -> ErrorClass:
    """Return what an HTTP status means for a row; refused for what is none, such as a redirection: a wrong address."""
    return STATUS_CLASSES.get(status) or STATUS_CLASSES.get(status // 100, "refused")


def parse_json(body: bytes) -> Any:  # noqa: ANN401 - what a stranger sends
    """Return the JSON value, or the beginning of the text of a body that is none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return body[: 4 * ERROR_CHARS].decode(errors="replace")


def message_in(answer: Any) -> str:  # noqa: ANN401 - what a stranger sends
    """Find a server's own words; the schemas of OpenAI, vLLM, FastAPI, TGI, LMI and plain text."""
    match answer:
        case str():
            return answer
        case {"error": {"message": str(text)}} | {"error": str(text)} | {"message": str(text)} | {"detail": str(text)}:
            return text
    try:
        return json.dumps(answer, ensure_ascii=False, default=str)
    except RecursionError:
        return "a value of many levels"


def one_line(text: str) -> str:
    """Make an error one short line that can be stored: half a surrogate pair cannot."""
    return " ".join(text.encode(errors="replace").decode().split())[:ERROR_CHARS]


def token_count(usage: Any, name: str) -> int | None:  # noqa: ANN401 - what a stranger sends
    """Return a number of tokens, None when the server does not say, or says what no table can hold."""
    number = usage.get(name) if isinstance(usage, dict) else None
    return number if type(number) is int and 0 <= number < 2**31 else None


def retry_after_seconds(retry_after: str) -> float | None:
    """Read Retry-After, seconds or a date (RFC 9110, section 10.2.3); None when it is neither."""
    try:
        wait = float(retry_after)
    except ValueError:
        try:
            date = parsedate_to_datetime(retry_after)
        except ValueError:
            return None
        wait = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, wait) if math.isfinite(wait) else None


def completion_reply(text: str, *, cut: bool) -> Reply:
    """Return a completion, or the error that it is empty: paid for, and most likely empty again."""
    if not text.strip():
        return failed_reply("empty", "the answer is empty")
    whole = text.encode(errors="replace").decode()  # half a surrogate pair cannot be stored
    return Reply(completion=whole, finish_reason="length" if cut else "stop")


def failed_reply(error_class: ErrorClass, error: str, retry_after: float | None = None) -> Reply:
    """Return what went wrong; a client makes it a `line`, after it has taken out what nobody may read."""
    return Reply(error_class=error_class, error=error, retry_after=retry_after)
