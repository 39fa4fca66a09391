"""Serve made-up answers over HTTP as OpenAI, SageMaker and Bedrock do, with faults on request.

python -m raft_spark.endpoints.fake.app '{"kind": "fake", "latency_ms": 5}' ['{"capacity": 50}']

An answer is a function of its request: the first two sentences of the user's last message and a hash of all that was
sent. `protocols` and `errors` have the schemas of the services, `faults` what can go wrong. The server has these routes
of its own:

    POST /behave        a FaultRule or a list of them for the next calls; {} ends all faults
    POST /manner        fields of ServerOptions to change; GET returns all fields
    GET /calls          the number of calls and their outcomes; DELETE resets them
    GET /calls/keys     the outcomes by the caller's key of the request, else by its hash
    GET /calls/seconds  the outcomes by second: [second, calls, answered, throttled]
    GET /calls/tokens   the tokens by second: [second, prompt tokens, completion tokens], of all answers that it made,
                        also of those that the caller did not receive: what a service bills
    POST /jobs/behave, GET /jobs/records        for Bedrock's batch jobs, see `batch_jobs`
    POST /batches/behave, GET /batches/records  for OpenAI's, see `openai_batches`
    POST /async/behave, GET /async/records      for SageMaker's asynchronous endpoints, see `sagemaker_async`
"""

import asyncio
import logging
import re
import sys
import time
from dataclasses import dataclass, replace
from hashlib import sha256

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from raft_spark.config import Endpoint
from raft_spark.endpoints.fake import batch_jobs, openai_batches, protocols, sagemaker_async
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
    "/v1/embeddings",
    "/endpoints/{name}/invocations",
    "/model/{model:path}/converse",
    "/model/{model:path}/invoke",
)
FALSE_LENGTH = (b"content-length", b"1000")  # announced before the connection is closed without a body
FILTERED_TEXT = "This cannot be answered."
SENTENCE = re.compile(r"(?<=[.!?])\s+")
SLOW_PIECES = 20  # into which the fault `slow` divides a body


@dataclass(frozen=True, slots=True)
class IncomingCall:
    """A call, and the ASGI functions that receive from its caller and send to it."""

    path: str
    headers: dict[bytes, bytes]
    body: bytes
    name: RequestName
    receive: Receive
    send: Send

    async def is_disconnected_within(self, seconds: float | None) -> bool:
        """Wait for `seconds`, or without end for None; return early, and True, when the caller disconnects."""
        try:
            async with asyncio.timeout(seconds):
                while (await self.receive())["type"] != "http.disconnect":
                    pass
        except TimeoutError:
            return False
        return True


