"""request, endpoint -> the call as it goes out: address, headers and body, without any secret. Nothing is sent.

Sources of the addresses and headers of AWS: the API references of InvokeEndpoint, Converse and InvokeModel.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from raft_spark.config import Endpoint
from raft_spark.endpoints import codecs
from raft_spark.endpoints.base import Request

REDACTED = "***"
PROMPT_FIELDS = ("messages", "prompt", "inputs", "system")


@dataclass(frozen=True, slots=True)
class OutgoingCall:
    """One POST. In place of a key or a signature, `headers` has three stars."""

    url: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]

    def without_prompt(self) -> str:
        """Return the address and the fields other than the prompt, as one line."""
        fields = {name: value for name, value in self.body.items() if name not in PROMPT_FIELDS}
        return f"{self.url} {json.dumps(fields, ensure_ascii=False)}"


def describe(conf: Endpoint, request: Request) -> OutgoingCall:
    """Return the call that sends `request` to an endpoint that is served."""
    if conf.kind == "sagemaker":
        return _invoke_endpoint(conf, request)
    if conf.kind == "bedrock":
        return _bedrock(conf, request)
    from raft_spark.endpoints import openai  # noqa: PLC0415 - as endpoints.connect

    parts = urlsplit(conf.url)
    url = urlunsplit((parts.scheme, parts.netloc, "", "", "")) + openai.path(conf, request)
    has_key = conf.api_key_env or conf.api_key_secret
    headers = openai.headers(conf, request.key, REDACTED if has_key else "")
    return OutgoingCall(url, headers, codecs.openai_body(request))


def _invoke_endpoint(conf: Endpoint, request: Request) -> OutgoingCall:
    route = conf.route if conf.codec == "openai" else ""
    headers = {
        **_aws_headers(),
        "X-Amzn-SageMaker-Inference-Id": request.key,
        **({"X-Amzn-SageMaker-Inference-Component": conf.inference_component} if conf.inference_component else {}),
        **({"X-Amzn-SageMaker-Custom-Attributes": f"route={route}"} if route else {}),
    }
    path = f"/endpoints/{conf.endpoint_name}/invocations"
    return OutgoingCall(_address(conf, "runtime.sagemaker") + path, headers, codecs.sagemaker_body(request, conf))


def _bedrock(conf: Endpoint, request: Request) -> OutgoingCall:
    body = codecs.BEDROCK[conf.codec][0](request)
    address = f"{_address(conf, 'bedrock-runtime')}/model/{quote(request.model, safe='')}"
    tier, metadata = conf.service_tier, {**conf.request_metadata, "key": request.key}
    if conf.codec == "converse":
        service = {"serviceTier": {"type": tier}} if tier else {}
        headers = {name: value for name, value in _aws_headers().items() if name != "Accept"}
        return OutgoingCall(f"{address}/converse", headers, {**body, "requestMetadata": metadata, **service})
    headers = {
        **_aws_headers(),
        **({"X-Amzn-Bedrock-Service-Tier": tier} if tier else {}),
        **({"X-Amzn-Bedrock-Request-Metadata": json.dumps(metadata)} if conf.request_metadata else {}),
    }
    return OutgoingCall(f"{address}/invoke", headers, body)


def _address(conf: Endpoint, service: str) -> str:
    region = conf.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "REGION"
    return conf.url or f"https://{service}.{region}.amazonaws.com"


def _aws_headers() -> dict[str, str]:
    return {"Content-Type": "application/json", "Accept": "application/json", "Authorization": REDACTED}
