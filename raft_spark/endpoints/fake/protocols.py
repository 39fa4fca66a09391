"""The body of a call -> ParsedRequest; an answer -> the body of a response: the server's side of three services.

    /v1/chat/completions, /v1/completions      OpenAI
    /v1/embeddings                             OpenAI
    /endpoints/NAME/invocations                SageMaker: TGI's or LMI's {"inputs"}, or OpenAI's two
    /model/ID/converse, /model/ID/invoke       Bedrock: Converse; Llama's own {"prompt", "max_gen_len"}, OpenAI's two, or
                                               Titan's {"inputText"} for an embedding

Sources: botocore's models of sagemaker-runtime and bedrock-runtime (rest-json); TGI's router (validation and defaults);
the LMI documents of djl-serving; Bedrock's user guide on Llama and imported models.
"""

import base64
import json
import math
import zlib
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from raft_spark.endpoints.fake.errors import Headers, RawResponse, ServiceError, json_headers, service_of
from raft_spark.endpoints.local.process import ModelAnswer, answer_body

LMI_TOKENS = 30  # LMI's default of max_new_tokens
LLAMA_TOKENS = 512  # Llama's default of max_gen_len
EMBEDDING_TOKENS = 8192  # of the longest text
DIMENSIONS = 256
USER_HEADER, END_OF_TURN = "<|start_header_id|>user<|end_header_id|>", "<|eot_id|>"
CONTAINER_REASONS = {"stop": "eos_token"}
CONVERSE_REASONS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "guardrail_intervened"}


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A parsed call.

    `question` is the user's last message, `prompt_tokens` the number of words in all messages, `limit` the most tokens
    of the answer, and `render` turns an answer into the service's schema.
    """

    question: str
    prompt_tokens: int
    limit: int | None
    render: Callable[[ModelAnswer], object]
    is_embedding: bool = False


def caller_key(path: str, headers: Mapping[bytes, bytes], body: bytes) -> str:
    """Return the caller's key of the request, from a header or the metadata, "" if it sent none."""
    name = {"openai": b"idempotency-key", "sagemaker": b"x-amzn-sagemaker-inference-id"}.get(service_of(path), b"")
    if name in headers:
        return headers[name].decode("latin-1")
    if service_of(path) == "bedrock":
        metadata = headers.get(b"x-amzn-bedrock-request-metadata") or (body if b'"requestMetadata"' in body else b"")
        match _json_or_none(metadata):
            case {"requestMetadata": {"key": str(key)}} | {"key": str(key)}:
                return key
    return ""


def parse(path: str, body: bytes, container: str) -> ParsedRequest:
    """Parse a call as its service does. Raises ServiceError for a body that the real service would refuse."""
    parsed = _json_or_none(body)
    try:
        request = _parse_body(path, parsed, container) if isinstance(parsed, dict) else None
    except (AttributeError, KeyError, TypeError):  # a value has another type than it must have
        request = None
    if request is None:
        raise _invalid(path, f"{path} does not take this body: {body[:100].decode(errors='replace')}")
    return request


def _json_or_none(body: bytes) -> Any:  # noqa: ANN401 - any JSON
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _invalid(path: str, message: str) -> ServiceError:
    return ServiceError(400, message, original_status=400 if service_of(path) == "sagemaker" else 0)


def _parse_body(path: str, body: Mapping[str, Any], container: str) -> ParsedRequest | None:
    service = service_of(path)
    if path == "/v1/embeddings" or (service == "bedrock" and "inputText" in body):
        return _embedding(body["input" if service == "openai" else "inputText"], body, path)
    if service == "openai":
        return _openai(body, body["model"], chat=path.endswith("/chat/completions"))
    if path.endswith("/converse"):
        return _converse(body["messages"], body)
    if service == "sagemaker" and "inputs" in body:
        return (_tgi if container == "tgi" else _lmi)(body["inputs"], body.get("parameters") or {})
    if service == "bedrock" and "prompt" in body and "max_tokens" not in body:
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
    """Return the last user turn of a prompt in the Llama 3 template; any other prompt is one turn."""
    return prompt.rpartition(USER_HEADER)[2].partition(END_OF_TURN)[0].strip() if USER_HEADER in prompt else prompt


