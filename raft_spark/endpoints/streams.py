"""a stream of events (SSE, or a JSON object a line) -> the one answer that it makes: some servers stream though not asked to.

Sources: WHATWG HTML, "Server-sent events"; OpenAI's API reference, "The chat completion chunk object"; Ollama's API.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

DONE = "[DONE]"
_EVENTS = re.compile(r"\A\ufeff?(?:\s*(?::[^\n]*|(?:event|id|retry):[^\n]*)\r?\n)*\s*data:")
_BLANK_LINE = re.compile(r"(?:\r\n|\r|\n){2,}")


def join(text: str) -> Any:  # noqa: ANN401 - any JSON
    """Return the answer of a whole stream, an object with an error for one that is cut, None for any other text."""
    parts = _data(text) if _EVENTS.match(text) else _lines(text)
    if not parts:
        return None
    try:
        events = [json.loads(part) for part in parts if part.strip() != DONE]
    except (ValueError, RecursionError):
        return {"error": "a part of the stream is no JSON"} if _EVENTS.match(text) else None
    if not events or not all(isinstance(event, dict) for event in events):
        return None
    return _joined(events, is_done=parts[-1].strip() == DONE)


def _data(text: str) -> list[str]:
    """Return the data of each event, its lines joined."""
    blocks = (re.findall(r"^data:[ ]?(.*?)\r?$", block, re.MULTILINE) for block in _BLANK_LINE.split(text))
    return ["\n".join(block) for block in blocks if block]


def _lines(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines if len(lines) > 1 and all(line.lstrip().startswith("{") for line in lines) else []


def _joined(events: Sequence[Mapping[str, Any]], *, is_done: bool) -> Any:  # noqa: ANN401 - any JSON
    for event in events:
        if event.get("error") or isinstance(event.get("generated_text"), str):  # TGI repeats the text at its end
            return event
    choices = [event["choices"][0] for event in events if _has_choice(event)]
    if not choices and any("done" in event for event in events):
        return _of_ollama(events)
    whole = [event for event in events if _has_choice(event) and "message" in event["choices"][0]]
    if whole:
        return whole[-1]
    reason = next((choice["finish_reason"] for choice in reversed(choices) if choice.get("finish_reason")), None)
    if reason is None and not is_done:
        return {"error": "the stream of the answer is cut: it has no finish_reason"}
    usage = next((event["usage"] for event in reversed(events) if event.get("usage")), None)
    return {"choices": [_choice(choices, reason)] if choices else [], "usage": usage}


def _has_choice(event: Mapping[str, Any]) -> bool:
    """Return whether an event is about the first choice."""
    match event:
        case {"choices": [dict() as choice, *_]}:
            return choice.get("index", 0) in {0, None}
    return False


def _choice(choices: Sequence[Mapping[str, Any]], reason: object) -> dict[str, Any]:
    """Return the choice that the parts make: of a completions call if they have texts, else of a chat."""
    if any(isinstance(choice.get("text"), str) for choice in choices):
        return {"text": _concat([choice.get("text") for choice in choices]), "finish_reason": reason}
    deltas = [choice["delta"] for choice in choices if isinstance(choice.get("delta"), dict)]
    names = ("content", "refusal")
    message = {name: _concat([delta.get(name) for delta in deltas]) or None for name in names}
    return {"message": message, "finish_reason": reason}


def _of_ollama(events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    last = events[-1]
    if not last.get("done"):
        return {"error": "the stream of the answer is cut: no line is done"}
    messages = [event.get("message") for event in events]
    texts = [message.get("content") if isinstance(message, dict) else None for message in messages]
    text = _concat([*texts, *(event.get("response") for event in events)])
    usage = {"prompt_tokens": last.get("prompt_eval_count"), "completion_tokens": last.get("eval_count")}
    return {"choices": [{"text": text, "finish_reason": last.get("done_reason")}], "usage": usage}


def _concat(parts: Sequence[object]) -> str:
    return "".join(part for part in parts if isinstance(part, str))
