"""status, headers and body of a failed call -> its error class, and how many seconds the endpoint asks to wait.

Endpoints say the same in many ways. This knows those of OpenAI, Azure, Anthropic, Google, Mistral, Cohere, DeepSeek, Groq,
Together, OpenRouter, LiteLLM, vLLM, SGLang, TGI, LMI, llama.cpp and Ollama. No function here raises.
"""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from raft_spark.endpoints import responses
from raft_spark.endpoints.base import ErrorClass, Reply

OK, SERVER_ERROR = 200, 500
ASKED_FOR_CHARS = 4_000  # of a body, searched for words
FILTER_CODES = frozenset(
    {"content_filter", "content_policy_violation", "contentpolicyviolation", "responsibleaipolicyviolation"}
    | {"data_inspection_failed", "moderation_blocked"}
)
BUSY_CODES = frozenset(
    {"rate_limit_exceeded", "rate_limit_error", "rate_limited", "rate_limit", "ratelimitexceeded", "ratelimiterror"}
    | {"throttled", "throttling", "throttling_error", "throttlingexception", "too_many_requests", "toomanyrequests"}
    | {"overloaded", "overloaded_error", "server_overloaded", "engine_overloaded", "engine_overloaded_error"}
    | {"resource_exhausted", "capacity_exceeded", "model_not_ready", "slow_down", "429", "503", "529"}
)
# Codes that every request gets until a person changes something, whatever the status
REFUSED_CODES = frozenset(
    {"invalid_api_key", "incorrect_api_key", "api_key_invalid", "authentication_error", "unauthenticated"}
    | {"permission_error", "permission_denied", "model_not_found", "deploymentnotfound", "account_deactivated"}
    | {"no_db_connection", "expired_key", "token_not_found_in_db"}  # LiteLLM's, of a key
    | {"key_model_access_denied", "team_model_access_denied", "user_model_access_denied", "org_model_access_denied"}
    | {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "billing_error", "budget_exceeded"}
    | {
        "insufficient_balance",
        "insufficient_funds",
        "insufficient_credits",
        "exceeded_current_quota_error",
        "arrearage",
    }
)
BUSY = re.compile(
    r"over.?load|at capacity|no capacity|capacity (?:is |was |has been )?(?:exceed|reach|exhaust)|(?:not enough|insufficient|"
    r"exceeds?|exceeded|limited|lack of|out of) (?:\w+ ){0,3}capacity|rate.?limit|throttl|slow.?down|\bbusy\b|too many (?:\w+ ){0,2}"
    r"(?:request|connection|call|token|client|job|task|sequence)s?|(?:queue|backlog|server|pool) (?:is |was )?full|queue size exceeded|"
    r"(?:maximum|max\.?) (?:\w+ ){0,2}(?:requests|concurren\w+)|(?:exceed|reach)\w* (?:\w+ ){0,3}concurren|"
    r"(?:try|retry) (?:\w+ ){0,4}(?:again|later|soon)|again later|(?:model|server|weights|currently|still) (?:is |are )?(?:\w+ )?"
    r"(?:loading|starting|warming)|\bloading model|not (?:yet )?ready|warming up|starting up|temporarily unavailable|"
    r"resource.?(?:has been )?exhausted|no (?:healthy|available) (?:\w+ )?(?:upstream|server|worker|replica|deployment|backend)s?",
    re.IGNORECASE,
)
# What a proxy says, by status 500, of a server that it cannot reach
NO_CONNECTION = re.compile(
    r"connection.?(?:error|refused)|(?:cannot|can't|could not|failed to) connect|all connection attempts failed",
    re.IGNORECASE,
)
# What llama.cpp says by status 500 of a text that it cannot embed
TOO_LARGE = re.compile(r"too large to process", re.IGNORECASE)
PROXY_PREFIX = "llm_provider-"  # LiteLLM's, of the headers of the server behind it and, at times, of its own
SHORT_QUOTA = re.compile(r"per.?(?:minute|second|hour)|\b[TR]P[MSH]\b", re.IGNORECASE)
LONG_QUOTA = re.compile(
    r"per.?day\b|\b[TR]PD\b|\b(?:daily|monthly|weekly) (?:\w+ )?(?:limit|quota|tokens?|requests?|usage|budget|spend)",
    re.IGNORECASE,
)
NO_MONEY = re.compile(
    r"insufficient.?(?:quota|balance|credit|fund)|billing.{0,20}limit|credit balance|(?:out of|no|not enough) credits?\b|"
    r"(?:exceed|exhaust|used up|reach)\w*.{0,24}\b(?:quota|credits?|spend\w*|budget)\b|"
    r"\b(?:quota|credits?|budget|balance)\b.{0,24}(?:exceed|exhaust|used up|reached|replenish|depleted|negative)|payment required",
    re.IGNORECASE,
)
IN_WORDS = re.compile(
    r"(?:(?:try again|retry|available again)(?: \w+){0,2} (?:in|after)|wait(?: for)?|retrydelay\W{1,5}) ?"
    r"((?:\d+(?:\.\d+)? ?(?:ms|milliseconds?|d|h|minutes?|min|m|seconds?|sec|s)(?![a-z]) ?)+)",
    re.IGNORECASE,
)
DURATION = re.compile(r"(\d+(?:\.\d+)?) ?(ms|milliseconds?|d|h|minutes?|min|m|seconds?|sec|s)?", re.IGNORECASE)
UNITS = {"mi": 60.0, "ms": 0.001, "d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0}
LIMITS = ("requests", "tokens", "input-tokens", "output-tokens", "tokens-minute", "requests-minute")
FIRST_TIMESTAMP, FIRST_MILLISECONDS = 1e9, 1e12  # a larger number is no time to wait, but a Unix time
LONGEST_RESET = 60.0  # seconds: a reset says when the whole limit is free again, and a call may be possible sooner


def error_class(status: int, answer: Any) -> ErrorClass:  # noqa: ANN401 - any JSON
    """Return the class of an HTTP status and the body that came with it."""
    codes = frozenset(_codes(answer))
    if status in {OK, SERVER_ERROR}:  # a proxy may pass on the status of the server behind it
        status = _status_in(answer) or SERVER_ERROR
    if codes & FILTER_CODES:
        return "filtered"
    if codes & REFUSED_CODES:
        return "refused"
    found = responses.class_of_status(status)
    words = responses.message_in(answer)
    is_busy = bool(codes & BUSY_CODES) and found != "bad_request"
    if is_busy or found == "throttled" or (found == "model_error" and BUSY.search(words)):
        return "refused" if is_quota_used(_whole(answer)) else "throttled"
    if found == "model_error" and NO_CONNECTION.search(words):
        return "unavailable"
    if found == "bad_request" and re.search("credit balance|billing", words):
        return "refused"
    return "bad_request" if found == "model_error" and TOO_LARGE.search(words) else found


def is_quota_used(words: str) -> bool:
    """Say whether a message of a limit is about one that waiting does not free: money, or a quota of a day or a month."""
    return bool(LONG_QUOTA.search(words) or (NO_MONEY.search(words) and not SHORT_QUOTA.search(words)))


def failure_in(answer: Any) -> Reply | None:  # noqa: ANN401 - any JSON
    """Return the failed reply of a body that holds an error although its status is 200; None if it holds none."""
    match answer:
        case {"error": error} if error:
            pass
        case [{"error": error}, *_] if error:  # Google's
            pass
        case {"object": "error"} | {"type": "error"}:
            pass
        case {"choices": [{"error": error}, *_]} if (
            error
        ):  # OpenRouter's, when the server behind it fails in mid-answer
            return failure_in({"error": error})
        case _:
            return None
    reason = f"the answer is an error: {responses.message_in(answer)}"
    return responses.failed_reply(error_class(OK, answer), reason, wait_seconds({}, answer))


def wait_seconds(headers: Mapping[str, str], answer: Any = None) -> float | None:  # noqa: ANN401 - any JSON
    """Return how long the endpoint asks to wait, by its headers or else its words; None if it does not say."""
    given = {name.lower(): value for name, value in headers.items()}
    lower = {name.removeprefix(PROXY_PREFIX): value for name, value in given.items()} | given
    milliseconds = responses.retry_after_seconds(lower.get("retry-after-ms", lower.get("x-ms-retry-after-ms", "")))
    if milliseconds is not None:
        return milliseconds / 1000
    wait = responses.retry_after_seconds(lower.get("retry-after", ""))
    if wait is not None:
        return wait
    resets = [seconds for name in LIMITS if (seconds := _reset(lower, name)) is not None]
    for name in ("x-ratelimit-reset", "ratelimit-reset", "x-rate-limit-reset"):
        resets += [seconds for seconds in [_until(lower.get(name, ""))] if seconds is not None]
    if resets:
        return min(LONGEST_RESET, max(resets))
    return _wait_in_words(answer)


def _reset(headers: Mapping[str, str], limit: str) -> float | None:
    """Return when a limit of which nothing remains is reset, in seconds; None for any other."""
    for reset, remaining in (
        (f"x-ratelimit-reset-{limit}", f"x-ratelimit-remaining-{limit}"),
        (f"anthropic-ratelimit-{limit}-reset", f"anthropic-ratelimit-{limit}-remaining"),
    ):
        if reset in headers and headers.get(remaining, "0").strip() in {"0", "0.0", ""}:
            return _until(headers[reset])
    return None


def _until(text: str) -> float | None:
    """Return the seconds of a duration ("6m0s", "120ms", "30"), or until a date or a Unix time in s or ms."""
    if re.fullmatch(rf"(?:{DURATION.pattern})+", text.strip(), re.IGNORECASE):
        seconds = _duration(text)
        if seconds < FIRST_TIMESTAMP:
            return seconds
        return max(0.0, seconds / (1 if seconds < FIRST_MILLISECONDS else 1000) - datetime.now(UTC).timestamp())
    try:
        date = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _duration(text: str) -> float:
    parts = (found.groups() for found in DURATION.finditer(text))
    return sum(float(number) * _unit((unit or "s").lower()) for number, unit in parts)


def _unit(name: str) -> float:
    return UNITS["ms"] if name.startswith("milli") else UNITS.get(name[:2], UNITS[name[0]])


def _wait_in_words(answer: Any) -> float | None:  # noqa: ANN401 - any JSON
    match answer:
        case {"estimated_time": int() | float() as seconds} if (
            0 <= seconds < FIRST_TIMESTAMP
        ):  # Hugging Face's, of a model that loads
            return float(seconds)
    found = IN_WORDS.search(_whole(answer))
    return _duration(found[1]) if found else None


def _whole(answer: Any) -> str:  # noqa: ANN401 - any JSON
    try:
        text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False, default=str)
    except RecursionError:
        return ""
    return text[:ASKED_FOR_CHARS]


def _objects(answer: Any) -> Iterator[Mapping[str, Any]]:  # noqa: ANN401 - any JSON
    """Yield the objects of a body that may hold a code: the body, its error, and the error of the server behind a proxy."""
    outer = answer[0] if isinstance(answer, list) and answer else answer
    error = outer.get("error") if isinstance(outer, dict) else None
    metadata = error.get("metadata") if isinstance(error, dict) else None
    for each in (outer, error, error.get("innererror") if isinstance(error, dict) else None, metadata):
        if isinstance(each, dict):
            yield each


def _codes(answer: Any) -> Iterator[str]:  # noqa: ANN401 - any JSON
    for each in _objects(answer):
        for name in ("code", "type", "status", "error_type", "errorCode", "error_code"):
            if isinstance(code := each.get(name), str | int):
                yield str(code).lower()


def _status_in(answer: Any) -> int:  # noqa: ANN401 - any JSON
    """Return the HTTP status that a body names, 0 if it names none."""
    for each in _objects(answer):
        for name in ("code", "status", "status_code", "statusCode"):
            if re.fullmatch(r"[45]\d\d", str(each.get(name))):
                return int(each[name])
    return 0
