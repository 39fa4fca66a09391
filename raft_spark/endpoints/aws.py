"""Request -> Reply, over AWS: a real-time endpoint of SageMaker, a model of Bedrock.

One call, no retry: the SDK's own are off. Credentials are those of boto3's chain; missing or wrong ones, like an
endpoint or a model that is not there, are a Reply of class `refused`.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from threading import Lock
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from raft_spark.config.models import ONE_TEXT, Endpoint
from raft_spark.endpoints import aws_errors, codecs, responses
from raft_spark.endpoints.base import Reply, Request
from raft_spark.endpoints.responses import failed_reply

SAGEMAKER_BYTES = 6_291_456
SAGEMAKER_SECONDS = 70.0  # a container has 60, and the way takes some
BEDROCK_BYTES = 25_000_000
JSON = "application/json"
CONNECT_SECONDS = 10.0
MIN_READ_SECONDS = 10.0
# What botocore raises when a body has another shape than the service's: it says so nowhere.
PARSE_ERRORS = (
    ResponseParserError,
    AttributeError,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    RecursionError,
)


class SageMakerClient:
    """A real-time endpoint; `ask` is called from many threads at once and never raises."""

    def __init__(self, conf: Endpoint, connections: int, timeout_seconds: float) -> None:
        self._conf = conf
        self._door = AwsConnection("sagemaker-runtime", conf, connections, min(timeout_seconds, SAGEMAKER_SECONDS))

    def ask(self, request: Request, seconds: float | None = None) -> Reply:
        """Send one request, once; wait at most about `seconds`, see Door."""
        write, read = codecs.SAGEMAKER[self._conf.codec]
        body = json.dumps(write(self._unnamed(request))).encode()
        if problem := _invalid_request(request, self._conf, body, SAGEMAKER_BYTES):
            return problem
        return self._door.ask("invoke_endpoint", {**self._address(request), "Body": body}, read, seconds)

    def close(self) -> None:
        """Close the idle connections."""
        self._door.close()

    def _unnamed(self, request: Request) -> Request:
        """Leave the model out of the body where its name is only that of the endpoint, which a container does not know."""
        is_address = request.model in {self._conf.inference_component, self._conf.endpoint_name}
        return replace(request, model="") if is_address else request

    def _address(self, request: Request) -> dict[str, str]:
        """Say where the body goes. Without a route the container tells a chat from a text by the body."""
        component, route = self._conf.inference_component, self._conf.route
        return {
            "EndpointName": self._conf.endpoint_name,
            "ContentType": JSON,
            "Accept": JSON,
            "InferenceId": request.key,
            **({"InferenceComponentName": component} if component else {}),
            **({"CustomAttributes": f"route={route}"} if route and self._conf.codec == "openai" else {}),
        }


class BedrockClient:
    """A model of Bedrock, through Converse or InvokeModel; `ask` is called from many threads at once and never raises."""

    def __init__(self, conf: Endpoint, connections: int, timeout_seconds: float) -> None:
        self._conf = conf
        self._door = AwsConnection("bedrock-runtime", conf, connections, timeout_seconds)

    def ask(self, request: Request, seconds: float | None = None) -> Reply:
        """Send one request, once; wait at most about `seconds`, see Door."""
        write, read = codecs.BEDROCK[self._conf.codec]
        written = write(request)
        body = json.dumps(written).encode()
        if problem := _invalid_request(request, self._conf, body, BEDROCK_BYTES):
            return problem
        if self._conf.codec == "converse":
            return self._door.ask("converse", {**written, **self._converse_options(request)}, read, seconds)
        return self._door.ask("invoke_model", {"body": body, **self._invoke_options(request)}, read, seconds)

    def close(self) -> None:
        """Close the idle connections."""
        self._door.close()

    def _converse_options(self, request: Request) -> dict[str, Any]:
        tier = self._conf.service_tier
        metadata = {**self._conf.request_metadata, "key": request.key}
        return {
            "modelId": request.model,
            "requestMetadata": metadata,
            **({"serviceTier": {"type": tier}} if tier else {}),
        }

    def _invoke_options(self, request: Request) -> dict[str, str]:
        """Leave out what is not asked for: the boto3 of older images does not know these two."""
        tier, metadata = self._conf.service_tier, self._conf.request_metadata
        named = json.dumps({**metadata, "key": request.key})
        return {
            "modelId": request.model,
            "contentType": JSON,
            "accept": JSON,
            **({"serviceTier": tier} if tier else {}),
            **({"requestMetadata": named} if metadata else {}),
        }


def _invalid_request(request: Request, conf: Endpoint, body: bytes, limit: int) -> Reply | None:
    """Return what is wrong with a request that must not be sent."""
    if conf.codec in ONE_TEXT and not isinstance(request.prompt, str):
        return failed_reply("bad_request", f"codec {conf.codec} sends one text, and the request holds messages")
    if len(body) > limit:
        return failed_reply("bad_request", f"the request has {len(body):,} bytes; the service takes at most {limit:,}")
    return None


class AwsConnection:
    """boto3's clients of one service. A read timeout belongs to a client, not to a call: so there is one for 10 s, 20 s,
    40 s and so on up to `longest`, made when it is first wanted, and a call takes the first that is patient enough. The
    time counts anew from each piece of an answer.
    """

    def __init__(self, service: str, conf: Endpoint, connections: int, longest: float) -> None:
        self._service, self._conf, self._connections, self._longest = service, conf, connections, longest
        self._session: boto3.Session | None = None
        self._clients: dict[float, Any] = {}
        self._making = Lock()  # a session is not to be shared between threads; the clients it makes are

    def ask(
        self, operation: str, arguments: Mapping[str, Any], read: Callable[[Any], Reply], seconds: float | None
    ) -> Reply:
        """Call once, and `read` what came back."""
        patience = _read_timeout(min(seconds or self._longest, self._longest), self._longest)
        try:
            answer = _json_value(getattr(self._client(patience), operation)(**arguments))
        except (BotoCoreError, ClientError, HTTPError) as error:
            return aws_errors.reply(error, patience)
        except PARSE_ERRORS as error:
            return failed_reply(
                "model_error", responses.one_line(f"the answer has another shape than the service's: {error!r}")
            )
        reply = read(answer)
        return replace(reply, error=responses.one_line(reply.error)) if reply.error else reply

    def close(self) -> None:
        """Close the idle connections of all clients."""
        with self._making:
            for client in self._clients.values():
                client.close()

    def _client(self, patience: float) -> Any:  # noqa: ANN401 - boto3 makes its classes at run time
        with self._making:
            if patience not in self._clients:
                self._session = self._session or boto3.Session()
                self._clients[patience] = self._session.client(
                    self._service,
                    region_name=region(self._conf),
                    endpoint_url=self._conf.url or None,
                    config=_client_config(self._connections, patience),
                )
            return self._clients[patience]


def region(conf: Endpoint) -> str | None:
    """Return the region that is set, here or as AWS_REGION, which other SDKs read and boto3 does not; None = as boto3 says."""
    return conf.region or os.environ.get("AWS_REGION") or None


def _client_config(connections: int, patience: float) -> Config:
    return Config(
        max_pool_connections=connections,
        connect_timeout=min(CONNECT_SECONDS, patience),
        read_timeout=patience,
        retries={"total_max_attempts": 1, "mode": "standard"},
        tcp_keepalive=True,
    )


def _read_timeout(seconds: float, longest: float) -> float:
    """Return the first of 10, 20, 40, ... that is not below `seconds`, at most `longest`."""
    rung = MIN_READ_SECONDS
    while rung < seconds:
        rung *= 2
    return min(rung, longest)


def _json_value(answer: Mapping[str, Any]) -> Any:  # noqa: ANN401 - what a stranger sends
    """Return the JSON value that came back: of the body, or as boto3 has read it."""
    body = answer.get("Body", answer.get("body"))
    if body is not None:
        return responses.parse_json(body.read())
    return {name: part for name, part in answer.items() if name != "ResponseMetadata"}
