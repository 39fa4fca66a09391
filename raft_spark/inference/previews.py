"""Send the teacher the request for one row of the base table, and return the request and its answer. Store nothing."""

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from raft_spark import config, endpoints
from raft_spark.endpoints import outgoing
from raft_spark.endpoints.base import Message
from raft_spark.errors import EndpointError
from raft_spark.lake import browse, schemas, tables
from raft_spark.recipe import prompts


@dataclass(frozen=True, slots=True)
class Preview:
    """One request to the teacher and its answer.

    Attributes:
        pubid: The article of the question.
        prompt: The messages of the request, each with `role` and `content`; one text if completions.template is "llama3".
        completion: The answer.
        finish_reason: `stop` if the answer ended by itself, `length` if `completions.max_new_tokens` cut it, None if the
            teacher does not say how it ended.
        seconds: The time until the teacher answered.
        prompt_tokens: Tokens of the prompt, None if the teacher does not count them.
        completion_tokens: Tokens of the answer, None if the teacher does not count them.
        key: The key under which a run would store this answer.
        url: The address that was called.
        headers: The headers of the call, with stars in place of a key or a signature.
        body: The body of the call, as it was sent.
    """

    pubid: int
    prompt: str | Sequence[Message]
    completion: str
    finish_reason: str | None
    seconds: float
    prompt_tokens: int | None
    completion_tokens: int | None
    key: str
    url: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]


def ask(conf: config.Config, pubid: int | None = None) -> Preview:
    """Ask the question of an article, by default of the first one in the train split.

    Raises InputError if there is no base table or it does not hold the article, EndpointError if the teacher gives no
    answer.
    """
    row = browse.first_row(conf.lake, tables.require(conf.lake, schemas.BASE), pubid)
    with (
        endpoints.serving(conf.teacher) as endpoint,
        closing(endpoints.connect(endpoint, 1, conf.completions.timeout_seconds)) as client,
    ):
        request = prompts.teacher_request(row["question"], row["oracle"], endpoint.model, conf.teacher_requests)
        call = outgoing.describe(endpoint, request)
        begin = time.monotonic()
        reply = client.ask(request)
        seconds = time.monotonic() - begin
    if reply.completion is None:
        msg = f"endpoint {conf.completions.endpoint!r} gave no answer ({reply.error_class}): {reply.error}; the call was {call.without_prompt()}"
        raise EndpointError(msg)
    return Preview(
        row["pubid"],
        request.prompt,
        reply.completion,
        reply.finish_reason,
        seconds,
        reply.prompt_tokens,
        reply.completion_tokens,
        request.key,
        call.url,
        call.headers,
        call.body,
    )
