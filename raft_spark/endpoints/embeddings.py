"""A request to embed a text -> the body of its call; the JSON value of the answer -> a Reply whose text is the vector.

The text is base64 of little-endian float32. Sources of the protocols:
    openai  OpenAI's API reference, "Create embeddings"; its numbers are a list, or base64 if parameters.encoding_format says so
    titan   Amazon Bedrock user guide, "Amazon Titan Text Embeddings models": inputText; dimensions and normalize for V2
"""

import base64
import binascii
import math
from array import array
from typing import Any

from raft_spark.common.nested import merge
from raft_spark.endpoints import failures
from raft_spark.endpoints.base import Reply, Request
from raft_spark.endpoints.responses import failed_reply, message_in, token_count

MOST_NUMBERS = 16_384  # of a vector


def openai_body(request: Request) -> dict[str, Any]:
    """Return the body of /v1/embeddings."""
    return merge({"model": request.model, "input": request.prompt}, request.changes.add)


def titan_body(request: Request) -> dict[str, Any]:
    """Return the body of InvokeModel for Titan."""
    return merge({"inputText": request.prompt}, request.changes.add)


def openai_reply(answer: Any) -> Reply:  # noqa: ANN401 - any JSON
    """Read the first vector of /v1/embeddings."""
    if failed := failures.failure_in(answer):
        return failed
    match answer:
        case {"data": [{"embedding": list() | str() as vector}, *_]}:
            return _vector_reply(vector, token_count(answer.get("usage"), "prompt_tokens"))
    return failed_reply("model_error", f"the answer has no embedding: {message_in(answer)}")


def titan_reply(answer: Any) -> Reply:  # noqa: ANN401 - any JSON
    """Read the vector of Titan."""
    match answer:
        case {"embedding": list() as vector}:
            return _vector_reply(vector, token_count(answer, "inputTextTokenCount"))
    return failed_reply("model_error", f"the answer has no embedding: {message_in(answer)}")


def _vector_reply(vector: list[Any] | str, tokens: int | None) -> Reply:
    """Return the reply of a vector. An embedding writes no tokens, so its 0 tokens are counted."""
    try:
        data = base64.b64decode(vector, validate=True) if isinstance(vector, str) else array("f", vector).tobytes()
        numbers = array("f", data)
    except (binascii.Error, TypeError, ValueError, OverflowError) as error:
        return failed_reply("model_error", f"the embedding is no list of numbers: {error}")
    if not (0 < len(numbers) <= MOST_NUMBERS and any(numbers) and all(map(math.isfinite, numbers))):
        problem = f"the embedding has {len(numbers)} numbers; it must have 1 to {MOST_NUMBERS:,}, finite and not all 0"
        return failed_reply("model_error", problem)
    return Reply(base64.b64encode(data).decode(), "stop", prompt_tokens=tokens or None, completion_tokens=0)
