"""Serve an asynchronous endpoint of SageMaker with made-up answers, which it writes to a folder or to S3.

POST /async/behave takes fields of BatchFault: `seconds` is the time until an answer, `left_out` the share of requests that
get neither an answer nor a failure, `lost` the number of the next calls that are taken although they fail with status 500.
GET /async/records returns how often each request was sent and answered, and so what was computed.
"""

import asyncio
import json
import tempfile
import uuid
from collections import Counter
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from raft_spark.endpoints.fake.batch_jobs import BatchFault, make_answer, read, uniform, write
from raft_spark.endpoints.fake.errors import ServiceError

HEADER = "x-amzn-sagemaker-"


class FakeAsyncEndpoint:
    """How often each request was sent and answered, and what is still to be written."""

    def __init__(self, fault: BatchFault) -> None:
        self._fault = fault
        self._folder = ""
        self._sent: Counter[str] = Counter()
        self._answered: Counter[str] = Counter()
        self._writes: set[asyncio.Task[None]] = set()

    async def invoke(self, request: Request) -> Response:
        """Take a request whose body is at InputLocation."""
        if self._fault.throttled:
            self._fault = replace(self._fault, throttled=self._fault.throttled - 1)
            return _error("ThrottlingException", "told to throttle", 429)
        if self._fault.status:
            return _error(self._fault.status, self._fault.message, 400)
        fault, key = self._fault, request.headers[f"{HEADER}inference-id"]
        ttl, timeout = (
            int(request.headers[f"{HEADER}{name}"]) for name in ("requestttlseconds", "invocationtimeoutseconds")
        )
        if not (60 <= ttl <= 21_600 and 1 <= timeout <= 3_600):  # noqa: PLR2004 - the limits of the API reference
            return _error("ValidationError", f"{ttl} and {timeout} seconds are out of range", 400)
        try:
            body = await asyncio.to_thread(read, request.headers[f"{HEADER}inputlocation"], fault.s3)
        except Exception as error:  # noqa: BLE001 - any problem of the input is an error response
            return _error("ValidationError", f"the input cannot be read: {error!r}", 400)
        self._sent[key] += 1
        name, draw = str(uuid.uuid4()), uniform(key, self._sent[key])
        output, failure = f"{self._output()}/{name}.out", f"{fault.failure}/{name}-error.out" if fault.failure else ""
        if draw >= fault.left_out:
            is_failed = draw < fault.left_out + fault.failed
            write = asyncio.create_task(self._write(key, body, failure if is_failed else output, is_failed=is_failed))
            self._writes.add(write)
            write.add_done_callback(self._writes.discard)
        if self._fault.lost:
            self._fault = replace(self._fault, lost=self._fault.lost - 1)
            return _error("InternalFailure", "told to lose the answer", 500)
        headers = {f"{HEADER}outputlocation": output, **({f"{HEADER}failurelocation": failure} if failure else {})}
        return JSONResponse({"InferenceId": key}, 202, headers)

    async def records(self, _: Request) -> Response:
        """Return by key how often it was sent and how often it was answered."""
        return JSONResponse({"sent": self._sent, "answered": self._answered})

    async def behave(self, request: Request) -> Response:
        """Change fields of the faults for new requests."""
        self._fault = replace(self._fault, **await request.json())
        return JSONResponse({})

    def _output(self) -> str:
        self._folder = self._fault.output or self._folder or tempfile.mkdtemp()
        return self._folder

    async def _write(self, key: str, body: bytes, location: str, *, is_failed: bool) -> None:
        """Answer a request, or fail, after some time."""
        fault = self._fault
        await asyncio.sleep(fault.seconds)
        text = f'Received server error ({fault.error_code}) from primary with message "told to fail".'
        try:
            answer = make_answer("/endpoints/any/invocations", json.loads(body))
        except ServiceError as error:
            is_failed, text = True, error.message
        if not is_failed:
            self._answered[key] += 1
            text = json.dumps(answer)
        if location:
            await asyncio.to_thread(write, location, text.encode(), fault.s3)


def _error(name: str, message: str, status: int) -> Response:
    return JSONResponse({"Message": message}, status, {"x-amzn-errortype": name})


def routes() -> list[Route]:
    """Return the routes of a new endpoint of any name."""
    endpoint = FakeAsyncEndpoint(BatchFault())
    return [
        Route("/endpoints/{name}/async-invocations", endpoint.invoke, methods=["POST"]),
        Route("/async/records", endpoint.records),
        Route("/async/behave", endpoint.behave, methods=["POST"]),
    ]
