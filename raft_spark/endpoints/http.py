"""Send requests to one server over a pool of connections, also through a proxy.

Every kind of endpoint goes through here. A call is sent once and has one deadline for its whole answer. No message of
this module holds a password of a proxy.
"""

import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ProxyError, SSLError
from urllib3.exceptions import TimeoutError as NoAnswerInTime

from raft_spark.endpoints import authorities, responses
from raft_spark.endpoints.authorities import Authorities
from raft_spark.endpoints.base import Reply
from raft_spark.endpoints.proxies import find_proxy
from raft_spark.endpoints.responses import failed_reply

CONNECT_SECONDS = 10.0
CHUNK_BYTES = 65_536
PROXY_PASSWORD_NEEDED = 407
REFUSED_BY_PROXY = re.compile(r"(failed:|status) (401|403|407)\b")
Body = bytes | Iterator[bytes] | None
KEEP_ALIVE = (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A response of a server; the names of headers may have any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpClient:
    """A pool of connections to the server of one URL. Many threads call `post` at the same time."""

    def __init__(self, url: str, connections: int, trusted: Authorities) -> None:
        """Read the proxy and the certificates. Raises ConfigError when one of them cannot be used."""
        self.origin = origin(url)
        self._trusted = trusted
        self._proxy = find_proxy(url)
        self._manager = self._connect(connections)
        self._pool = self._manager.connection_from_url(self.origin)
        # an HTTP proxy is sent the whole URL of what it fetches, and only a tunnel to what is encrypted
        self._prefix = self.origin if self._proxy and self.origin.startswith("http:") else ""

    def post(self, target: str, body: bytes, headers: Mapping[str, str], seconds: float) -> HttpResponse:
        """Send one request; `target` is the path with the query. Raises HTTPError, see `failure`.

        The timeout covers the whole body, as a server may send blanks to keep a call open.
        """
        deadline = monotonic() + seconds
        timeout = urllib3.Timeout(connect=min(CONNECT_SECONDS, seconds), total=seconds)
        with self.open("POST", target, body, headers, timeout) as response:
            return HttpResponse(response.status, response.headers, _read_body(response, deadline))

    @contextmanager
    def open(
        self, method: str, target: str, body: Body, headers: Mapping[str, str], timeout: urllib3.Timeout
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """Send one request and yield its response, whose body is not read yet. Raises HTTPError, see `failure`."""
        response = self._pool.urlopen(
            method,
            self._prefix + target,
            body=body,
            headers=headers,
            timeout=timeout,
            redirect=False,
            assert_same_host=False,
            preload_content=False,
        )
        try:
            if response.status == PROXY_PASSWORD_NEEDED and self._proxy:
                msg = "the proxy"
                raise ProxyError(msg, OSError(f"status {response.status} {response.reason}"))
            yield response
        finally:
            response.release_conn()

    def failure(self, error: HTTPError, seconds: float) -> Reply:
        """Return the failed reply of an error of `post`, whose timeout was `seconds`."""
        reason = self._redact(_reason(error))
        proxy = f"the proxy {self._proxy.url} ({self._proxy.variable})" if self._proxy else ""
        match error:
            case ProxyError() if REFUSED_BY_PROXY.search(reason):
                return failed_reply("refused", f"{proxy} refuses to connect to {self.origin}: {reason}")
            case SSLError() if authorities.UNTRUSTED in reason:
                untrusted = authorities.refusal(self.origin, responses.one_line(reason))
                return failed_reply("refused", f"{untrusted} (now: {self._trusted})")
            case ProxyError() | ConnectTimeoutError() | SSLError():  # nothing was sent
                through = f" through {proxy}" if proxy else ""
                return failed_reply("unavailable", f"no answer: could not connect to {self.origin}{through}: {reason}")
            case NoAnswerInTime():
                return failed_reply("timeout", f"no answer within {seconds:g} s")
        return replace(failed_reply("unavailable", f"no answer: {reason}"), is_cut_off=True)

    def close(self) -> None:
        """Close the idle connections."""
        self._manager.clear()

    def _connect(self, connections: int) -> urllib3.PoolManager:
        is_encrypted = self.origin.startswith("https:")
        shared: dict[str, Any] = {
            "maxsize": connections,
            "block": True,
            "retries": False,
            "socket_options": [*HTTPConnection.default_socket_options, KEEP_ALIVE],
            **({"ssl_context": authorities.context(self._trusted)} if is_encrypted else {}),
        }
        if not self._proxy:
            return urllib3.PoolManager(**shared)
        if self._proxy.url.startswith("https:"):
            shared["proxy_ssl_context"] = authorities.context(self._trusted)
        return urllib3.ProxyManager(self._proxy.url, proxy_headers=self._proxy.headers, **shared)

    def _redact(self, text: str) -> str:
        for secret in self._proxy.secrets if self._proxy else ():
            text = text.replace(secret, "***")
        return text


def origin(url: str) -> str:
    """Return the part of a URL that a connection is opened to: scheme, host and port."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _read_body(response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
    """Read the body in chunks until the deadline."""
    chunks = []
    while chunk := response.read1(CHUNK_BYTES):
        chunks.append(chunk)
        if monotonic() > deadline:
            response.close()
            raise NoAnswerInTime
    return b"".join(chunks)


def _reason(error: Exception) -> str:
    """Return what went wrong, without urllib3's name of the connection."""
    match error:
        case ProxyError():
            return _reason(error.original_error)
        case NewConnectionError():
            return str(error).partition(": ")[2]
        case ConnectTimeoutError():
            return str(error.args[-1])
    return str(error)
