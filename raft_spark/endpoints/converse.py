"""Bedrock's Converse: request -> the body of a call, its answer -> Reply; the same as lines of a batch job's files. Pure.

After the Amazon Bedrock API reference, Converse, and the user guide, "Format and upload your batch inference data".
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from raft_spark.endpoints import aws_errors, responses
from raft_spark.endpoints.base import ErrorClass, Reply, Request
from raft_spark.endpoints.responses import completed, count, words

FILTERED = frozenset({"guardrail_intervened", "content_filtered"})
ENDED = frozenset({"end_turn", "stop_sequence"})
CUT = frozenset({"max_tokens", "model_context_window_exceeded"})


def body(request: Request) -> dict[str, Any]:
    """Return messages, system and inferenceConfig; a text is one message of the user."""
    prompt = [{"role": "user", "content": request.prompt}] if isinstance(request.prompt, str) else request.prompt
    system = [{"text": message["content"]} for message in prompt if message["role"] == "system"]
    turns = [
        {"role": message["role"], "content": [{"text": message["content"]}]}
        for message in prompt
        if message["role"] != "system"
    ]
    wanted = request.parameters
    limits: dict[str, float] = {"maxTokens": int(wanted["max_tokens"])} if "max_tokens" in wanted else {}
    names = (("temperature", "temperature"), ("topP", "top_p"))
    limits |= {theirs: float(wanted[ours]) for theirs, ours in names if ours in wanted}
    return {"messages": turns, **({"system": system} if system else {}), "inferenceConfig": limits}


def reply(answer: Any) -> Reply:  # noqa: ANN401 - what a stranger sends
    """Read an answer: its text blocks joined, those of reasoning left out. What a useless one has used is told as well."""
    match answer:
        case {"stopReason": str(reason)}:
            usage = answer.get("usage")
            tokens = count(usage, "inputTokens"), count(usage, "outputTokens")
            return replace(_stopped(reason, answer), prompt_tokens=tokens[0], completion_tokens=tokens[1])
    return responses.failed("model_error", f"the answer holds no stopReason: {words(answer)}")


def _stopped(reason: str, answer: Mapping[str, Any]) -> Reply:
    if reason in FILTERED:
        return responses.failed("filtered", f"Bedrock stopped the answer: {reason}")
    if reason not in ENDED | CUT:
        return responses.failed("model_error", f"the model stopped with {reason}")
    match answer:
        case {"output": {"message": {"content": [*blocks]}}}:
            texts = [
                block["text"] for block in blocks if isinstance(block, dict) and isinstance(block.get("text"), str)
            ]
            return completed("".join(texts), cut=reason in CUT)
    return responses.failed("model_error", f"the answer holds no message: {words(answer.get('output'))}")


def line(key: str, request: Request) -> bytes:
    """Lay a request out as one line of a batch job's input."""
    return json.dumps({"recordId": key, "modelInput": body(request)}).encode() + b"\n"


def record(line: bytes) -> tuple[str, Reply]:
    """Read one line of an output: its key, "" where it has none, and what it says."""
    match responses.value(line):
        case {"recordId": str(key), "error": error} if error:
            return key, _failure(error)
        case {"recordId": str(key), **told}:
            read = reply(told.get("modelOutput"))
            return key, replace(read, error=responses.line(read.error)) if read.error else read
    return "", Reply()


def failed(error_class: ErrorClass, error: str) -> Reply:
    """Return a failure with its reason as one short line."""
    return responses.failed(error_class, responses.line(error))


def _failure(error: object) -> Reply:
    code, message = (error.get("errorCode"), error.get("errorMessage")) if isinstance(error, dict) else ("", error)
    return failed(_classed(str(code)), f"error {code}: {message}")


def _classed(code: str) -> ErrorClass:
    """Class an error by its number, as the service's documentation has it, or by its name."""
    if code == str(aws_errors.BROKEN_GENERATION):
        return "model_error"
    if re.fullmatch(r"[1-5]\d\d", code):
        return responses.by_status(int(code))
    return aws_errors.CODES.get(code.rpartition("#")[2], "model_error")
