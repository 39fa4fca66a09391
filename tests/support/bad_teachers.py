"""A server that answers like teachers on their bad days, in a thread of the tests: `with BadTeacher("busy_503") as server`.

It speaks OpenAI's chat completions and Bedrock's Converse (modes that begin with bedrock_), and counts its calls.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

TEXT = "Yes, the treatment lowered pain within two hours in most patients of the trial."
CAPACITY, BUSY_SECONDS = 4, 0.05  # calls that a busy server works on at once; how long each takes


@dataclass(frozen=True)
class Sent:
    """A response: its status, body (JSON, or bytes as they are), headers, and how long it takes."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Asked:
    """A call: its number, how often its question was asked so far, and the seconds since the first call."""

    number: int
    times: int
    seconds: float


def answer(text: object = TEXT, reason: object = "stop", **message: object) -> Sent:
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": reason}
    return Sent(200, {"choices": [choice], "usage": {"prompt_tokens": 300, "completion_tokens": 20}})


def conversed() -> Sent:
    content = {"message": {"role": "assistant", "content": [{"text": TEXT}]}}
    usage = {"inputTokens": 300, "outputTokens": 20, "totalTokens": 320}
    return Sent(200, {"output": content, "stopReason": "end_turn", "usage": usage, "metrics": {"latencyMs": 1}})


def refused(status: int, error: object, **headers: str) -> Sent:
    return Sent(status, {"error": error}, {name.replace("_", "-"): value for name, value in headers.items()})


def aws_error(status: int, name: str, message: str) -> Sent:
    return Sent(status, {"message": message}, {"x-amzn-ErrorType": name})


def every_third(bad: Sent, times: int = 1_000) -> Callable[[Asked], Sent]:
    return lambda asked: bad if asked.number % 3 == 0 and asked.times < times else answer()


STREAM = (
    b'data: {"choices": [{"index": 0, "delta": {"content": "Yes, the treatment "}, "finish_reason": null}]}\n\n'
    b'data: {"choices": [{"index": 0, "delta": {"content": "works."}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
)
BUSY: Mapping[str, Sent] = {  # what a server says whose slots are taken
    "busy_429": refused(429, {"message": "busy"}),
    "busy_503": refused(503, {"message": "queue is full"}),
    "busy_529": refused(529, {"type": "overloaded_error", "message": "overloaded"}),
    "busy_500": refused(500, {"message": "the model is overloaded, try again later"}),
    "busy_in_200": Sent(200, {"error": {"message": "rate limit of the provider", "code": 429}}),
    "bedrock_busy": aws_error(503, "ServiceUnavailableException", "too many connections"),
}
MODES: Mapping[str, Callable[[Asked], Sent]] = {
    "think": lambda _: answer(f"<think>\nSo it says.\n</think>\n\n{TEXT}"),
    "reasoning_field": lambda _: answer(reasoning_content="So it says."),
    "parts": lambda _: answer([{"type": "thinking", "thinking": []}, {"type": "text", "text": TEXT}]),
    "refusal_field": lambda _: answer(None, refusal="I will not say."),
    "null_reason": lambda _: answer(reason=None),
    "stream": lambda _: Sent(200, STREAM, {"Content-Type": "text/event-stream"}),
    "abort": every_third(answer(TEXT[:30], "abort")),
    "out_of_resources": every_third(answer(TEXT[:30], "insufficient_system_resource")),
    "bad_key_400": lambda _: refused(400, {"message": "the key is not valid", "code": 400}),
    "bad_model_422": lambda asked: Sent(422, {"detail": f"no model of this name (request {asked.number}f3a)"}),
    "bedrock_retired": lambda _: aws_error(400, "ValidationException", "the weights of this one are gone"),
    "quota": lambda asked: (
        answer()
        if asked.number <= 12
        else refused(429, {"message": "the quota is used up", "code": "insufficient_quota"})
    ),
    "long_wait": lambda asked: answer() if asked.number <= 12 else refused(429, "wait", Retry_After="86400"),
    "one_bad_row": lambda asked: refused(400, {"message": "too odd"}) if asked.number == 1 else answer(),
    "revoked": lambda asked: answer() if asked.number <= 40 else refused(400, {"message": "the key is not valid"}),
    "status_424": every_third(refused(424, "generation failed"), 3),
    "status_499": every_third(Sent(499, {}), 3),
    "status_409": every_third(Sent(409, {}), 3),
    "always_503": lambda _: refused(503, {"message": "loading"}, Retry_After="1"),
    "restart": lambda asked: (
        refused(503, {"message": "loading"}, Retry_After="1") if asked.number > 12 and asked.seconds < 4 else answer()
    ),
    "long_restart": lambda asked: (
        refused(503, {"message": "loading"}, Retry_After="10") if asked.number > 12 and asked.seconds < 25 else answer()
    ),
    "slow_some": lambda asked: Sent(200, answer().body, seconds=25 if asked.number % 16 == 0 else 0.3),
    "retry_after_ms": lambda asked: refused(429, "wait", retry_after_ms="1500") if asked.seconds < 1.5 else answer(),
}


class BadTeacher:
    """The server; `calls`, `distinct` and `most_for_one` count what it was asked."""

    def __init__(self, mode: str) -> None:
        self.mode, self.begin = mode, 0.0
        self.asked: Counter[str] = Counter()
        self.lock = threading.Lock()
        self._slots = threading.Semaphore(CAPACITY)
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.teacher = self

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def calls(self) -> int:
        return self.asked.total()

    @property
    def distinct(self) -> int:
        return len(self.asked)

    @property
    def most_for_one(self) -> int:
        return max(self.asked.values(), default=0)

    def reply(self, key: str) -> Sent:
        with self.lock:
            self.begin = self.begin or time.monotonic()
            self.asked[key] += 1
            asked = Asked(self.calls, self.asked[key], time.monotonic() - self.begin)
        if self.mode not in BUSY:
            return MODES[self.mode](asked)
        if not self._slots.acquire(blocking=False):
            return BUSY[self.mode]
        try:
            time.sleep(BUSY_SECONDS)
            return conversed() if self.mode.startswith("bedrock") else answer()
        finally:
            self._slots.release()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    teacher: BadTeacher


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = sha256(json.dumps(asked["messages"], sort_keys=True).encode()).hexdigest()
        sent = self.server.teacher.reply(key)
        time.sleep(sent.seconds)
        body = sent.body if isinstance(sent.body, bytes) else json.dumps(sent.body).encode()
        self.send_response(sent.status)
        for name, value in {"Content-Type": "application/json", **sent.headers, "Content-Length": len(body)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)
