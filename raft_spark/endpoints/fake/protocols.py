"""Bytes of a call -> what is asked, and an answer -> bytes: the server's side of three services.

    /v1/chat/completions, /v1/completions      OpenAI
    /endpoints/NAME/invocations                SageMaker: TGI's or LMI's {"inputs"}, or OpenAI's two
    /model/ID/converse, /model/ID/invoke       Bedrock: Converse; Llama's own {"prompt", "max_gen_len"}, or OpenAI's two

Sources: botocore's models of sagemaker-runtime and bedrock-runtime (rest-json); TGI's router (validation and defaults); the
LMI documents of djl-serving; Bedrock's user guide on Llama and imported models.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from raft_spark.endpoints.fake.errors import Headers, RawResponse, ServiceError, json_headers, service_of
from raft_spark.endpoints.local.process import ModelAnswer, answer_body

LMI_TOKENS = 30  # what LMI generates when max_new_tokens is not said
LLAMA_TOKENS = 512  # the same for max_gen_len
USER_HEADER, END_OF_TURN = "<|start_header_id|>user<|end_header_id|>", "<|eot_id|>"
CONTAINER_REASONS = {"stop": "eos_token"}
CONVERSE_REASONS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "guardrail_intervened"}


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A call, read: the last thing the user said, the words of all that was sent (a word is a token), how many tokens to
    answer at most, and how to lay the answer out.
    """

    question: str
    prompt_tokens: int
    limit: int | None
    lay_out: Callable[[ModelAnswer], object]


def caller_key(path: str, headers: Mapping[bytes, bytes], sent: bytes) -> str:
    """Return the name the caller gave the request, "" when it gave none."""
    name = {"openai": b"idempotency-key", "sagemaker": b"x-amzn-sagemaker-inference-id"}.get(service_of(path), b"")
    if name in headers:
        return headers[name].decode("latin-1")
    if service_of(path) == "bedrock":
        metadata = headers.get(b"x-amzn-bedrock-request-metadata") or (sent if b'"requestMetadata"' in sent else b"")
        match _json_or_none(metadata):
            case {"requestMetadata": {"key": str(given)}} | {"key": str(given)}:
                return given
    return ""


def parse(path: str, sent: bytes, container: str) -> ParsedRequest:
    """Read a call as its service does. Raises Trouble for a body that the real one would not take."""
    body = _json_or_none(sent)
    try:
        found = _parse_body(path, body, container) if isinstance(body, dict) else None
    except (AttributeError, KeyError, TypeError):  # a value of another type than it must have
        found = None
    if found is None:
        raise _invalid(path, f"{path} does not take this body: {sent[:100].decode(errors='replace')}")
    return found


def _json_or_none(sent: bytes) -> Any:  # noqa: ANN401 - what a stranger sends
    try:
        return json.loads(sent)
    except (ValueError, RecursionError):
        return None


def _invalid(path: str, message: str) -> ServiceError:
    return ServiceError(400, message, original_status=400 if service_of(path) == "sagemaker" else 0)


def _parse_body(path: str, body: Mapping[str, Any], container: str) -> ParsedRequest | None:
    owner = service_of(path)
    if owner == "openai":
        return _openai(body, body["model"], chat=path.endswith("/chat/completions"))
    if path.endswith("/converse"):
        return _converse(body["messages"], body)
    if owner == "sagemaker" and "inputs" in body:
        return (_tgi if container == "tgi" else _lmi)(body["inputs"], body.get("parameters") or {})
    if owner == "bedrock" and "prompt" in body and "max_tokens" not in body:
        return _llama(body["prompt"], body)
    return _openai(body, body.get("model", ""), chat="messages" in body)


def _openai(body: Mapping[str, Any], model: str, *, chat: bool) -> ParsedRequest | None:
    contents = [turn["content"] for turn in body["messages"]] if chat else [body["prompt"]]
    if not contents:
        return None
    question = _question(contents[-1])
    return ParsedRequest(
        question, _count_words(contents), body.get("max_tokens"), lambda answer: answer_body(answer, model, chat=chat)
    )


def _count_words(contents: list[str]) -> int:
    return sum(len(content.split()) for content in contents)


def _question(prompt: str) -> str:
    """Take the last user's turn out of a prompt in the Llama 3 layout; any other prompt is one turn."""
    return prompt.rpartition(USER_HEADER)[2].partition(END_OF_TURN)[0].strip() if USER_HEADER in prompt else prompt


