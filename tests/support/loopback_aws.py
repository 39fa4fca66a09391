"""Serve what a test puts in on loopback, and keep each request: a server of SageMaker, Bedrock, or any other HTTP service."""

import contextlib
import json
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Server:
    """The requests of a loopback server and its answer."""

    url: str
    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    fault: str = ""
    expired: set[str] = field(default_factory=set)  # access keys whose calls are refused
    seen: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def access_keys(self) -> list[str]:
        """Return with which credentials the requests were signed."""
        return [headers["authorization"].partition("Credential=")[2].partition("/")[0] for _, headers, _ in self.seen]

    def answers(self, value: object, status: int = 200, code: str = "", **headers: str) -> None:
        self.body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.status, self.headers = status, {**headers, **({"x-amzn-ErrorType": code} if code else {})}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        ours: Server = self.server.ours
        sent = self.rfile.read(int(self.headers["content-length"]))
        ours.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}, sent))
        if ours.fault == "hang":
            time.sleep(5)
        if any(f"Credential={key}/" in self.headers.get("authorization", "") for key in ours.expired):
            self._refuse()
            return
        self.send_response(ours.status)
        self.send_header("content-length", str(len(ours.body) + {"drop": 100, "trickle": 40}.get(ours.fault, 0)))
        for name, value in ours.headers.items():
            self.send_header(name, value)
        self.end_headers()
        for _ in range(40 if ours.fault == "trickle" else 0):  # blanks keep the call open
            self.wfile.write(b" ")
            time.sleep(0.05)
        self.wfile.write(ours.body)
        self.close_connection = bool(ours.fault)

    def _refuse(self) -> None:
        body = b'{"message": "The security token included in the request is expired"}'
        self.send_response(403)
        self.send_header("x-amzn-ErrorType", "ExpiredTokenException")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Log nothing about callers that disconnect."""


@contextlib.contextmanager
def serve(tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Run a server in a thread for the duration of a block, with `tls` one of HTTPS."""
    with QuietServer(("127.0.0.1", 0), Handler) as listener:
        if tls:
            listener.socket = tls.wrap_socket(listener.socket, server_side=True)
        listener.ours = Server(f"http{'s' if tls else ''}://127.0.0.1:{listener.server_port}")
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield listener.ours
        finally:
            listener.shutdown()
            thread.join()
