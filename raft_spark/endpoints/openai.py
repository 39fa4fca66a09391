"""Send requests over HTTP to any server with OpenAI's API: chat completions, completions and embeddings.

Each request is sent once, without retries. A missing or wrong key gives a Reply of class `refused` and not an
exception, since an exception in a worker loses its type on the way to the driver. The key is removed from every text
that leaves this module, even when a server repeats it.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

from urllib3.exceptions import HTTPError

from raft_spark.config import Endpoint
from raft_spark.endpoints import api_keys, embeddings, failures, responses
from raft_spark.endpoints.authorities import find_authorities
from raft_spark.endpoints.base import Reply, Request
from raft_spark.endpoints.codecs import Codec, openai_body, openai_reply
from raft_spark.endpoints.http import HttpClient, HttpResponse
from raft_spark.endpoints.responses import failed_reply
from raft_spark.errors import ConfigError

REDIRECTIONS = range(300, 400)
NO_SUCH_ROUTE = (404, 405)
ROUTES: Mapping[str, Codec] = {
    "/completions": (openai_body, openai_reply),
    "/chat/completions": (openai_body, openai_reply),
    "/embeddings": (embeddings.openai_body, embeddings.openai_reply),
}


@dataclass(frozen=True, slots=True)
class OpenAICall:
    """One POST; `target` is its path with the query."""

    target: str
    headers: Mapping[str, str]
    body: bytes


class OpenAIClient:
    """A pool of connections to one server. Many threads call `ask` at the same time; it never raises."""

    def __init__(self, conf: Endpoint, connections: int, timeout_seconds: float) -> None:
        self._conf = conf
        self._url = urlsplit(conf.url)
        self._seconds = timeout_seconds
        self._key, self._problem = load_key(conf)
        try:
            self._http = HttpClient(conf.url, connections, find_authorities(conf.ca_bundle))
        except ConfigError as error:
            self._problem = self._problem or str(error)

    def ask(self, request: Request, seconds: float | None = None) -> Reply:
        """Send a request once; the whole answer must arrive within `timeout_seconds` or `seconds`, if less."""
        timeout = min(seconds or self._seconds, self._seconds)
        if self._problem:
            return failed_reply("refused", responses.one_line(self._problem))
        sent = call(self._conf, request, self._key)
        try:
            response = self._http.post(sent.target, sent.body, sent.headers, timeout)
        except HTTPError as error:
            reply = self._http.failure(error, timeout)
        else:
            reply = self._read(response, sent.target.partition("?")[0], ROUTES[route_of(request)][1])
        return replace(reply, error=api_keys.redact(reply.error, self._key)) if reply.error else reply

    def close(self) -> None:
        """Close the idle connections."""
        if not self._problem:
            self._http.close()

    def _read(self, response: HttpResponse, route: str, read: Callable[[Any], Reply]) -> Reply:
        answer = responses.parse_json(response.body)
        if response.status == 200:  # noqa: PLR2004 - OK
            return read(answer)
        reply = _error_reply(response.status, response.headers, answer)
        hint = self._address_hint(response, route)
        is_about_model = "model" in str(reply.error) and response.status not in REDIRECTIONS
        return replace(reply, error=f"{hint}: {reply.error}") if hint and not is_about_model else reply

    def _address_hint(self, response: HttpResponse, route: str) -> str:
        """Return what may be wrong with the URL when the server has no such route there, or redirects; else ""."""
        asked = f"{self._http.origin}{route}"
        base = self._url.path.rstrip("/")
        if response.status in REDIRECTIONS and (location := response.headers.get("Location")):
            where = urljoin(asked, location)
            return f"{asked} redirects to {where}; set url to {where.removesuffix(route.removeprefix(base))}"
        if response.status not in NO_SUCH_ROUTE:
            return ""
        return f"{asked} was asked" + ("" if base.endswith("/v1") else "; the url of most servers ends in /v1")


def call(conf: Endpoint, request: Request, api_key: str) -> OpenAICall:
    """Return the call that sends a request; without an API key, none is sent.

    A server that supports Idempotency-Key answers a repeated request without computing it again.
    """
    route = route_of(request)
    headers = {"Content-Type": "application/json", "Idempotency-Key": request.key, **access_headers(conf, api_key)}
    return OpenAICall(target(conf, route), headers, json.dumps(ROUTES[route][0](request)).encode())


def route_of(request: Request) -> str:
    """Return the route below the endpoint's URL that takes a request."""
    if request.is_embedding:
        return "/embeddings"
    return "/completions" if isinstance(request.prompt, str) else "/chat/completions"


def target(conf: Endpoint, route: str) -> str:
    """Return a route below the endpoint's URL with the endpoint's query; the route may have a query of its own."""
    query = f"{'&' if '?' in route else '?'}{urlencode(conf.query)}" if conf.query else ""
    return urlsplit(conf.url).path.rstrip("/") + route + query


def access_headers(conf: Endpoint, api_key: str) -> dict[str, str]:
    """Return the headers of every call to an endpoint: those of its settings, and its API key."""
    scheme = "Bearer " if conf.api_key_header == "Authorization" else ""
    return {**conf.headers, **({conf.api_key_header: scheme + api_key} if api_key else {})}


def _error_reply(status: int, headers: Mapping[str, str], answer: Any) -> Reply:  # noqa: ANN401 - any JSON
    """Return the failed reply of a response whose status is not 200."""
    reason = responses.message_in(answer) or headers.get("Location") or "the server gave no reason"
    wait = failures.wait_seconds(headers, answer)
    failed = failed_reply(failures.error_class(status, answer), f"status {status}: {reason}", wait)
    return replace(failed, is_cut_off=status in responses.CUT_OFF)


def load_key(conf: Endpoint) -> tuple[str, str]:
    """Return (key, problem): the key is "" when none is configured, the problem "" when the key can be read."""
    if conf.api_key_secret:
        from raft_spark.endpoints import secrets  # noqa: PLC0415 - boto3 is imported only for a secret

        return secrets.read_key(conf)
    if not conf.api_key_env:
        return "", ""
    key = os.environ.get(conf.api_key_env, "").strip()
    problem = api_keys.problem(key)
    named = f"the environment variable {conf.api_key_env}, named by api_key_env,"
    return ("", f"{named} {problem}") if problem else (key, "")
