"""Request -> a made-up answer over HTTP, as OpenAI, SageMaker or Bedrock lay it out, and trouble on request.

python -m raft_spark.endpoints.fake '{"kind": "fake", "latency_ms": 5}' ['{"capacity": 50}']

The answer is a function of the request alone: the first two sentences of what the user said and a hash of all that
was sent. How it is laid out is told in `protocols` and `trouble`, what can go wrong in `behaviour`. Beside the services'
own routes:

    POST /behave        a Behaviour or a list of them: the next calls misbehave; {} is good behaviour
    POST /manner        some fields of a Manner: they change, the others stay; GET tells them all
    GET /calls          what was asked and what became of it; DELETE forgets it
    GET /calls/keys     the same for each request, by the caller's own key for it, else by hash
    GET /calls/seconds  the same for each second: [second, calls, answered, throttled]
    POST /jobs/behave, GET /jobs/records        of Bedrock's batch jobs, see `fake_jobs`
"""

import asyncio
import logging
import re
import sys
import time
from dataclasses import dataclass
from hashlib import sha256

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from raft_spark.config import Endpoint
from raft_spark.endpoints.fake import batch_jobs, protocols
from raft_spark.endpoints.fake.errors import (
    TOO_MANY_REQUESTS,
    RawResponse,
    ServiceError,
    error_response,
    json_headers,
    service_of,
)
from raft_spark.endpoints.fake.faults import Draw, FaultRule, FaultSchedule, ServerOptions, TokenBucket, draw
from raft_spark.endpoints.fake.protocols import ParsedRequest
from raft_spark.endpoints.fake.stats import RequestName, ServerStats
from raft_spark.endpoints.local.process import ModelAnswer, error_body, serve

MODEL_ROUTES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/endpoints/{name}/invocations",
    "/model/{model:path}/converse",
    "/model/{model:path}/invoke",
)
FALSE_LENGTH = (b"content-length", b"1000")  # promised, and then the connection is closed
FILTERED_TEXT = "This cannot be answered."
SENTENCE = re.compile(r"(?<=[.!?])\s+")
SLOW_PIECES = 20  # of a body that drips


@dataclass(frozen=True, slots=True)
class IncomingCall:
    """A call and the way back to its caller."""

    path: str
    headers: dict[bytes, bytes]
    sent: bytes
    name: RequestName
    receive: Receive
    send: Send

    async def is_left(self, seconds: float | None) -> bool:
        """Wait, and say whether the caller left meanwhile; with None, wait until it does."""
        try:
            async with asyncio.timeout(seconds):
                while (await self.receive())["type"] != "http.disconnect":
                    pass
        except TimeoutError:
            return False
        return True


