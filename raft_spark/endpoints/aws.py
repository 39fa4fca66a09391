"""Send requests to a real-time endpoint of SageMaker or to a model of Bedrock, through boto3.

Each request is sent once; the retries of the SDK are off. boto3 finds the credentials. Missing or wrong credentials, or
an endpoint or model that does not exist, give a Reply of class `refused`.
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

from raft_spark.config.models import TEXT_CODECS, Endpoint
from raft_spark.endpoints import aws_errors, codecs, responses
from raft_spark.endpoints.base import Reply, Request
from raft_spark.endpoints.responses import failed_reply

SAGEMAKER_BYTES = 6_291_456
SAGEMAKER_SECONDS = 70.0  # a container has 60 s to answer; the rest is for the network
BEDROCK_BYTES = 25_000_000
JSON = "application/json"
CONNECT_SECONDS = 10.0
MIN_READ_SECONDS = 10.0
# What botocore raises, without documenting it, when the body of a response does not have the service's schema.
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
    """A client of one real-time endpoint. Many threads call `ask` at the same time; it never raises."""

    def __init__(self, conf: Endpoint, connections: int, timeout_seconds: float) -> None:
        self._conf = conf
        self._connection = AwsConnection(
            "sagemaker-runtime", conf, connections, min(timeout_seconds, SAGEMAKER_SECONDS)
        )

    def ask(self, request: Request, seconds: float | None = None) -> Reply:
        """Send a request once; wait about `seconds`, see AwsConnection."""
        read = codecs.SAGEMAKER[self._conf.codec][1]
        body = json.dumps(codecs.sagemaker_body(request, self._conf)).encode()
        if problem := _invalid_request(request, self._conf, body, SAGEMAKER_BYTES):
            return problem
        return self._connection.ask("invoke_endpoint", {**self._target(request), "Body": body}, read, seconds)

    def close(self) -> None:
        """Close the idle connections."""
        self._connection.close()

    def _target(self, request: Request) -> dict[str, str]:
        """Return the arguments that name the endpoint. Without a route the container recognizes a chat by its body."""
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
    """A client of one Bedrock model, through Converse or InvokeModel.

    Many threads call `ask` at once; it never raises.
    """

    def __init__(self, conf: Endpoint, connections: int, timeout_seconds: float) -> None:
        self._conf = conf
        self._connection = AwsConnection("bedrock-runtime", conf, connections, timeout_seconds)

    def ask(self, request: Request, seconds: float | None = None) -> Reply:
        """Send a request once; wait about `seconds`, see AwsConnection."""
        write, read = codecs.BEDROCK[self._conf.codec]
        fields = write(request)
        body = json.dumps(fields).encode()
        if problem := _invalid_request(request, self._conf, body, BEDROCK_BYTES):
            return problem
        if self._conf.codec == "converse":
            return self._connection.ask("converse", {**fields, **self._converse_options(request)}, read, seconds)
        return self._connection.ask("invoke_model", {"body": body, **self._invoke_options(request)}, read, seconds)

    def close(self) -> None:
        """Close the idle connections."""
        self._connection.close()

    def _converse_options(self, request: Request) -> dict[str, Any]:
        tier = self._conf.service_tier
        metadata = {**self._conf.request_metadata, "key": request.key}
        return {
            "modelId": request.model,
            "requestMetadata": metadata,
            **({"serviceTier": {"type": tier}} if tier else {}),
        }

    def _invoke_options(self, request: Request) -> dict[str, str]:
        """Return the arguments other than the body.

        The last two are left out if not set: old versions of boto3 lack them.
        """
        tier, metadata = self._conf.service_tier, self._conf.request_metadata
        return {
            "modelId": request.model,
            "contentType": JSON,
            "accept": JSON,
            **({"serviceTier": tier} if tier else {}),
            **({"requestMetadata": json.dumps({**metadata, "key": request.key})} if metadata else {}),
        }


def _invalid_request(request: Request, conf: Endpoint, body: bytes, limit: int) -> Reply | None:
    """Return the failed reply of a request that the service cannot take, None for a valid one."""
    if conf.codec in TEXT_CODECS and not isinstance(request.prompt, str):
        return failed_reply("bad_request", f"codec {conf.codec} sends one text, but the prompt is a list of messages")
    if len(body) > limit:
        return failed_reply("bad_request", f"the request has {len(body):,} bytes; the service takes at most {limit:,}")
    return None


class AwsConnection:
    """The boto3 clients of one service, one for each read timeout.

    In boto3 a timeout belongs to a client, not to a call. So there are clients for 10 s, 20 s, 40 s and so on up to
    `longest`, each created when it is first needed, and a call takes the first whose timeout is long enough. The
    timeout restarts with each chunk of a response.
    """

    def __init__(self, service: str, conf: Endpoint, connections: int, longest: float) -> None:
        self._service, self._conf, self._connections, self._longest = service, conf, connections, longest
        self._session: boto3.Session | None = None
        self._clients: dict[float, Any] = {}
        self._lock = Lock()  # threads can share a client but not a session

    def ask(
        self, operation: str, arguments: Mapping[str, Any], read: Callable[[Any], Reply], seconds: float | None
    ) -> Reply:
        """Call an operation once and turn its response into a Reply with `read`."""
        timeout = _read_timeout(min(seconds or self._longest, self._longest), self._longest)
        try:
            answer = _json_value(getattr(self._client(timeout), operation)(**arguments))
        except (BotoCoreError, ClientError, HTTPError) as error:
            return aws_errors.reply(error, timeout)
        except PARSE_ERRORS as error:
            return failed_reply(
                "model_error", responses.one_line(f"the answer does not have the service's schema: {error!r}")
            )
        reply = read(answer)
        return replace(reply, error=responses.one_line(reply.error)) if reply.error else reply

    def close(self) -> None:
        """Close the idle connections of all clients."""
        with self._lock:
            for client in self._clients.values():
                client.close()

    def _client(self, timeout: float) -> Any:  # noqa: ANN401 - boto3 creates its classes at run time
        with self._lock:
            if timeout not in self._clients:
                self._session = self._session or boto3.Session()
                self._clients[timeout] = self._session.client(
                    self._service,
                    region_name=region(self._conf),
                    endpoint_url=self._conf.url or None,
                    config=_client_config(self._connections, timeout),
                )
            return self._clients[timeout]


def region(conf: Endpoint) -> str | None:
    """Return the endpoint's region, else AWS_REGION, which boto3 ignores; None for boto3's default."""
    return conf.region or os.environ.get("AWS_REGION") or None


def _client_config(connections: int, timeout: float) -> Config:
    return Config(
        max_pool_connections=connections,
        connect_timeout=min(CONNECT_SECONDS, timeout),
        read_timeout=timeout,
        retries={"total_max_attempts": 1, "mode": "standard"},
        tcp_keepalive=True,
    )


def _read_timeout(seconds: float, longest: float) -> float:
    """Return the first of 10, 20, 40, ... s that is at least `seconds`, at most `longest`."""
    timeout = MIN_READ_SECONDS
    while timeout < seconds:
        timeout *= 2
    return min(timeout, longest)


def _json_value(answer: Mapping[str, Any]) -> Any:  # noqa: ANN401 - any JSON
    """Return the JSON value of a response: of its body, or the fields that boto3 has parsed."""
    body = answer.get("Body", answer.get("body"))
    if body is not None:
        return responses.parse_json(body.read())
    return {name: part for name, part in answer.items() if name != "ResponseMetadata"}
