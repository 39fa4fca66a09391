"""request, endpoint -> the call as it goes out: address, headers and body, without any secret. Nothing is sent.

The functions that make the calls are those of the clients.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raft_spark.config import Endpoint
from raft_spark.endpoints.base import Request

REDACTED = "***"
PROMPT_FIELDS = ("messages", "prompt", "inputs", "system", "input", "inputText")


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
    return _aws(conf, request) if conf.kind in {"sagemaker", "bedrock"} else _openai(conf, request)


def _openai(conf: Endpoint, request: Request) -> OutgoingCall:
    from raft_spark.endpoints import http, openai  # noqa: PLC0415 - as endpoints.connect

    has_key = conf.api_key_env or conf.api_key_secret
    call = openai.call(conf, request, REDACTED if has_key else "")
    return OutgoingCall(http.origin(conf.url) + call.target, call.headers, json.loads(call.body))


def _aws(conf: Endpoint, request: Request) -> OutgoingCall:
    from raft_spark.endpoints import aws, aws_service  # noqa: PLC0415 - as endpoints.connect

    call = aws.sagemaker_call(conf, request) if conf.kind == "sagemaker" else aws.bedrock_call(conf, request)
    url = aws_service.address(f"{conf.kind}-runtime", conf) + call.path
    return OutgoingCall(url, {**call.headers, "Authorization": REDACTED}, json.loads(call.body))
