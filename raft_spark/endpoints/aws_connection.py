"""Send signed requests to one service of AWS.

`aws_service` says where the service is, `credentials` finds the keys, botocore signs, and `http` sends: a call through
boto3 itself costs three times the CPU. Each call is sent once; only when AWS says that its credentials have expired, and the chain
has other ones by now, it is sent again with those.
"""

import http.client
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any
from urllib.parse import quote, urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from raft_spark.config.models import Endpoint
from raft_spark.endpoints import aws_errors, responses
from raft_spark.endpoints.aws_service import find_service
from raft_spark.endpoints.base import Reply
from raft_spark.endpoints.credentials import CredentialChain, InvalidKeyError, Keys, is_sendable
from raft_spark.endpoints.http import HttpClient, HttpResponse
from raft_spark.endpoints.responses import failed_reply
from raft_spark.errors import ConfigError

PATHS = {
    "invoke_endpoint": "/endpoints/{}/invocations",
    "converse": "/model/{}/converse",
    "invoke_model": "/model/{}/invoke",
}
BEARER_TOKENS = {"bedrock-runtime": "AWS_BEARER_TOKEN_BEDROCK"}
EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "UnrecognizedClientException"})
REFUSALS = (400, 401, 403)
FIRST_FAILURE = 300  # the lowest status that is no success


@dataclass(frozen=True, slots=True)
class AwsCall:
    """One call of an operation in PATHS to an endpoint or a model; `headers` are those of its arguments."""

    operation: str
    name: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        """Return the path with the name of the endpoint or model, of which : and / are escaped too."""
        return PATHS[self.operation].format(quote(self.name, safe="-._~"))


class AwsConnection:
    """The connections to one service. Many threads call `ask` at the same time; it never raises."""

    def __init__(self, service: str, conf: Endpoint, connections: int, longest: float) -> None:
        self._service, self._conf, self._connections, self._longest = service, conf, connections, longest
        self._sender: SignedSender | None = None
        self._lock = Lock()

    def ask(self, call: AwsCall, read: Callable[[Any], Reply], seconds: float | None) -> Reply:
        """Call an operation once and turn the JSON value of its response into a Reply with `read`."""
        reply = self._ask(call, read, min(seconds or self._longest, self._longest))
        return replace(reply, error=responses.one_line(reply.error)) if reply.error else reply

    def _ask(self, call: AwsCall, read: Callable[[Any], Reply], timeout: float) -> Reply:
        try:
            response = self._connect().send(call, timeout)
        except ConfigError as error:
            return failed_reply("refused", str(error))
        except (BotoCoreError, ClientError) as error:
            return aws_errors.reply(error, timeout)
        except HTTPError as error:
            return self._connect().http.failure(error, timeout)
        if response.status >= FIRST_FAILURE:
            return aws_errors.reply(ClientError(parse_error(response), call.operation), timeout)
        return read(responses.parse_json(response.body))

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            if self._sender:
                self._sender.http.close()

    def _connect(self) -> "SignedSender":
        with self._lock:
            if not self._sender:
                self._sender = SignedSender(self._service, self._conf, self._connections)
            return self._sender


class SignedSender:
    """The address of a service, its signature and the pool of connections to it."""

    def __init__(self, service: str, conf: Endpoint, connections: int) -> None:
        """Ask boto3 for the address. Raises BotoCoreError or ConfigError."""
        self._service = find_service(service, conf)
        self.url = self._service.url
        self._path = urlsplit(self.url).path
        self._token_variable = BEARER_TOKENS.get(service, "")
        self._chain = CredentialChain()
        self.http = HttpClient(self.url, connections, self._service.trusted)

    def send(self, call: AwsCall, seconds: float) -> HttpResponse:
        """Send a call. Raises BotoCoreError, ClientError or HTTPError."""
        if token := os.environ.get(self._token_variable, ""):  # as in boto3, it takes precedence
            if not is_sendable(token):
                raise InvalidKeyError(part="bearer token", source=self._token_variable)
            return self._post(call, {**self._headers(call), "Authorization": f"Bearer {token}"}, seconds)
        keys = self._chain.current()
        response = self._post(call, self._signed(call, keys), seconds)
        if _is_expired(response) and (fresh := self._chain.renew(keys)):
            return self._post(call, self._signed(call, fresh), seconds)
        return response

    def _post(self, call: AwsCall, headers: Mapping[str, str], seconds: float) -> HttpResponse:
        return self.http.post(self._path + call.path, call.body, headers, seconds)

    def _headers(self, call: AwsCall) -> dict[str, str]:
        return {**call.headers, "User-Agent": self._service.user_agent}

    def _signed(self, call: AwsCall, keys: Keys) -> dict[str, str]:
        """Return the headers with the signature (version 4)."""
        request = AWSRequest("POST", self.url + call.path, self._headers(call), call.body)
        SigV4Auth(keys, self._service.signing_name, self._service.region).add_auth(request)
        return dict(request.headers.items())


def parse_error(response: HttpResponse) -> dict[str, Any]:
    """Return a failed response in the form of botocore's ClientError.response (protocol rest-json).

    The code is in a header or in the body, else it is the status. A body of another form is the message, unless it is
    empty or a page of a gateway.
    """
    headers = {name.lower(): value for name, value in response.headers.items()}
    value = responses.parse_json(response.body)
    is_page = not response.body.strip() or response.body.lstrip().startswith(b"<")
    text = http.client.responses.get(response.status, "") if is_page else responses.message_in(value)
    body = value if isinstance(value, dict) else {"message": text}
    codes = (headers.get("x-amzn-errortype"), body.get("code"), body.get("Code"), body.get("__type"))
    code = next((str(code) for code in codes if code), str(response.status))
    message = _redirection(response.status, headers) or body.get("message") or body.get("Message") or ""
    return {
        **body,
        "Error": {"Code": code.partition(":")[0].rpartition("#")[2], "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": response.status, "HTTPHeaders": headers},
    }


def _redirection(status: int, headers: Mapping[str, str]) -> str:
    where = headers.get("location") if status < 400 else None  # noqa: PLR2004 - 3xx
    return f"the server redirects to {where}; set url to that address" if where else ""


def _is_expired(response: HttpResponse) -> bool:
    return response.status in REFUSALS and parse_error(response)["Error"]["Code"] in EXPIRED
