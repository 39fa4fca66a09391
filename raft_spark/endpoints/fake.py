"""Request -> a made-up answer over HTTP: OpenAI's chat and completions calls, and trouble on request.

python -m raft_spark.endpoints.fake '{"kind": "fake", "latency_ms": 5}'

The answer is a function of the request alone: the first two sentences of what the user said and a hash of all that
was sent. GET /calls tells what was asked; POST /behave takes a Behaviour and makes the next calls misbehave. Another
protocol is another route beside the two in `application`.
"""

import asyncio
import json
import re
import sys
from collections import Counter
from dataclasses import dataclass
from hashlib import sha256

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from raft_spark.config import Endpoint
from raft_spark.endpoints.server import Answer, answer_body, error_body, serve

DROPPED = {"content-length": "1000"}  # promised, and then the connection is closed


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How calls go wrong: `share` of them (chosen by hash, anew at each attempt), the next `for_calls` (0 = all).

    status: anything but 200 is an error, with `retry_after` as its header; body: sent as it is; text, finish_reason:
    in place of the made-up ones; fault: `hang` (never answers) or `drop` (closes the connection in mid-answer);
    key: calls without this bearer key get status 401, which repeats the key they came with.
    """

    status: int = 200
    retry_after: str | None = None
    body: str | None = None
    text: str | None = None
    finish_reason: str | None = None
    fault: str = ""
    key: str = ""
    share: float = 1.0
    for_calls: int = 0


class Fake:
    """What was asked so far, and how to behave next."""

    def __init__(self, latency_ms: float) -> None:
        self._seconds = latency_ms / 1000
        self._asked: Counter[str] = Counter()
        self._answered: Counter[str] = Counter()
        self._callers: set[object] = set()
        self._behaviour = Behaviour()
        self._calls_left = 0

    async def complete(self, request: Request) -> Response:
        """Answer a chat or a completions call, or fail as told."""
        sent = await request.body()
        digest = sha256(request.url.path.encode() + sent).hexdigest()[:16]
        self._asked[digest] += 1
        self._callers.add(request.client)
        behaviour = self._next(digest)
        await asyncio.sleep(self._seconds)
        if trouble := await _trouble(behaviour, request):
            return trouble
        chat = request.url.path.endswith("/chat/completions")
        try:
            body = json.loads(sent)
            model = body["model"]
            contents = [message["content"] for message in body["messages"]] if chat else [body["prompt"]]
        except (KeyError, ValueError) as error:
            return JSONResponse(error_body(f"{request.url.path} does not take this body: {error!r}"), 400)
        self._answered[digest] += 1
        answer = _answer(contents, body.get("max_tokens"), digest, behaviour)
        return JSONResponse(answer_body(answer, model, chat=chat))

    async def calls(self, _: Request) -> Response:
        """Tell how many calls came, how many were answered, of how many requests, and which of these more than once."""
        return JSONResponse(
            {
                "calls": self._asked.total(),
                "answered": self._answered.total(),
                "distinct": len(self._asked),
                "repeated": sorted(digest for digest, times in self._answered.items() if times > 1),
                "connections": len(self._callers),
            }
        )

    async def behave(self, request: Request) -> Response:
        """Take the fields of a Behaviour; {} is good behaviour."""
        try:
            self._behaviour = Behaviour(**await request.json())
        except (TypeError, ValueError) as error:
            return JSONResponse(error_body(str(error)), 400)
        self._calls_left = self._behaviour.for_calls
        return JSONResponse({})

    def _next(self, digest: str) -> Behaviour:
        chance = int(sha256(f"{digest} {self._asked[digest]}".encode()).hexdigest()[:8], 16) / 16**8
        if chance >= self._behaviour.share:
            return Behaviour()
        now = self._behaviour
        if self._calls_left:
            self._calls_left -= 1
            self._behaviour = now if self._calls_left else Behaviour()
        return now


async def _trouble(behaviour: Behaviour, request: Request) -> Response | None:
    """Return what goes wrong with this call, None when nothing does."""
    key = request.headers.get("authorization", "").removeprefix("Bearer ")
    if behaviour.key and key != behaviour.key:
        return JSONResponse(error_body(f"Incorrect API key provided: {key}"), 401)
    if behaviour.fault == "hang":
        await request.receive()  # the body is read, so what comes next is the caller's end
    if behaviour.fault:
        return StreamingResponse(iter(()), headers=DROPPED)
    headers = {"retry-after": behaviour.retry_after} if behaviour.retry_after else None
    if behaviour.body is not None:
        return Response(behaviour.body, behaviour.status, headers, "application/json")
    if behaviour.status != 200:  # noqa: PLR2004 - OK
        return JSONResponse(error_body(f"told to fail with {behaviour.status}"), behaviour.status, headers)
    return None


def _answer(contents: list[str], max_tokens: int | None, digest: str, behaviour: Behaviour) -> Answer:
    """Make up the answer to the last of `contents`; a token is a word."""
    sentences = re.split(r"(?<=[.!?])\s+", contents[-1].strip())
    words = f"{' '.join(sentences[:2])} [{digest[:8]}]".split()
    limit = max_tokens or len(words)
    return Answer(
        text=" ".join(words[:limit]) if behaviour.text is None else behaviour.text,
        finish_reason=behaviour.finish_reason or ("length" if len(words) > limit else "stop"),
        prompt_tokens=sum(len(content.split()) for content in contents),
        completion_tokens=min(limit, len(words)),
    )


def application(conf: Endpoint) -> Starlette:
    """Return the fake server."""
    fake = Fake(conf.latency_ms)
    return Starlette(
        routes=[
            Route("/v1/chat/completions", fake.complete, methods=["POST"]),
            Route("/v1/completions", fake.complete, methods=["POST"]),
            Route("/calls", fake.calls),
            Route("/behave", fake.behave, methods=["POST"]),
        ]
    )


if __name__ == "__main__":
    serve(application(Endpoint.model_validate_json(sys.argv[1])))