class FakeServer:
    """What was asked so far, and how to behave next. Called with an ASGI scope, it answers a call of any service."""

    def __init__(self, manner: ServerOptions) -> None:
        self._manner = manner
        self._temper = FaultSchedule()
        self._counts = ServerStats()
        self._bucket = TokenBucket()
        self._busy = 0  # calls open, without those turned away

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a call, or fail as told."""
        path, headers, sent = scope["path"], dict(scope["headers"]), await _read_body(receive)
        digest = sha256(path.encode() + sent).hexdigest()[:16]
        call = IncomingCall(
            path, headers, sent, RequestName(digest, protocols.caller_key(path, headers, sent) or digest), receive, send
        )
        attempt = self._counts.came(call.name, scope["client"])
        try:
            if self._is_full():
                busy = ServiceError(
                    TOO_MANY_REQUESTS, "Too many requests, please wait.", retry_after=self._manner.retry_after or None
                )
                await self._sent(call, error_response(path, busy), FaultRule())
            else:
                await self._admitted(call, draw(digest, attempt))
        finally:
            self._counts.went()

    def _is_full(self) -> bool:
        capacity, rate = self._manner.capacity, self._manner.requests_per_second
        if capacity and self._busy >= capacity:
            return True
        return bool(rate) and not self._bucket.take(rate, time.monotonic())

    async def _admitted(self, call: IncomingCall, drawn: Draw) -> None:
        self._busy += 1
        try:
            await self._answered(call, self._temper.next(drawn), self._manner.seconds(drawn))
        finally:
            self._busy -= 1

    async def _answered(self, call: IncomingCall, behaviour: FaultRule, seconds: float) -> None:
        if behaviour.fault == "hang":
            self._counts.hung()
            await call.is_left(None)
        elif not (seconds and await call.is_left(seconds)):
            bad = _fault_response(behaviour, call, self._manner.container)
            laid = bad or self._laid(call, behaviour)
            if await self._sent(call, laid, behaviour) and not bad and laid.status == 200:  # noqa: PLR2004 - OK
                self._counts.answered(call.name)

    def _laid(self, call: IncomingCall, behaviour: FaultRule) -> RawResponse:
        try:
            asked = protocols.parse(call.path, call.sent, self._manner.container)
        except ServiceError as trouble:
            return error_response(call.path, trouble, self._manner.container)
        echo = self._manner.echo or behaviour.fault == "echo"
        return protocols.render(call.path, _make_answer(asked, call.name.digest, behaviour, echo=echo), asked.lay_out)

    async def _sent(self, call: IncomingCall, laid: RawResponse, behaviour: FaultRule) -> bool:
        """Send a response as far as the behaviour goes; say whether it went out whole, to a caller still there."""
        self._counts.began(laid.status, throttled=laid.throttled)
        body, drops = laid.body, behaviour.fault == "drop"
        length = FALSE_LENGTH if drops else (b"content-length", b"%d" % len(body))
        trace = [] if service_of(call.path) == "openai" else [(b"x-amzn-requestid", call.name.digest.encode())]
        headers = [*laid.headers, length, *trace]
        await call.send({"type": "http.response.start", "status": laid.status, "headers": headers})
        if drops:
            return False
        if behaviour.fault == "half":
            await call.send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
            return False
        if behaviour.fault == "slow" and not await _send_slowly(call, body, behaviour.seconds):
            return False
        await call.send({"type": "http.response.body", "body": b"" if behaviour.fault == "slow" else body})
        return True

    async def calls(self, request: Request) -> Response:
        """Tell what came and what became of it, or forget it."""
        if request.method == "DELETE":
            self._counts.reset()
        return JSONResponse(self._counts.told())

    async def keys(self, _: Request) -> Response:
        """Tell it for each key."""
        return JSONResponse(self._counts.keys())

    async def seconds(self, _: Request) -> Response:
        """Tell it for each second."""
        return JSONResponse(self._counts.seconds())

    async def behave(self, request: Request) -> Response:
        """Take a Behaviour, or a list of them."""
        try:
            told = await request.json()
            behaviours = [FaultRule.model_validate(one) for one in (told if isinstance(told, list) else [told])]
            self._temper = FaultSchedule(behaviours)
        except ValueError as error:  # a ValidationError is one, too
            return JSONResponse(error_body(str(error)), 400)
        return JSONResponse({})

    async def manner(self, request: Request) -> Response:
        """Tell the Manner, after changing what is sent of it."""
        try:
            changed = await request.json() if request.method == "POST" else {}
            self._manner = ServerOptions.model_validate({**self._manner.model_dump(), **changed})
        except (TypeError, ValueError) as error:
            return JSONResponse(error_body(str(error)), 400)
        return JSONResponse(self._manner.model_dump())


async def _read_body(receive: Receive) -> bytes:
    """Read what was sent, as far as it came."""
    message = await receive()
    pieces = [message.get("body", b"")]
    while message.get("more_body"):
        message = await receive()
        pieces.append(message.get("body", b""))
    return b"".join(pieces)


def _fault_response(behaviour: FaultRule, call: IncomingCall, container: str) -> RawResponse | None:
    """Return what goes wrong with this call before it is even read, None when nothing does."""
    key = call.headers.get(b"authorization", b"").decode("latin-1").removeprefix("Bearer ")
    wait, status, original = behaviour.retry_after, behaviour.status, behaviour.original_status
    if behaviour.key and key != behaviour.key:
        return error_response(call.path, ServiceError(401, f"Incorrect API key provided: {key}"))
    if behaviour.body is not None:
        return RawResponse(
            status, json_headers([], wait), behaviour.body.encode(), throttled=status == TOO_MANY_REQUESTS
        )
    if status != 200 or original:  # noqa: PLR2004 - OK
        message = f"told to fail with {original or status}"
        return error_response(call.path, ServiceError(status, message, behaviour.error, original, wait), container)
    if behaviour.fault == "garbage":
        return RawResponse(200, json_headers([]), b'{"choices": [{"message": {"content": "As far')
    return None


def _make_answer(asked: ParsedRequest, digest: str, behaviour: FaultRule, *, echo: bool) -> ModelAnswer:
    """Make up the answer to the last thing said; a token is a word."""
    said = asked.question if echo else " ".join(SENTENCE.split(asked.question.strip(), 2)[:2])
    words = f"{said} [{digest[:8]}]".split()
    limit = len(words) if echo else asked.limit or len(words)
    if behaviour.fault == "truncated":
        limit = min(limit, max(1, len(words) // 2))
    finish = {"filtered": "content_filter", "error": "error"}.get(behaviour.fault)
    made_up = f"{said} [{digest[:8]}]" if echo and limit >= len(words) else " ".join(words[:limit])
    text = {"filtered": FILTERED_TEXT, "error": "", "empty": ""}.get(behaviour.fault, made_up)
    return ModelAnswer(
        text=text if behaviour.text is None else behaviour.text,
        finish_reason=behaviour.finish_reason or finish or ("length" if len(words) > limit else "stop"),
        prompt_tokens=asked.prompt_tokens,
        completion_tokens=min(limit, len(words)),
    )


async def _send_slowly(call: IncomingCall, body: bytes, seconds: float) -> bool:
    """Send a body piece by piece; say whether the caller stayed for all of it."""
    size = max(1, -(-len(body) // SLOW_PIECES))
    for start in range(0, len(body), size):
        if await call.is_left(seconds / SLOW_PIECES):
            return False
        await call.send({"type": "http.response.body", "body": body[start : start + size], "more_body": True})
    return True


def application(manner: ServerOptions) -> Starlette:
    """Return the fake server."""
    quiet = logging.getLogger(
        "uvicorn.error"
    )  # which complains of each answer that is broken off, as it was told to be
    quiet.addFilter(lambda record: "without completing response" not in record.getMessage())
    fake = FakeServer(manner)
    return Starlette(
        routes=[
            *(Route(path, fake, methods=["POST"]) for path in MODEL_ROUTES),
            Route("/behave", fake.behave, methods=["POST"]),
            Route("/manner", fake.manner, methods=["GET", "POST"]),
            Route("/calls", fake.calls, methods=["GET", "DELETE"]),
            Route("/calls/keys", fake.keys),
            Route("/calls/seconds", fake.seconds),
            *batch_jobs.routes(),
        ]
    )


if __name__ == "__main__":
    conf = Endpoint.model_validate_json(sys.argv[1])
    chosen = ServerOptions.model_validate_json(sys.argv[2] if sys.argv[2:] else "{}")
    serve(application(chosen.model_copy(update={"latency_ms": conf.latency_ms})))
