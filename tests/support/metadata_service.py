"""Serve credentials on loopback as EC2's instance metadata service does, and as that of containers does."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ROLE = "/latest/meta-data/iam/security-credentials/"


@dataclass
class Metadata:
    """The credentials that a service gives, what goes wrong in its next requests, and the paths of all requests.

    A fault is a number of seconds, by which a request is late, or a status below 0, which it gets.
    """

    url: str
    access_key: str = "ASIAFIRST"
    valid_minutes: float = 360
    faults: list[float] = field(default_factory=list)
    always: float = 0
    seen: list[str] = field(default_factory=list)

    def credentials(self) -> bytes:
        until = datetime.now(UTC) + timedelta(minutes=self.valid_minutes)
        keys = {"AccessKeyId": self.access_key, "SecretAccessKey": "secret", "Token": "token"}
        return json.dumps({"Code": "Success", **keys, "Expiration": f"{until:%Y-%m-%dT%H:%M:%SZ}"}).encode()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        metadata: Metadata = self.server.metadata
        metadata.seen.append(self.path)
        fault = metadata.faults.pop(0) if metadata.faults else metadata.always
        time.sleep(max(0.0, fault))
        bodies = {"/latest/api/token": b"token", ROLE: b"role"}
        self.send_response(int(-fault) if fault < 0 else 200)
        self.end_headers()
        with contextlib.suppress(OSError):  # the caller may have gone
            self.wfile.write(b"" if fault < 0 else bodies.get(self.path) or metadata.credentials())

    do_PUT = do_GET  # noqa: N815 - the name that http.server calls

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextlib.contextmanager
def serve() -> Iterator[Metadata]:
    """Run a service in a thread for the duration of a block."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        listener.daemon_threads = True
        listener.metadata = Metadata(f"http://127.0.0.1:{listener.server_port}")
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield listener.metadata
        finally:
            listener.shutdown()
            thread.join()