def _tgi(text: str, parameters: Mapping[str, Any]) -> ParsedRequest:
    """Read TGI's own call, as strict as its router; that returns the prompt as well, unless told not to."""
    temperature, top_p = parameters.get("temperature"), parameters.get("top_p")
    if temperature is not None and temperature <= 0:
        raise _tgi_error("`temperature` must be strictly positive")
    if top_p is not None and not 0 < top_p < 1:
        raise _tgi_error("`top_p` must be > 0.0 and < 1.0")
    limit = parameters.get("max_new_tokens")
    if limit is not None and limit <= 0:
        raise _tgi_error("`max_new_tokens` must be strictly positive")
    if not text:
        raise _tgi_error("`inputs` cannot be empty")
    before = text if parameters.get("return_full_text", True) else ""
    return ParsedRequest(
        _question(text), _count_words([text]), limit, lambda answer: [_generated_body(before, answer, parameters)]
    )


def _tgi_error(message: str) -> ServiceError:
    return ServiceError(424, f"Input validation error: {message}", original_status=422)


def _lmi(text: str, parameters: Mapping[str, Any]) -> ParsedRequest:
    limit = parameters.get("max_new_tokens", LMI_TOKENS)
    before = text if parameters.get("return_full_text") else ""
    return ParsedRequest(
        _question(text), _count_words([text]), limit, lambda answer: _generated_body(before, answer, parameters)
    )


def _generated_body(before: str, answer: ModelAnswer, parameters: Mapping[str, Any]) -> dict[str, object]:
    """Lay an answer out as TGI and LMI do; details come to those who asked for them."""
    finish = CONTAINER_REASONS.get(answer.finish_reason, answer.finish_reason)
    details = {"finish_reason": finish, "generated_tokens": answer.completion_tokens, "prefill": [], "tokens": []}
    return {"generated_text": before + answer.text, **({"details": details} if parameters.get("details") else {})}


def _converse(turns: list[Any], body: Mapping[str, Any]) -> ParsedRequest:
    contents = []
    for turn in [{"role": "user", "content": body.get("system", [])}, *turns]:
        match turn:
            case {"role": "user" | "assistant", "content": [*blocks]} if all(_is_text(block) for block in blocks):
                contents += ["".join(block["text"] for block in blocks)]
            case _:
                raise ServiceError(400, f"The value at messages is not a role with blocks of text: {turn}"[:300])
    if not turns or turns[0]["role"] != "user" or not all(content.strip() for content in contents[1:]):
        raise ServiceError(400, "A conversation must start with a user message, and no text may be blank.")
    settings = body.get("inferenceConfig", {})
    if not (0 <= settings.get("temperature", 0) <= 1 and 0 <= settings.get("topP", 1) <= 1):
        raise ServiceError(400, "inferenceConfig: temperature and topP must lie in 0..1")
    return ParsedRequest(contents[-1], _count_words(contents), settings.get("maxTokens"), _converse_body)


def _is_text(block: object) -> bool:
    match block:
        case {"text": str()}:
            return True
    return False


def _converse_body(answer: ModelAnswer) -> dict[str, object]:
    blocks = [{"text": answer.text}] if answer.text else []
    return {
        "output": {"message": {"role": "assistant", "content": blocks}},
        "stopReason": CONVERSE_REASONS.get(answer.finish_reason, answer.finish_reason),
        "usage": {
            "inputTokens": answer.prompt_tokens,
            "outputTokens": answer.completion_tokens,
            "totalTokens": answer.prompt_tokens + answer.completion_tokens,
        },
        "metrics": {"latencyMs": 1},
    }


def _llama(prompt: str, body: Mapping[str, Any]) -> ParsedRequest:
    return ParsedRequest(_question(prompt), _count_words([prompt]), body.get("max_gen_len", LLAMA_TOKENS), _llama_body)


def _llama_body(answer: ModelAnswer) -> dict[str, object]:
    is_filtered = answer.finish_reason == "content_filter"
    return {
        "generation": answer.text,
        "prompt_token_count": answer.prompt_tokens,
        "generation_token_count": answer.completion_tokens,
        "stop_reason": "stop" if is_filtered else answer.finish_reason,
        **({"amazon-bedrock-guardrailAction": "INTERVENED"} if is_filtered else {}),
    }


def render(path: str, answer: ModelAnswer, lay_out: Callable[[ModelAnswer], object]) -> RawResponse:
    """Lay an answer out; the services add what they know to the headers."""
    extra: Headers = []
    match service_of(path):
        case "sagemaker":
            extra = [(b"x-amzn-invoked-production-variant", b"AllTraffic")]
        case "bedrock" if path.endswith("/invoke"):
            counts = {"input": answer.prompt_tokens, "output": answer.completion_tokens}
            extra = [
                (b"x-amzn-bedrock-%s-token-count" % kind.encode(), b"%d" % count) for kind, count in counts.items()
            ]
    return RawResponse(200, json_headers(extra), json.dumps(lay_out(answer), separators=(",", ":")).encode())
