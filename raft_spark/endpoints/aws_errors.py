"""What botocore raised -> a failed Reply: its class by the error's code first, then by the HTTP status.

The codes are those of the service models of SageMaker and Bedrock, and of every AWS service where credentials fail
("Common error types" of the API references).
"""

import re
from collections.abc import Mapping
from typing import Any

from botocore import exceptions as raised
from urllib3.exceptions import HTTPError

from raft_spark.endpoints import responses
from raft_spark.endpoints.base import ErrorClass, Reply

CODES: Mapping[str, ErrorClass] = {
    "Throttling": "throttled",
    "ThrottlingException": "throttled",
    "ThrottledException": "throttled",
    "TooManyRequestsException": "throttled",
    "RequestLimitExceeded": "throttled",
    "ServiceQuotaExceededException": "throttled",  # of requests or tokens in a time, as InvokeModel means it
    "ModelNotReadyException": "throttled",  # an imported model that wakes up
    "ModelTimeoutException": "timeout",
    "ServiceUnavailable": "unavailable",
    "ServiceUnavailableException": "unavailable",
    "InternalDependencyException": "unavailable",
    "InternalFailure": "model_error",
    "InternalServerException": "model_error",
    "ValidationError": "bad_request",
    "ValidationException": "bad_request",
    "ResourceNotFoundException": "refused",
    "AccessDenied": "refused",
    "AccessDeniedException": "refused",
    "ExpiredToken": "refused",
    "ExpiredTokenException": "refused",
    "RequestExpired": "refused",  # this machine's clock is wrong
    "IncompleteSignature": "refused",
    "InvalidSignatureException": "refused",
    "SignatureDoesNotMatch": "refused",
    "InvalidClientTokenId": "refused",
    "MissingAuthenticationToken": "refused",
    "MissingAuthenticationTokenException": "refused",
    "NotAuthorized": "refused",
    "OptInRequired": "refused",
    "UnrecognizedClientException": "refused",
}
CONTAINER_ERRORS = frozenset({"ModelError", "ModelErrorException"})  # the status behind the error decides
GENERATION_FAILED = 424  # as TGI and LMI say it
NOT_FOUND = (
    re.compile(  # a ValidationError that is true of every request: no such endpoint or model, or not for this account
        r"not found|could not find|does(n't| not) exist|model identifier is invalid|on-demand throughput|"
        r"operation not allowed|header is required for endpoints",
        re.IGNORECASE,
    )
)
NO_CAPACITY = "has no capacity to process this request"  # an inference component that was scaled to zero: it comes back in minutes
ACCESS_KEY = re.compile(r"\bA[KS]IA[A-Z0-9]{12,}")
CANONICAL_STRING = "The Canonical String"  # what a refused signature is compared with: it repeats the session token


def reply(error: Exception, seconds: float) -> Reply:
    """Return a failed Reply; `seconds` is how long the call would have waited."""
    if isinstance(error, raised.ReadTimeoutError):
        return responses.failed_reply("timeout", f"no answer within {seconds:g} s")
    if isinstance(error, raised.ClientError):
        headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        wait = responses.retry_after_seconds(headers.get("retry-after", ""))
        return responses.failed_reply(_error_class(error.response), message_of(error), wait)
    lost = raised.HTTPClientError | raised.ConnectionError | raised.IncompleteReadError | raised.MetadataRetrievalError
    if isinstance(error, lost | HTTPError):
        return responses.failed_reply("unavailable", responses.one_line(f"no answer: {message_of(error)}"))
    return responses.failed_reply(
        "refused", message_of(error)
    )  # credentials, profile, region: a person must change something


def message_of(error: Exception) -> str:
    """Return what went wrong and, where it is known, what would be right; one line without credentials."""
    match error:
        case raised.NoRegionError():
            told = "no AWS region is known: set endpoints.NAME.region, or AWS_REGION where the job runs"
        case raised.NoCredentialsError():
            told = "no AWS credentials were found: set AWS_PROFILE or AWS_ACCESS_KEY_ID, or use a role"
        case raised.ClientError():
            told = _service_message(error.response)
        case _:
            told = str(error)
    return responses.one_line(ACCESS_KEY.sub("***", told.partition(CANONICAL_STRING)[0]))


def _service_message(response: Mapping[str, Any]) -> str:
    code, message, status = _code_message_status(response)
    if code in CONTAINER_ERRORS and status:
        original = responses.parse_json(str(response.get("OriginalMessage", "")).encode(errors="replace"))
        return f"the model's container answered with status {status}: {responses.message_in(original) or message}"
    return f"{code}: {message or 'AWS gave no reason'}"


def _error_class(response: Mapping[str, Any]) -> ErrorClass:
    code, message, status = _code_message_status(response)
    if code in CONTAINER_ERRORS:
        return _container_class(status, message)
    known = CODES.get(code)
    if known == "bad_request" and NO_CAPACITY in message:
        return "throttled"
    if known == "bad_request" and NOT_FOUND.search(message):
        return "refused"
    return known or ("unavailable" if status == 530 else responses.class_of_status(status))  # noqa: PLR2004 - SageMaker's own


def _container_class(status: int, message: str) -> ErrorClass:
    """Return what the container's own status means; SageMaker says 0 for a container that was too slow."""
    if status in {0, GENERATION_FAILED}:
        return "timeout" if "timed out" in message else "model_error"
    return responses.class_of_status(status)


def _code_message_status(response: Mapping[str, Any]) -> tuple[str, str, int]:
    """Return code, message and status: of the container, where the error is its own."""
    error = response.get("Error", {})
    code, message = str(error.get("Code", "")), str(error.get("Message", ""))
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in CONTAINER_ERRORS:
        status = response.get("OriginalStatusCode", response.get("originalStatusCode", 0))
    return code, message, int(status)
