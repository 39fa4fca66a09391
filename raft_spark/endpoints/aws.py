"""Send requests to a real-time endpoint of SageMaker or to a model of Bedrock.

Each request is sent once. Credentials are found as boto3 finds them. Missing or wrong credentials, or an endpoint or
model that does not exist, give a Reply of class `refused`.
"""

import json
from collections.abc import Mapping
from typing import Any

from raft_spark.config.models import TEXT_CODECS, Endpoint
from raft_spark.endpoints import codecs
from raft_spark.endpoints.aws_connection import AwsCall, AwsConnection
from raft_spark.endpoints.base import Reply, Request
from raft_spark.endpoints.responses import failed_reply

SAGEMAKER_BYTES = 6_291_456
SAGEMAKER_SECONDS = 70.0  # a container has 60 s to answer; the rest is for the network
BEDROCK_BYTES = 25_000_000
JSON = "application/json"


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
        call = AwsCall("invoke_endpoint", self._conf.endpoint_name, self._headers(request), body)
        return self._connection.ask(call, read, seconds)

    def close(self) -> None:
        """Close the idle connections."""
        self._connection.close()

    def _headers(self, request: Request) -> dict[str, str]:
        """Return the arguments, which are headers. Without a route the container recognizes a chat by its body."""
        component, route = self._conf.inference_component, self._conf.route
        return {
            "Content-Type": JSON,
            "Accept": JSON,
            "X-Amzn-SageMaker-Inference-Id": request.key,
            **({"X-Amzn-SageMaker-Inference-Component": component} if component else {}),
            **(
                {"X-Amzn-SageMaker-Custom-Attributes": f"route={route}"}
                if route and self._conf.codec == "openai"
                else {}
            ),
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
        is_converse = self._conf.codec == "converse"
        body = json.dumps({**write(request), **(self._converse_options(request) if is_converse else {})}).encode()
        if problem := _invalid_request(request, self._conf, body, BEDROCK_BYTES):
            return problem
        operation, headers = (
            ("converse", {"Content-Type": JSON}) if is_converse else ("invoke_model", self._invoke_headers(request))
        )
        return self._connection.ask(AwsCall(operation, request.model, headers, body), read, seconds)

    def close(self) -> None:
        """Close the idle connections."""
        self._connection.close()

    def _converse_options(self, request: Request) -> dict[str, Any]:
        """Return the fields of the body that are no part of the prompt."""
        tier = self._conf.service_tier
        metadata = {**self._conf.request_metadata, "key": request.key}
        return {"requestMetadata": metadata, **({"serviceTier": {"type": tier}} if tier else {})}

    def _invoke_headers(self, request: Request) -> Mapping[str, str]:
        """Return the arguments of InvokeModel, which are headers."""
        tier, metadata = self._conf.service_tier, self._conf.request_metadata
        sent = json.dumps({**metadata, "key": request.key}) if metadata else ""
        return {
            "Content-Type": JSON,
            "Accept": JSON,
            **({"X-Amzn-Bedrock-Service-Tier": tier} if tier else {}),
            **({"X-Amzn-Bedrock-Request-Metadata": sent} if sent else {}),
        }


def _invalid_request(request: Request, conf: Endpoint, body: bytes, limit: int) -> Reply | None:
    """Return the failed reply of a request that the service cannot take, None for a valid one."""
    if conf.codec in TEXT_CODECS and not isinstance(request.prompt, str):
        return failed_reply("bad_request", f"codec {conf.codec} sends one text, but the prompt is a list of messages")
    if len(body) > limit:
        return failed_reply("bad_request", f"the request has {len(body):,} bytes; the service takes at most {limit:,}")
    return None
