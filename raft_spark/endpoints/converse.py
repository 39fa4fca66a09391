"""Request -> the body of Bedrock's Converse; its answer -> Reply; both also as lines of a batch job's files.

Sources: the Amazon Bedrock API reference, Converse, and the user guide, "Format and upload your batch inference data".
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from raft_spark.common.nested import merge
from raft_spark.endpoints import aws_errors, responses
from raft_spark.endpoints.base import ErrorClass, Reply, Request
from raft_spark.endpoints.families import sent_parameters
from raft_spark.endpoints.responses import completion_reply, message_in, token_count, with_usage

FILTERED = frozenset({"guardrail_intervened", "content_filtered", "refusal"})
COMPLETE = frozenset({"end_turn", "stop_sequence"})
TRUNCATED = frozenset({"max_tokens", "model_context_window_exceeded"})


def body(request: Request) -> dict[str, Any]:
    """Return messages, system and inferenceConfig. A prompt of one text becomes one message of the user."""
    prompt = [{"role": "user", "content": request.prompt}] if isinstance(request.prompt, str) else request.prompt
    system = [{"text": message["content"]} for message in prompt if message["role"] == "system"]
    turns = [
        {"role": message["role"], "content": [{"text": message["content"]}]}
        for message in prompt
        if message["role"] != "system"
    ]
    wanted = sent_parameters(request)
    limits: dict[str, float] = {"maxTokens": int(wanted["max_tokens"])} if "max_tokens" in wanted else {}
    names = (("temperature", "temperature"), ("topP", "top_p"))
    limits |= {theirs: float(wanted[ours]) for theirs, ours in names if ours in wanted}
    fields = {"messages": turns, **({"system": system} if system else {}), "inferenceConfig": limits}
    return merge(fields, request.changes.add)


def reply(answer: Any) -> Reply:  # noqa: ANN401 - any JSON
    """Read an answer: join its text blocks, without those of reasoning. A failed reply has its token counts too."""
    match answer:
        case {"stopReason": str(reason)}:
            usage = answer.get("usage")
            tokens = token_count(usage, "inputTokens"), token_count(usage, "outputTokens")
            return with_usage(_content_reply(reason, answer), *tokens)
    return responses.failed_reply("model_error", f"the answer has no stopReason: {message_in(answer)}")


def _content_reply(reason: str, answer: Mapping[str, Any]) -> Reply:
    if reason in FILTERED:
        return responses.failed_reply("filtered", f"Bedrock stopped the answer: {reason}")
    if reason in responses.TOOLS:
        return responses.failed_reply("empty", f"there is no answer: the model stopped with {reason}")
    if reason not in COMPLETE | TRUNCATED:
        return responses.failed_reply("model_error", f"the model stopped with {reason}")
    match answer:
        case {"output": {"message": {"content": [*blocks]}}}:
            texts = [
                block["text"] for block in blocks if isinstance(block, dict) and isinstance(block.get("text"), str)
            ]
            text = "".join(texts)
            has_thought = len(texts) < len(blocks)  # of which the blank lines after it are left
            return completion_reply(text.strip() if has_thought else text, is_truncated=reason in TRUNCATED)
    return responses.failed_reply("model_error", f"the answer has no message: {message_in(answer.get('output'))}")


def batch_line(key: str, request: Request) -> bytes:
    """Return a request as one line of a batch job's input."""
    return json.dumps({"recordId": key, "modelInput": body(request)}).encode() + b"\n"


def read_batch_line(line: bytes) -> tuple[str, Reply]:
    """Return the key of a line of a batch job's output and its reply; the key is "" when the line cannot be read."""
    match responses.parse_json(line):
        case {"recordId": str(key), "error": error} if error:
            return key, _record_failure(error)
        case {"recordId": str(key), **rest}:
            answer = reply(rest.get("modelOutput"))
            return key, replace(answer, error=responses.one_line(answer.error)) if answer.error else answer
    return "", Reply()


def one_line_failure(error_class: ErrorClass, error: str) -> Reply:
    """Return a failed reply with its error as one line."""
    return responses.failed_reply(error_class, responses.one_line(error))


def _record_failure(error: object) -> Reply:
    code, message = (error.get("errorCode"), error.get("errorMessage")) if isinstance(error, dict) else ("", error)
    return one_line_failure(_error_class(str(code)), f"error {code}: {message}")


def _error_class(code: str) -> ErrorClass:
    """Return the class of an error by its HTTP status, as the documentation has it, or by its name."""
    if code == str(aws_errors.GENERATION_FAILED):
        return "model_error"
    if re.fullmatch(r"[1-5]\d\d", code):
        return responses.class_of_status(int(code))
    return aws_errors.CODES.get(code.rpartition("#")[2], "model_error")
