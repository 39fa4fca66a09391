"""An exception of botocore -> a failed Reply, whose class follows from the error code, else from the HTTP status.

The codes are those in the service models of SageMaker and Bedrock, and those for credentials that all AWS services
share ("Common error types" in the API references).
"""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from botocore import exceptions as raised
from urllib3.exceptions import HTTPError

from raft_spark.endpoints import authorities, failures, responses
from raft_spark.endpoints.base import ErrorClass, Reply
from raft_spark.endpoints.http import REFUSED_BY_PROXY

CODES: Mapping[str, ErrorClass] = {
    "Throttling": "throttled",
    "ThrottlingException": "throttled",
    "ThrottledException": "throttled",
    "TooManyRequestsException": "throttled",
    "RequestLimitExceeded": "throttled",
    "ServiceQuotaExceededException": "throttled",  # InvokeModel raises it for requests or tokens per minute
    "ModelNotReadyException": "throttled",  # an imported model that is being loaded
    "ModelTimeoutException": "timeout",
    "ServiceUnavailable": "throttled",
    "ServiceUnavailableException": "throttled",
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
CONTAINER_ERRORS = frozenset({"ModelError", "ModelErrorException"})  # the container's own status decides
GENERATION_FAILED = 424  # the status of TGI and LMI
# A ValidationError that every request would get: the endpoint or model does not exist, or not for this account.
NOT_FOUND = re.compile(
    r"not found|could not find|does(n't| not) exist|model identifier is invalid|on-demand throughput|"
    r"operation not allowed|header is required for endpoints|end of (its )?life|is (retired|legacy|deprecated)|marked .{0,40}legacy",
    re.IGNORECASE,
)
# The ValidationError of an inference component that is scaled to zero; a copy starts within minutes.
NO_CAPACITY = "has no capacity to process this request"
NOT_SENT = (  # no connection was opened
    raised.EndpointConnectionError,
    raised.ConnectTimeoutError,
    raised.ProxyConnectionError,
    raised.SSLError,
    raised.MetadataRetrievalError,
)
ACCESS_KEY = re.compile(r"\bA[KS]IA[A-Z0-9]{12,}")
CANONICAL_STRING = "The Canonical String"  # begins the part of a signature error that has the session token


def reply(error: Exception, seconds: float) -> Reply:
    """Return a failed Reply; `seconds` is the timeout of the call."""
    if isinstance(error, raised.ReadTimeoutError):
        return responses.failed_reply("timeout", f"no answer within {seconds:g} s")
    if isinstance(error, raised.ClientError):
        headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        wait = failures.wait_seconds(headers, error.response.get("Error"))
        return responses.failed_reply(_error_class(error.response), message_of(error), wait)
    if is_refused(error):
        return responses.failed_reply("refused", message_of(error))
    lost = raised.HTTPClientError | raised.ConnectionError | raised.IncompleteReadError | raised.MetadataRetrievalError
    if isinstance(error, lost | HTTPError):
        failed = responses.failed_reply("unavailable", responses.one_line(f"no answer: {message_of(error)}"))
        return replace(failed, is_cut_off=not isinstance(error, NOT_SENT))
    return responses.failed_reply("refused", message_of(error))  # credentials, profile or region must be changed


def is_refused(error: Exception) -> bool:
    """Return whether a connection of boto3 failed so that every other will: a bad certificate, or a proxy that refuses."""
    match error:
        case raised.SSLError():
            return authorities.UNTRUSTED in str(error)
        case raised.ProxyConnectionError():
            return bool(REFUSED_BY_PROXY.search(str(error.kwargs.get("error"))))
    return False


def message_of(error: Exception) -> str:
    """Return an error message as one line without credentials, with a remedy where one is known."""
    match error:
        case raised.NoRegionError():
            message = "no AWS region is set: set endpoints.NAME.region, or AWS_REGION where the job runs"
        case raised.NoCredentialsError():
            message = "no AWS credentials were found: set AWS_PROFILE or AWS_ACCESS_KEY_ID, or use a role"
        case raised.SSOError() | raised.TokenRetrievalError():
            name = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE")
            login = f"aws sso login --profile {name}" if name else "aws sso login"
            message = f"the login to AWS IAM Identity Center is missing or has expired: run `{login}` ({error})"
        case raised.SSLError() if is_refused(error):
            message = authorities.refusal(error.kwargs["endpoint_url"], str(error))
        case raised.ProxyConnectionError() if is_refused(error):
            message = f"{error}: {error.kwargs['error'].original_error}"
        case raised.ClientError():
            message = _service_message(error.response)
        case _:
            message = str(error)
    return responses.one_line(ACCESS_KEY.sub("***", message.partition(CANONICAL_STRING)[0]))


def _service_message(response: Mapping[str, Any]) -> str:
    code, message, status = _code_message_status(response)
    if code in CONTAINER_ERRORS and status:
        original = responses.parse_json(str(response.get("OriginalMessage", "")).encode(errors="replace"))
        return f"the model's container answered with status {status}: {responses.message_in(original) or message}"
    return f"{code}: {message or 'AWS gave no reason'}"


def _error_class(response: Mapping[str, Any]) -> ErrorClass:
    code, message, status = _code_message_status(response)
    found = _class_of(code, message, status)
    if code in CONTAINER_ERRORS:
        message += str(response.get("OriginalMessage", ""))
    if found == "model_error" and failures.BUSY.search(message):
        found = "throttled"
    return "refused" if found == "throttled" and failures.is_quota_used(message) else found


def _class_of(code: str, message: str, status: int) -> ErrorClass:
    if code in CONTAINER_ERRORS:
        return _container_class(status, message)
    known = CODES.get(code)
    if known == "bad_request" and NO_CAPACITY in message:
        return "throttled"
    if known == "bad_request" and NOT_FOUND.search(message):
        return "refused"
    return known or ("unavailable" if status == 530 else responses.class_of_status(status))  # noqa: PLR2004 - SageMaker's


def _container_class(status: int, message: str) -> ErrorClass:
    """Return the class of the container's own status, which SageMaker gives as 0 when the container was too slow."""
    if status in {0, GENERATION_FAILED}:
        return "timeout" if "timed out" in message else "model_error"
    return responses.class_of_status(status)


def _code_message_status(response: Mapping[str, Any]) -> tuple[str, str, int]:
    """Return code, message and status; the status is the container's if the error is."""
    error = response.get("Error", {})
    code, message = str(error.get("Code", "")), str(error.get("Message", ""))
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in CONTAINER_ERRORS:
        status = response.get("OriginalStatusCode", response.get("originalStatusCode", 0))
    return code, message, int(status)
