"""Request -> the body of a Converse call, its answer -> Reply; the same as the lines of a batch job's files. Pure."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from raft_spark.endpoints import ErrorClass, Reply, Request

PARAMETERS: Mapping[str, str] = {"max_tokens": "maxTokens", "temperature": "temperature", "top_p": "topP"}
REASONS: Mapping[str, Literal["stop", "length"]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
}
FILTERED = frozenset({"guardrail_intervened", "content_filtered"})
CLASSES: Mapping[int, ErrorClass] = {
    401: "refused",
    403: "refused",
    404: "refused",
    408: "timeout",
    429: "throttled",
    502: "unavailable",
    503: "unavailable",
    504: "unavailable",
    424: "model_error",
    4: "bad_request",  # any other 4xx
    5: "model_error",  # any other 5xx
}
NAMED: Mapping[str, ErrorClass] = {  # errors that come by name
    "AccessDeniedException": "refused",
    "ResourceNotFoundException": "refused",
    "ModelTimeoutException": "timeout",
    "ThrottlingException": "throttled",
    "ModelNotReadyException": "unavailable",
    "ServiceUnavailableException": "unavailable",
    "ValidationException": "bad_request",
}
ERROR_CHARS = 300


def body(request: Request) -> dict[str, Any]:
    """Lay a request out as Converse takes it, but for modelId; a prompt of one text is what the user says."""
    prompt = request.prompt
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    system = [{"text": message["content"]} for message in messages if message["role"] == "system"]
    said = [
        {"role": message["role"], "content": [{"text": message["content"]}]}
        for message in messages
        if message["role"] != "system"
    ]
    settings = {PARAMETERS[name]: value for name, value in request.parameters.items()}
    return {"messages": said, **({"system": system} if system else {}), "inferenceConfig": settings}


def reply(answer: object) -> Reply:
    """Read an answer, whatever it is. What a useless one has used is told as well: it was paid for."""
    match answer:
        case {"output": {"message": {"content": list() as blocks}}, "stopReason": str(reason), **rest}:
            text = "".join(block["text"] for block in blocks if isinstance(block, dict) and _is_text(block))
            used = rest.get("usage")
            counts = _count(used, "inputTokens"), _count(used, "outputTokens")
            return replace(_answered(text, reason), prompt_tokens=counts[0], completion_tokens=counts[1])
    return failed("model_error", f"the answer holds no message: {json.dumps(answer, default=str)}")


def line(key: str, request: Request) -> bytes:
    """Lay a request out as one line of a batch job's input."""
    return json.dumps({"recordId": key, "modelInput": body(request)}).encode() + b"\n"


def record(line: bytes) -> tuple[str, Reply]:
    """Read one line of an output: its key, "" where it has none, and what it says."""
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        return "", Reply()
    match told:
        case {"recordId": str(key), "error": error} if error:
            return key, _failure(error)
        case {"recordId": str(key)}:
            return key, reply(told.get("modelOutput"))
    return "", Reply()


def failed(error_class: ErrorClass, error: str) -> Reply:
    """Return a failure with its reason as one short line."""
    return Reply(error_class=error_class, error=" ".join(error.split())[:ERROR_CHARS])


def _is_text(block: Mapping[str, object]) -> bool:
    """Tell what is said from what is thought: a reasoning model sends its reasoning as a block of another kind."""
    return isinstance(block.get("text"), str)


def _answered(text: str, reason: str) -> Reply:
    if reason in FILTERED:
        return failed("filtered", f"the answer was stopped: {reason}")
    if reason not in REASONS:
        return failed("model_error", f"the answer ended with {reason!r}")
    if not text.strip():
        return failed("model_error", "the answer is empty")
    whole = text.encode(errors="replace").decode()  # half a surrogate pair cannot be stored
    return Reply(completion=whole, finish_reason=REASONS[reason])


def _count(usage: object, name: str) -> int | None:
    """Return a number of tokens, None when the server does not say."""
    match usage:
        case dict() if type(count := usage.get(name)) is int:
            return count
    return None


def _failure(error: object) -> Reply:
    code, message = (error.get("errorCode"), error.get("errorMessage")) if isinstance(error, dict) else ("", error)
    return failed(_classed(str(code)), f"error {code}: {message}")


def _classed(code: str) -> ErrorClass:
    """Class an error by its number, as the service's documentation has it, or by its name."""
    if re.fullmatch(r"[1-5]\d\d", code):
        return CLASSES.get(int(code)) or CLASSES.get(int(code) // 100, "model_error")
    return NAMED.get(code.rpartition("#")[2], "model_error")
