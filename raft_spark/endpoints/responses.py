"""The body of a response -> its JSON value, its error message, its error class: what all clients share.

No function here raises, whatever a server sends.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from raft_spark.endpoints import answer_text, streams
from raft_spark.endpoints.base import ErrorClass, Reply

STATUS_CLASSES: Mapping[int, ErrorClass] = {
    401: "refused",
    402: "refused",  # payment required: the account has no credit
    403: "refused",
    404: "refused",  # no such model, or no such route
    408: "timeout",
    409: "unavailable",  # another call with this Idempotency-Key is open
    424: "model_error",  # TGI and LMI: the generation failed
    425: "unavailable",
    429: "throttled",
    499: "unavailable",  # nginx and Cloudflare: a proxy on the way gave up
    502: "unavailable",
    503: "throttled",
    504: "unavailable",
    520: "unavailable",  # 520 to 524 are Cloudflare's
    521: "unavailable",
    522: "unavailable",
    523: "unavailable",
    524: "unavailable",
    529: "throttled",  # Anthropic's: overloaded
    4: "bad_request",  # any other 4xx
    5: "model_error",  # any other 5xx
}
CUT_OFF = frozenset({499, 504, 520, 524})  # statuses of a gateway that gave up while the server worked
ERROR_CHARS = 300
STREAM_BYTES = 16_000_000  # a longer stream is not joined
# Finish reasons in lower case, of OpenAI, Azure, Anthropic, Google, Mistral, Cohere, DeepSeek, Together, watsonx, vLLM, SGLang,
# TGI, LMI, Ollama and Titan. One that is in none of these sets is a failure.
COMPLETE = frozenset(
    {"stop", "end_turn", "eos", "eos_token", "stop_sequence", "stop_token", "stop_str", "stop_string", "complete"}
    | {"completed", "finish", "finished", "done", "end", "endoftext", "end_of_text", "end_of_sequence"}
)
TRUNCATED = frozenset(
    {"length", "max_tokens", "max_length", "max_new_tokens", "model_length", "token_limit", "max_output_tokens"}
    | {"model_context_window_exceeded", "context_length", "context_window_exceeded"}
)
FILTERED = frozenset(
    {"content_filter", "content_filtered", "safety", "recitation", "blocklist", "prohibited_content", "spii", "refusal"}
    | {"guardrail_intervened", "error_toxic", "sensitive", "language"}
)
TOOLS = frozenset(
    {"tool_calls", "tool_call", "function_call", "tool_use", "load", "pause_turn"}
)  # no answer, and billed


def class_of_status(status: int) -> ErrorClass:
    """Return the error class of an HTTP status; `refused` for any below 400, such as a redirection from a wrong URL."""
    return STATUS_CLASSES.get(status) or STATUS_CLASSES.get(status // 100, "refused")


def parse_json(body: bytes) -> Any:  # noqa: ANN401 - any JSON
    """Return the JSON value of a body, the answer of a stream, or the beginning of its text when it is neither."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        answer = streams.join(body.decode(errors="replace")) if len(body) <= STREAM_BYTES else None
        return body[: 4 * ERROR_CHARS].decode(errors="replace") if answer is None else answer


def message_in(answer: Any) -> str:  # noqa: ANN401 - any JSON
    """Return a server's error message, in the schemas of OpenAI, vLLM, FastAPI, TGI and LMI or as plain text."""
    match answer:
        case str():
            return answer
        case [{"error": dict()} as first, *_]:  # Google's
            return message_in(first)
        case {"error": {"message": str(text), "metadata": {"raw": str(raw)}}} if (
            raw
        ):  # OpenRouter's, of the server behind it
            return f"{text}: {raw}"
        case {"error": {"message": str(text)}} | {"error": str(text)} | {"message": str(text)} | {"detail": str(text)}:
            return text
    try:
        return json.dumps(answer, ensure_ascii=False, default=str)
    except RecursionError:
        return "a value with too many levels"


def one_line(text: str) -> str:
    """Return an error as one line of at most ERROR_CHARS, with unpaired surrogates replaced, since Arrow cannot store
    them.
    """
    return " ".join(text.encode(errors="replace").decode().split())[:ERROR_CHARS]


def token_count(usage: Any, name: str) -> int | None:  # noqa: ANN401 - any JSON
    """Return a count of tokens, None when it is missing or no 32-bit number."""
    number = usage.get(name) if isinstance(usage, dict) else None
    return number if type(number) is int and 0 <= number < 2**31 else None


def with_usage(reply: Reply, prompt_tokens: int | None, completion_tokens: int | None) -> Reply:
    """Add a server's token counts to its reply. A server that counts 0 tokens where there are some does not count."""
    has_no_text = bool(prompt_tokens) and reply.completion is None  # a filter may stop an answer before its first token
    written = completion_tokens if has_no_text else completion_tokens or None
    return replace(reply, prompt_tokens=prompt_tokens or None, completion_tokens=written)


def retry_after_seconds(retry_after: str) -> float | None:
    """Return Retry-After in seconds from a number or a date (RFC 9110, section 10.2.3), None when it is neither."""
    try:
        wait = float(retry_after)
    except ValueError:
        try:
            date = parsedate_to_datetime(retry_after)
        except ValueError:
            return None
        wait = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, wait) if math.isfinite(wait) else None


def finish_reason(reason: object) -> str:
    """Return a finish reason in lower case without the name of its type, "" if there is none."""
    match reason:
        case {"type": str(name)}:  # SGLang's
            return finish_reason(name)
        case str():
            return reason.strip().lower().replace(" ", "_").removeprefix("finishreason.").removeprefix("finish_reason_")
    return one_line(str(reason)) if reason else ""


def finished_reply(text: str | None, reason: str) -> Reply:
    """Return the reply of a text, None for no text, and its finish reason. An unknown reason is a failure that is retried.

    Without a reason nobody knows whether the text is whole: the answer has no finish_reason.
    """
    if reason in FILTERED:
        return failed_reply("filtered", f"the server's content filter stopped the answer: finish_reason is {reason}")
    if reason in TOOLS:
        return failed_reply("empty", f"there is no answer: finish_reason is {reason}")
    if reason and reason not in COMPLETE | TRUNCATED:
        return failed_reply("model_error", f"the server stopped the answer: finish_reason is {reason}")
    reply = completion_reply(text or "", is_truncated=reason in TRUNCATED)
    return replace(reply, finish_reason=None) if not reason and reply.finish_reason == "stop" else reply


def completion_reply(text: str, *, is_truncated: bool) -> Reply:
    """Return the answer in a text, see answer_text; a thought without an end is a truncated answer.

    A blank answer is an error of class `empty`, which is not retried: it was billed.
    """
    clean = answer_text.clean(
        text.encode(errors="replace").decode()
    )  # no unpaired surrogates, which Arrow cannot store
    if not clean.text.strip() and not clean.is_open:
        reason = "a thought alone" if answer_text.THOUGHT in clean.removed else "empty"
        return replace(failed_reply("empty", f"the answer is {reason}"), removed=clean.removed)
    completion = clean.text if clean.text.strip() else text.strip()
    finish = "length" if is_truncated or clean.is_open else "stop"
    return Reply(completion, finish, removed=clean.removed)


def failed_reply(error_class: ErrorClass, error: str, retry_after: float | None = None) -> Reply:
    """Return a failure. The client shortens `error` with `one_line` after it has removed secrets."""
    return Reply(error_class=error_class, error=error, retry_after=retry_after)
