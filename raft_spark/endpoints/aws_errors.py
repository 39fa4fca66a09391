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
CONTAINER = frozenset({"ModelError", "ModelErrorException"})  # the status behind the error decides
BROKEN_GENERATION = 424  # as TGI and LMI say it
NOWHERE = (
    re.compile(  # a ValidationError that is true of every request: no such endpoint or model, or not for this account
        r"not found|could not find|does(n't| not) exist|model identifier is invalid|on-demand throughput|"
        r"operation not allowed|header is required for endpoints",
        re.IGNORECASE,
    )
)
NO_COPY = "has no capacity to process this request"  # an inference component that was scaled to zero: it comes back in minutes
ACCESS_KEY = re.compile(r"\bA[KS]IA[A-Z0-9]{12,}")
SIGNED = "The Canonical String"  # what a refused signature is compared with: it repeats the session token


def reply(error: Exception, seconds: float) -> Reply:
    """Return a failed Reply; `seconds` is how long the call would have waited."""
    if isinstance(error, raised.ReadTimeoutError):
        return responses.failed("timeout", f"no answer within {seconds:g} s")
    if isinstance(error, raised.ClientError):
        headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        wait = responses.seconds(headers.get("retry-after", ""))
        return responses.failed(_class(error.response), sentence(error), wait)
    lost = raised.HTTPClientError | raised.ConnectionError | raised.IncompleteReadError | raised.MetadataRetrievalError
    if isinstance(error, lost | HTTPError):
        return responses.failed("unavailable", responses.line(f"no answer: {sentence(error)}"))
    return responses.failed("refused", sentence(error))  # credentials, profile, region: a person must change something


def sentence(error: Exception) -> str:
    """Return what went wrong and, where it is known, what would be right; one line without credentials."""
    match error:
        case raised.NoRegionError():
            told = "no AWS region is known: set endpoints.NAME.region, or AWS_REGION where the job runs"
        case raised.NoCredentialsError():
            told = "no AWS credentials were found: set AWS_PROFILE or AWS_ACCESS_KEY_ID, or use a role"
        case raised.ClientError():
            told = _told(error.response)
        case _:
            told = str(error)
    return responses.line(ACCESS_KEY.sub("***", told.partition(SIGNED)[0]))


def _told(response: Mapping[str, Any]) -> str:
    code, message, status = _read(response)
    if code in CONTAINER and status:
        original = responses.value(str(response.get("OriginalMessage", "")).encode(errors="replace"))
        return f"the model's container answered with status {status}: {responses.words(original) or message}"
    return f"{code}: {message or 'AWS gave no reason'}"


def _class(response: Mapping[str, Any]) -> ErrorClass:
    code, message, status = _read(response)
    if code in CONTAINER:
        return _container_class(status, message)
    known = CODES.get(code)
    if known == "bad_request" and NO_COPY in message:
        return "throttled"
    if known == "bad_request" and NOWHERE.search(message):
        return "refused"
    return known or ("unavailable" if status == 530 else responses.by_status(status))  # noqa: PLR2004 - SageMaker's own


def _container_class(status: int, message: str) -> ErrorClass:
    """Return what the container's own status means; SageMaker says 0 for a container that was too slow."""
    if status in {0, BROKEN_GENERATION}:
        return "timeout" if "timed out" in message else "model_error"
    return responses.by_status(status)


def _read(response: Mapping[str, Any]) -> tuple[str, str, int]:
    """Return code, message and status: of the container, where the error is its own."""
    error = response.get("Error", {})
    code, message = str(error.get("Code", "")), str(error.get("Message", ""))
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in CONTAINER:
        status = response.get("OriginalStatusCode", response.get("originalStatusCode", 0))
    return code, message, int(status)
