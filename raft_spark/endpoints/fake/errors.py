"""An error of the fake endpoint -> a response in the schema of OpenAI, SageMaker or Bedrock.

AWS uses the protocol rest-json: the header x-amzn-errortype names the exception, and the body has its members. The
names are those in botocore's models of sagemaker-runtime and bedrock-runtime.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from raft_spark.endpoints.local.process import error_body

TOO_MANY_REQUESTS = 429
Headers = list[tuple[bytes, bytes]]
ERRORS: Mapping[str, Mapping[int, str]] = {
    "sagemaker": {
        403: "AccessDeniedException",
        424: "ModelError",
        429: "ThrottlingException",
        503: "ServiceUnavailable",
        530: "InternalDependencyException",
        4: "ValidationError",  # any other 4xx
        5: "InternalFailure",  # any other 5xx
    },
    "bedrock": {
        403: "AccessDeniedException",
        404: "ResourceNotFoundException",
        408: "ModelTimeoutException",
        424: "ModelErrorException",
        429: "ThrottlingException",
        503: "ServiceUnavailableException",
        4: "ValidationException",
        5: "InternalServerException",
    },
}


@dataclass(frozen=True, slots=True)
class RawResponse:
    """The status, headers and body of a response."""

    status: int
    headers: Headers
    body: bytes
    throttled: bool = False


@dataclass(eq=False)
class ServiceError(Exception):
    """An error of a service.

    `name` is its AWS name, "" for the usual one of its status. `original_status` is the status of the container that
    caused it, 0 for an error of the service itself.
    """

    status: int
    message: str
    name: str = ""
    original_status: int = 0
    retry_after: str | float | None = None


def service_of(path: str) -> Literal["openai", "sagemaker", "bedrock"]:
    """Return the service to which a path belongs."""
    if path.startswith("/endpoints/"):
        return "sagemaker"
    return "bedrock" if path.startswith("/model/") else "openai"


def error_response(path: str, error: ServiceError, container: str = "tgi") -> RawResponse:
    """Return an error in the schema of its service; an error of the container becomes a ModelError."""
    service = service_of(path)
    if service == "openai":
        status = error.status if error.status != 200 else error.original_status  # noqa: PLR2004 - OK
        return _raw_response(error, status, error_body(error.message), [])
    status = 424 if error.original_status else error.status
    name = error.name or ERRORS[service].get(status) or ERRORS[service][max(4, status // 100)]
    body: dict[str, object] = {"Message" if service == "sagemaker" else "message": error.message}
    if name == "ModelError":
        body = _model_error(error, container)
    if name == "ModelErrorException":
        body |= {"originalStatusCode": error.original_status or 500, "resourceName": path.split("/")[2]}
    kind = name if service == "sagemaker" else f"{name}:http://internal.amazon.com/coral/com.amazon.bedrock/"
    return _raw_response(error, status, body, [(b"x-amzn-errortype", kind.encode())])


def _model_error(error: ServiceError, container: str) -> dict[str, object]:
    """Return SageMaker's body for an error of the container, whose own body it contains."""
    status = error.original_status or 500
    kind = {422: "validation", 424: "generation", 429: "overloaded"}.get(status, "incomplete_generation")
    original = json.dumps(
        {"error": error.message, **({"error_type": kind} if container == "tgi" else {"code": status})}
    )
    fault = "client" if status < 500 else "server"  # noqa: PLR2004 - as HTTP divides them
    return {
        "ErrorCode": f"{fault.upper()}_ERROR_FROM_MODEL",
        "LogStreamArn": "arn:aws:logs:us-east-1:000000000000:log-group:/aws/sagemaker/Endpoints/fake",
        "Message": f'Received {fault} error ({status}) from primary with message "{original}".',
        "OriginalMessage": original,
        "OriginalStatusCode": status,
    }


def _raw_response(error: ServiceError, status: int, body: Mapping[str, object], extra: Headers) -> RawResponse:
    throttled = TOO_MANY_REQUESTS in {status, error.original_status} or error.name == "ThrottlingException"
    return RawResponse(status, json_headers(extra, error.retry_after), json.dumps(body).encode(), throttled)


def json_headers(extra: Headers, retry_after: str | float | None = None) -> Headers:
    """Return the headers of a JSON body; a number of seconds is written as the services do, 7 and not 7.0."""
    wait = retry_after if isinstance(retry_after, str | None) else f"{retry_after:g}"
    return [
        (b"content-type", b"application/json"),
        *extra,
        *([(b"retry-after", wait.encode("latin-1"))] if wait else []),
    ]