def _tgi(text: str, parameters: Mapping[str, Any]) -> ParsedRequest:
    """Parse a call of TGI as strictly as its router. TGI returns the prompt too, unless return_full_text is false."""
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
    prefix = text if parameters.get("return_full_text", True) else ""
    return ParsedRequest(
        _question(text), _count_words([text]), limit, lambda answer: [_generated_body(prefix, answer, parameters)]
    )


def _tgi_error(message: str) -> ServiceError:
    return ServiceError(424, f"Input validation error: {message}", original_status=422)


def _lmi(text: str, parameters: Mapping[str, Any]) -> ParsedRequest:
    limit = parameters.get("max_new_tokens", LMI_TOKENS)
    prefix = text if parameters.get("return_full_text") else ""
    return ParsedRequest(
        _question(text), _count_words([text]), limit, lambda answer: _generated_body(prefix, answer, parameters)
    )


def _generated_body(prefix: str, answer: ModelAnswer, parameters: Mapping[str, Any]) -> dict[str, object]:
    """Return an answer in the schema of TGI and LMI, with details if the request asks for them."""
    finish = CONTAINER_REASONS.get(answer.finish_reason, answer.finish_reason)
    details = {"finish_reason": finish, "generated_tokens": answer.completion_tokens, "prefill": [], "tokens": []}
    return {"generated_text": prefix + answer.text, **({"details": details} if parameters.get("details") else {})}


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


def _embedding(text: str, body: Mapping[str, Any], path: str) -> ParsedRequest:
    """Embed one text as strictly as the services do: an empty text or one that is too long is refused."""
    words, model = text.casefold().split(), body["model"] if "input" in body else ""
    if not words or len(words) > EMBEDDING_TOKENS:
        message = f"This model's maximum context length is {EMBEDDING_TOKENS} tokens, and a text must have one; you sent {len(words)}."
        raise _invalid(path, message)
    vector = _bag_of_words(words, body.get("dimensions", DIMENSIONS))
    encoded = base64.b64encode(vector).decode() if body.get("encoding_format") == "base64" else vector.tolist()

    def render(answer: ModelAnswer) -> dict[str, object]:
        if "inputText" in body:
            return {"embedding": encoded, "inputTextTokenCount": answer.prompt_tokens}
        usage = {"prompt_tokens": answer.prompt_tokens, "total_tokens": answer.prompt_tokens}
        data = [{"object": "embedding", "index": 0, "embedding": encoded}]
        return {"object": "list", "model": model, "data": data, "usage": usage}

    return ParsedRequest(text, len(words), None, render, is_embedding=True)


def _bag_of_words(words: list[str], dimensions: int) -> "array[float]":
    """Return how often words of each hash occur, as a vector of length 1: texts that share words are near."""
    counts = array("f", bytes(4 * dimensions))
    for word in words:
        counts[zlib.crc32(word.encode()) % dimensions] += 1
    length = math.hypot(*counts)
    return array("f", (count / length for count in counts))


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


def render(path: str, answer: ModelAnswer, to_body: Callable[[ModelAnswer], object]) -> RawResponse:
    """Return the response for an answer, with the headers that its service adds."""
    extra: Headers = []
    match service_of(path):
        case "sagemaker":
            extra = [(b"x-amzn-invoked-production-variant", b"AllTraffic")]
        case "bedrock" if path.endswith("/invoke"):
            counts = {"input": answer.prompt_tokens, "output": answer.completion_tokens}
            extra = [
                (b"x-amzn-bedrock-%s-token-count" % kind.encode(), b"%d" % count) for kind, count in counts.items()
            ]
    return RawResponse(200, json_headers(extra), json.dumps(to_body(answer), separators=(",", ":")).encode())
