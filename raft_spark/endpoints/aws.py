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
        call = sagemaker_call(self._conf, request)
        problem = _invalid_request(request, self._conf, call.body, SAGEMAKER_BYTES)
        return problem or self._connection.ask(call, codecs.SAGEMAKER[self._conf.codec][1], seconds)

    def close(self) -> None:
        """Close the idle connections."""
        self._connection.close()


class BedrockClient:
    """A client of one Bedrock model, through Converse or InvokeModel.

    Many threads call `ask` at once; it never raises.
    """

    def __init__(self, conf: Endpoint, connections: int, timeout_seconds: float) -> None:
        self._conf = conf
        self._connection = AwsConnection("bedrock-runtime", conf, connections, timeout_seconds)

    def ask(self, request: Request, seconds: float | None = None) -> Reply:
        """Send a request once; wait about `seconds`, see AwsConnection."""
        call = bedrock_call(self._conf, request)
        problem = _invalid_request(request, self._conf, call.body, BEDROCK_BYTES)
        return problem or self._connection.ask(call, codecs.BEDROCK[self._conf.codec][1], seconds)

    def close(self) -> None:
        """Close the idle connections."""
        self._connection.close()


def sagemaker_call(conf: Endpoint, request: Request) -> AwsCall:
    """Return the call of InvokeEndpoint. Without a route the container recognizes a chat by its body."""
    component, route = conf.inference_component, sagemaker_route(conf)
    headers = {
        "Content-Type": JSON,
        "Accept": JSON,
        "X-Amzn-SageMaker-Inference-Id": request.key,
        **({"X-Amzn-SageMaker-Inference-Component": component} if component else {}),
        **({"X-Amzn-SageMaker-Custom-Attributes": route} if route else {}),
    }
    body = json.dumps(codecs.sagemaker_body(request, conf)).encode()
    return AwsCall("invoke_endpoint", conf.endpoint_name, headers, body)


def sagemaker_route(conf: Endpoint) -> str:
    """Return the custom attribute that names the route to the container, "" for none."""
    return f"route={conf.route}" if conf.route and conf.codec == "openai" else ""


def bedrock_call(conf: Endpoint, request: Request) -> AwsCall:
    """Return the call of Converse or InvokeModel."""
    body = codecs.BEDROCK[conf.codec][0](request)
    if conf.codec != "converse":
        return AwsCall("invoke_model", request.model, _invoke_headers(conf, request), json.dumps(body).encode())
    whole = {**body, **_converse_options(conf, request)}
    return AwsCall("converse", request.model, {"Content-Type": JSON}, json.dumps(whole).encode())


def _converse_options(conf: Endpoint, request: Request) -> dict[str, Any]:
    """Return the fields of the body that are no part of the prompt."""
    metadata = {**conf.request_metadata, "key": request.key}
    return {"requestMetadata": metadata, **({"serviceTier": {"type": conf.service_tier}} if conf.service_tier else {})}


def _invoke_headers(conf: Endpoint, request: Request) -> Mapping[str, str]:
    """Return the arguments of InvokeModel, which are headers."""
    tier, metadata = conf.service_tier, conf.request_metadata
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