class FakeServer:
    """The options, the faults and the counts of the server. As an ASGI application it answers a call of any service."""

    def __init__(self, options: ServerOptions) -> None:
        self._options = options
        self._faults = FaultSchedule()
        self._stats = ServerStats()
        self._bucket = TokenBucket()
        self._admitted = 0  # open calls, without the throttled ones

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a call, or fail as the fault rules say."""
        path, headers, body = scope["path"], dict(scope["headers"]), await _read_body(receive)
        digest = sha256(path.encode() + body).hexdigest()[:16]
        name = RequestName(digest, protocols.caller_key(path, headers, body) or digest)
        call = IncomingCall(path, headers, body, name, receive, send)
        attempt = self._stats.count_call(name, scope["client"])
        try:
            if self._is_full():
                wait = self._options.retry_after or None
                error = ServiceError(TOO_MANY_REQUESTS, "Too many requests, please wait.", retry_after=wait)
                await self._send(call, error_response(path, error), FaultRule())
            else:
                await self._admit(call, draw(digest, attempt))
        finally:
            self._stats.count_end()

    def _is_full(self) -> bool:
        capacity, rate = self._options.capacity, self._options.requests_per_second
        if capacity and self._admitted >= capacity:
            return True
        return bool(rate) and not self._bucket.take(rate, time.monotonic())

    async def _admit(self, call: IncomingCall, drawn: Draw) -> None:
        self._admitted += 1
        try:
            await self._respond(call, self._faults.next(drawn), self._options.latency_seconds(drawn))
        finally:
            self._admitted -= 1

    async def _respond(self, call: IncomingCall, rule: FaultRule, seconds: float) -> None:
        if rule.fault == "hang":
            self._stats.count_hung()
            await call.is_disconnected_within(None)
        elif not (seconds and await call.is_disconnected_within(seconds)):
            failure = _fault_response(rule, call, self._options.container)
            response = failure or self._response(call, rule)
            is_sent = await self._send(call, response, rule)
            if is_sent and not failure and response.status == 200:  # noqa: PLR2004 - OK
                self._stats.count_answer(call.name)

    def _response(self, call: IncomingCall, rule: FaultRule) -> RawResponse:
        try:
            request = protocols.parse(call.path, call.body, self._options.container)
        except ServiceError as error:
            return error_response(call.path, error, self._options.container)
        echo = self._options.echo or rule.fault == "echo"
        answer = _make_answer(request, call.name.digest, rule, echo=echo)
        self._stats.count_tokens(answer.prompt_tokens, answer.completion_tokens)
        if rule.fault == "uncounted":
            answer = replace(answer, prompt_tokens=0, completion_tokens=0)
        return protocols.render(call.path, answer, request.render)

    async def _send(self, call: IncomingCall, response: RawResponse, rule: FaultRule) -> bool:
        """Send a response, in part only if the rule says so; return whether the caller got the whole of it."""
        self._stats.count_response(response.status, throttled=response.throttled)
        body, is_dropped = response.body, rule.fault == "drop"
        length = FALSE_LENGTH if is_dropped else (b"content-length", b"%d" % len(body))
        trace = [] if service_of(call.path) == "openai" else [(b"x-amzn-requestid", call.name.digest.encode())]
        headers = [*response.headers, length, *trace]
        await call.send({"type": "http.response.start", "status": response.status, "headers": headers})
        if is_dropped:
            return False
        if rule.fault == "half":
            await call.send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
            return False
        if rule.fault == "slow" and not await _send_slowly(call, body, rule.seconds):
            return False
        await call.send({"type": "http.response.body", "body": b"" if rule.fault == "slow" else body})
        return True

    async def calls(self, request: Request) -> Response:
        """Return the counts of all calls; DELETE resets them first."""
        if request.method == "DELETE":
            self._stats.reset()
        return JSONResponse(self._stats.summary())

    async def keys(self, _: Request) -> Response:
        """Return the counts by key."""
        return JSONResponse(self._stats.keys())

    async def seconds(self, _: Request) -> Response:
        """Return the counts by second."""
        return JSONResponse(self._stats.seconds())

    async def tokens(self, _: Request) -> Response:
        """Return the tokens by second."""
        return JSONResponse(self._stats.tokens())

    async def behave(self, request: Request) -> Response:
        """Replace the fault rules by one rule or a list of rules."""
        try:
            sent = await request.json()
            rules = [FaultRule.model_validate(rule) for rule in (sent if isinstance(sent, list) else [sent])]
            self._faults = FaultSchedule(rules)
        except ValueError as error:  # or a ValidationError, its subclass
            return JSONResponse(error_body(str(error)), 400)
        return JSONResponse({})

    async def manner(self, request: Request) -> Response:
        """Return the options; POST changes the fields that it sends first."""
        try:
            changes = await request.json() if request.method == "POST" else {}
            self._options = ServerOptions.model_validate({**self._options.model_dump(), **changes})
        except (TypeError, ValueError) as error:
            return JSONResponse(error_body(str(error)), 400)
        return JSONResponse(self._options.model_dump())


async def _read_body(receive: Receive) -> bytes:
    """Read the body of a call, as far as the caller sent it."""
    message = await receive()
    chunks = [message.get("body", b"")]
    while message.get("more_body"):
        message = await receive()
        chunks.append(message.get("body", b""))
    return b"".join(chunks)


def _fault_response(rule: FaultRule, call: IncomingCall, container: str) -> RawResponse | None:
    """Return the response of a fault that does not depend on the request, None when there is none."""
    key = call.headers.get(b"authorization", b"").decode("latin-1").removeprefix("Bearer ")
    wait, status, original = rule.retry_after, rule.status, rule.original_status
    if rule.key and key != rule.key:
        return error_response(call.path, ServiceError(401, f"Incorrect API key provided: {key}"))
    if rule.body is not None:
        is_throttled = status == TOO_MANY_REQUESTS
        return RawResponse(status, json_headers([], wait), rule.body.encode(), throttled=is_throttled)
    if status != 200 or original:  # noqa: PLR2004 - OK
        message = f"told to fail with {original or status}"
        return error_response(call.path, ServiceError(status, message, rule.error, original, wait), container)
    if rule.fault == "garbage":
        return RawResponse(200, json_headers([]), b'{"choices": [{"message": {"content": "As far')
    return None


def _make_answer(request: ParsedRequest, digest: str, rule: FaultRule, *, echo: bool) -> ModelAnswer:
    """Make up the answer to the user's last message; a token is a word. An embedding writes none."""
    if request.is_embedding:
        return ModelAnswer("", "stop", request.prompt_tokens, 0)
    start = request.question if echo else " ".join(SENTENCE.split(request.question.strip(), 2)[:2])
    words = f"{start} [{digest[:8]}]".split()
    limit = len(words) if echo else request.limit or len(words)
    if rule.fault == "truncated":
        limit = min(limit, max(1, len(words) // 2))
    reason = {"filtered": "content_filter", "error": "error"}.get(rule.fault)
    made_up = f"{start} [{digest[:8]}]" if echo and limit >= len(words) else " ".join(words[:limit])
    text = {"filtered": FILTERED_TEXT, "error": "", "empty": ""}.get(rule.fault, made_up)
    return ModelAnswer(
        text=text if rule.text is None else rule.text,
        finish_reason=rule.finish_reason or reason or ("length" if len(words) > limit else "stop"),
        prompt_tokens=request.prompt_tokens,
        completion_tokens=min(limit, len(words)),
    )


async def _send_slowly(call: IncomingCall, body: bytes, seconds: float) -> bool:
    """Send a body in SLOW_PIECES over `seconds`; return whether the caller stayed to the end."""
    size = max(1, -(-len(body) // SLOW_PIECES))
    for start in range(0, len(body), size):
        if await call.is_disconnected_within(seconds / SLOW_PIECES):
            return False
        await call.send({"type": "http.response.body", "body": body[start : start + size], "more_body": True})
    return True


def application(options: ServerOptions) -> Starlette:
    """Return the fake server as a Starlette application."""
    log = logging.getLogger("uvicorn.error")
    log.addFilter(lambda record: "without completing response" not in record.getMessage())  # faults do that on purpose
    fake = FakeServer(options)
    return Starlette(
        routes=[
            *(Route(path, fake, methods=["POST"]) for path in MODEL_ROUTES),
            Route("/behave", fake.behave, methods=["POST"]),
            Route("/manner", fake.manner, methods=["GET", "POST"]),
            Route("/calls", fake.calls, methods=["GET", "DELETE"]),
            Route("/calls/keys", fake.keys),
            Route("/calls/seconds", fake.seconds),
            Route("/calls/tokens", fake.tokens),
            *batch_jobs.routes(),
            *openai_batches.routes(),
            *sagemaker_async.routes(),
        ]
    )


if __name__ == "__main__":
    conf = Endpoint.model_validate_json(sys.argv[1])
    options = ServerOptions.model_validate_json(sys.argv[2] if sys.argv[2:] else "{}")
    serve(application(options.model_copy(update={"latency_ms": conf.latency_ms})))
