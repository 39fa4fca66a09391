"""An HTTP proxy on loopback before a real S3 server, which lets requests fail as S3's do: 503, 500, reset, lost
or cut reply.
"""

import contextlib
import http.client
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar, Literal
from urllib.parse import urlsplit

Fault = Literal["", "slow_down", "internal", "reset", "lost", "cut"]
FAULTS: tuple[Fault, ...] = ("slow_down", "internal", "reset", "lost", "cut")
Choose = Callable[[str, str], Fault]  # (method, path with query) -> what happens to the request
BODIES = {
    "slow_down": (503, "SlowDown", "Please reduce your request rate."),
    "internal": (500, "InternalError", "We encountered an internal error. Please try again."),
}
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding"}


class S3Proxy:
    """Forward each request, unless `choose` names a fault for it.

    After "lost" and "cut" the server has done what was asked, and the connection is reset: before the reply, or within it.
    """

    def __init__(self, server: str) -> None:
        self.server = urlsplit(server).netloc
        self.choose: Choose = lambda _method, _path: ""
        self.faults: Counter[str] = Counter()
        self.requests = 0
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._http = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def fail_share(self, share: float, seed: int = 0) -> None:
        """Let a share of all requests fail, by a generator of its own."""
        chance, lock = random.Random(seed), threading.Lock()

        def choose(_method: str, _path: str) -> Fault:
            with lock:
                return chance.choice(FAULTS) if chance.random() < share else ""

        self.choose = choose

    def fail_once(self, method: str, part: str, *faults: Fault) -> None:
        """Let the first requests of this method whose path has `part` fail, in this order."""
        left = list(faults)

        def choose(found: str, path: str) -> Fault:
            return left.pop(0) if left and found == method and part in path else ""

        self.choose = choose

    @contextlib.contextmanager
    def serving(self) -> Iterator["S3Proxy"]:
        thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            self._http.server_close()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no error of the proxy's."""


class _Handler(BaseHTTPRequestHandler):
    proxy: ClassVar[S3Proxy]
    protocol_version = "HTTP/1.1"

    def _forward(self) -> None:
        body = self._body()
        fault = self.proxy.choose(self.command, self.path)
        self.proxy.requests += 1
        self.proxy.faults.update([fault] if fault else [])
        if fault in BODIES:
            self._refuse(*BODIES[fault])
            return
        if fault != "reset":
            status, headers, content = self._ask(body)
        if fault in {"reset", "lost"}:
            self._reset()
            return
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in HOP_BY_HOP | {"content-length"}:
                self.send_header(name, value)
        size = {name.lower(): value for name, value in headers}.get("content-length", "0")
        self.send_header("Content-Length", size if self.command == "HEAD" else str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)
        if fault == "cut":
            self._reset()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _forward  # noqa: N815 - the names that http.server calls

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.proxy.server, timeout=60)
        with contextlib.closing(connection):
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in HOP_BY_HOP | {"content-length", "expect"}:
                    connection.putheader(name, value)
            if body or self.command in {"PUT", "POST"}:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            reply = connection.getresponse()
            return reply.status, reply.getheaders(), reply.read()

    def _refuse(self, status: int, code: str, message: str) -> None:
        text = f"<?xml version='1.0' encoding='UTF-8'?>\n<Error><Code>{code}</Code><Message>{message}</Message><RequestId>4442587FB7D0A2F9</RequestId><HostId>{'h' * 76}</HostId></Error>"
        content = b"" if self.command == "HEAD" else text.encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _reset(self) -> None:
        """Close the connection with RST, without a reply."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.rfile.close()
        self.wfile.close()
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that http.server calls
        """Say nothing."""
