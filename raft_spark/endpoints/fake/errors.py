"""An error of the fake endpoint -> bytes, as OpenAI, SageMaker and Bedrock lay theirs out.

AWS's are rest-json: the header x-amzn-errortype names the exception, and botocore makes its members of the body. The names
are those of botocore's models of sagemaker-runtime and bedrock-runtime.
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
    """A response, ready to be sent."""

    status: int
    headers: Headers
    body: bytes
    throttled: bool = False


@dataclass(eq=False)
class ServiceError(Exception):
    """An error to be laid out: `name` is AWS's name for it, "" the usual one of its status; `original_status` is the
    container's own, 0 for an error that is the service's.
    """

    status: int
    message: str
    name: str = ""
    original_status: int = 0
    retry_after: str | float | None = None


def service_of(path: str) -> Literal["openai", "sagemaker", "bedrock"]:
    """Tell whose call this is."""
    if path.startswith("/endpoints/"):
        return "sagemaker"
    return "bedrock" if path.startswith("/model/") else "openai"


def error_response(path: str, trouble: ServiceError, container: str = "tgi") -> RawResponse:
    """Lay an error out as its service does; a container's own error reaches the caller as a ModelError."""
    owner = service_of(path)
    if owner == "openai":
        status = trouble.status if trouble.status != 200 else trouble.original_status  # noqa: PLR2004 - OK
        return _raw_response(trouble, status, error_body(trouble.message), [])
    status = 424 if trouble.original_status else trouble.status
    name = trouble.name or ERRORS[owner].get(status) or ERRORS[owner][max(4, status // 100)]
    body: dict[str, object] = {"Message" if owner == "sagemaker" else "message": trouble.message}
    if name == "ModelError":
        body = _model_error(trouble, container)
    if name == "ModelErrorException":
        body |= {"originalStatusCode": trouble.original_status or 500, "resourceName": path.split("/")[2]}
    kind = name if owner == "sagemaker" else f"{name}:http://internal.amazon.com/coral/com.amazon.bedrock/"
    return _raw_response(trouble, status, body, [(b"x-amzn-errortype", kind.encode())])


def _model_error(trouble: ServiceError, container: str) -> dict[str, object]:
    """Lay out what SageMaker says when the container fails; the container's words are in its own layout."""
    status = trouble.original_status or 500
    kind = {422: "validation", 424: "generation", 429: "overloaded"}.get(status, "incomplete_generation")
    said = json.dumps({"error": trouble.message, **({"error_type": kind} if container == "tgi" else {"code": status})})
    fault = "client" if status < 500 else "server"  # noqa: PLR2004 - as HTTP divides them
    return {
        "ErrorCode": f"{fault.upper()}_ERROR_FROM_MODEL",
        "LogStreamArn": "arn:aws:logs:us-east-1:000000000000:log-group:/aws/sagemaker/Endpoints/fake",
        "Message": f'Received {fault} error ({status}) from primary with message "{said}".',
        "OriginalMessage": said,
        "OriginalStatusCode": status,
    }


def _raw_response(trouble: ServiceError, status: int, body: Mapping[str, object], extra: Headers) -> RawResponse:
    throttled = TOO_MANY_REQUESTS in {status, trouble.original_status} or trouble.name == "ThrottlingException"
    return RawResponse(status, json_headers(extra, trouble.retry_after), json.dumps(body).encode(), throttled)


def json_headers(extra: Headers, retry_after: str | float | None = None) -> Headers:
    """Return the headers of a JSON body; a number of seconds is told as the services do, 7 and not 7.0."""
    wait = retry_after if isinstance(retry_after, str | None) else f"{retry_after:g}"
    return [
        (b"content-type", b"application/json"),
        *extra,
        *([(b"retry-after", wait.encode("latin-1"))] if wait else []),
    ]
