"""Serve an HTTP proxy on loopback: it forwards plain requests, opens tunnels (CONNECT), and may want a password."""

import contextlib
import http.client
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

HOP_BY_HOP = {"connection", "proxy-connection", "keep-alive", "transfer-encoding", "proxy-authorization"}


@dataclass
class Proxy:
    """The address of a proxy, the ports of loopback that hosts stand for, and the requests that it has seen."""

    address: str
    hosts: dict[str, int] = field(default_factory=dict)
    authorization: str = ""
    refuses_with: int = 0
    seen: list[tuple[str, str]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_CONNECT(self) -> None:
        if not self._may_pass():
            return
        with contextlib.closing(self._connect(self.path.rpartition(":")[0])) as upstream:
            self.send_response(200, "Connection established")
            self.end_headers()
            self._relay(upstream)
        self.close_connection = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if not self._may_pass():
            return
        target = urlsplit(self.path)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
        upstream = http.client.HTTPConnection("127.0.0.1", self._proxy.hosts[target.hostname])
        with contextlib.closing(upstream):
            upstream.request(self.command, target.path + (f"?{target.query}" if target.query else ""), body, headers)
            answer = upstream.getresponse()
            content = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {*HOP_BY_HOP, "content-length"}:
                self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST  # noqa: N815 - the name that http.server wants

    @property
    def _proxy(self) -> Proxy:
        return self.server.proxy

    def _may_pass(self) -> bool:
        proxy = self._proxy
        proxy.seen.append((self.command, self.path))
        wants_password = self.headers.get("proxy-authorization", "") != proxy.authorization
        status = proxy.refuses_with or (407 if wants_password else 0)
        if status:
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()
        return not status

    def _connect(self, host: str) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._proxy.hosts[host]))

    def _relay(self, upstream: socket.socket) -> None:
        ends = {self.connection: upstream, upstream: self.connection}
        while True:
            for end in select.select(list(ends), [], [], 30)[0]:
                received = end.recv(65_536)
                if not received:
                    return
                ends[end].sendall(received)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Log nothing about callers that disconnect."""


@contextlib.contextmanager
def serve(tls: ssl.SSLContext | None = None, /, **hosts: int) -> Iterator[Proxy]:
    """Run a proxy in a thread; a host `name` becomes name.test. With `tls` it is reached by HTTPS itself."""
    with QuietServer(("127.0.0.1", 0), Handler) as listener:
        if tls:
            listener.socket = tls.wrap_socket(listener.socket, server_side=True)
        listener.proxy = Proxy(
            f"127.0.0.1:{listener.server_port}", {f"{name}.test": port for name, port in hosts.items()}
        )
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield listener.proxy
        finally:
            listener.shutdown()
            thread.join()
