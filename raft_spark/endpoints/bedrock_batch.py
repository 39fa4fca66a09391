"""Find, create and look up Bedrock's batch jobs: three calls of its control plane.

A function returns None when the call should be repeated later: the service throttles, fails, cannot be reached, or
already runs as many jobs as the quota allows. An error that waiting cannot resolve is an EndpointError. The retries of
the SDK are off, since the caller polls.
"""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as NoConnection

from raft_spark.config import Endpoint
from raft_spark.errors import EndpointError

RETRY_LATER = frozenset(
    {"ThrottlingException", "TooManyRequestsException", "ServiceQuotaExceededException", "ServiceUnavailableException"}
)
ENDED = frozenset({"Completed", "PartiallyCompleted", "Failed", "Stopped", "Expired"})
TIMEOUT_SECONDS = 60  # of one call
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """The state of a job: status, message of a failure, numbers of records that succeeded and failed."""

    status: str
    message: str
    answered: int
    failed: int


def connect(conf: Endpoint) -> Any:  # noqa: ANN401 - boto3 creates its classes at run time
    """Open a client.

    AWS_ENDPOINT_URL_BEDROCK takes precedence over `url`, which may be that of bedrock-runtime only.
    """
    try:
        return boto3.client(
            "bedrock",
            endpoint_url=os.environ.get("AWS_ENDPOINT_URL_BEDROCK") or conf.url or None,
            region_name=conf.region or None,
            config=Config(
                retries={"total_max_attempts": 1}, connect_timeout=TIMEOUT_SECONDS, read_timeout=TIMEOUT_SECONDS
            ),
        )
    except BotoCoreError as error:
        msg = f"Bedrock cannot be reached: {error}"
        raise EndpointError(msg) from error


def find(client: Any, name: str) -> str | None:  # noqa: ANN401 - see `connect`
    """Return the ARN of the job of this name, "" if it does not exist."""

    def search() -> str:
        pages = client.get_paginator("list_model_invocation_jobs").paginate(nameContains=name)
        jobs = (job for page in pages for job in page.get("invocationJobSummaries", []))
        return next((str(job["jobArn"]) for job in jobs if job["jobName"] == name), "")

    return _call_or_none(search)


def create(client: Any, call: Mapping[str, Any]) -> str | None:  # noqa: ANN401 - see `connect`
    """Create a job and return its ARN; calls with the same clientRequestToken create one job."""
    return _call_or_none(lambda: str(client.create_model_invocation_job(**call)["jobArn"]))


def get_status(client: Any, arn: str) -> BatchStatus | None:  # noqa: ANN401 - see `connect`
    """Return the state of a job."""

    def describe() -> BatchStatus:
        job = client.get_model_invocation_job(jobIdentifier=arn)
        counts = (int(job.get(name) or 0) for name in ("successRecordCount", "errorRecordCount"))
        return BatchStatus(str(job.get("status", "")), str(job.get("message") or ""), *counts)

    return _call_or_none(describe)


def _call_or_none(call: Callable[[], _T]) -> _T | None:
    try:
        return call()
    except ClientError as error:
        if _is_temporary(error):
            logging.getLogger(__name__).warning("a call to Bedrock's batch jobs failed and will be repeated: %s", error)
            return None
        raise EndpointError(str(error)) from error
    except (NoConnection, HTTPClientError) as error:
        logging.getLogger(__name__).warning("a call to Bedrock's batch jobs failed and will be repeated: %s", error)
        return None
    except BotoCoreError as error:
        raise EndpointError(str(error)) from error


def _is_temporary(error: ClientError) -> bool:
    response = error.response
    is_server_error = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500  # noqa: PLR2004 - 5xx
    return is_server_error or response.get("Error", {}).get("Code") in RETRY_LATER
