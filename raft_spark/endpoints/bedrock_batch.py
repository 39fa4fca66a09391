"""Bedrock's batch jobs, the three calls of the control plane: find, create, look.

An answer of None means "ask again later": the service is throttling, broken or out of reach, or has its quota of jobs
at work. Whatever waiting cannot mend is an EndpointError. The SDK's own retries are off: who polls retries.
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
TIMEOUT_SECONDS = 60  # for one call
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """What the service says of a job: its status, its words about a failure, and how many records it has done."""

    status: str
    message: str
    answered: int
    failed: int


def connect(conf: Endpoint) -> Any:  # noqa: ANN401 - boto3 makes its clients' classes while it runs
    """Open a client. AWS_ENDPOINT_URL_BEDROCK stands over `url`, for `url` may be the address of the model alone."""
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
    """Return the ARN of the job of this name, "" where there is none."""

    def found() -> str:
        pages = client.get_paginator("list_model_invocation_jobs").paginate(nameContains=name)
        jobs = (job for page in pages for job in page.get("invocationJobSummaries", []))
        return next((str(job["jobArn"]) for job in jobs if job["jobName"] == name), "")

    return _call_or_none(found)


def create(client: Any, call: Mapping[str, Any]) -> str | None:  # noqa: ANN401 - see `connect`
    """Start a job, once however often it is called with the same clientRequestToken; return its ARN."""
    return _call_or_none(lambda: str(client.create_model_invocation_job(**call)["jobArn"]))


def get_status(client: Any, arn: str) -> BatchStatus | None:  # noqa: ANN401 - see `connect`
    """Ask how a job is doing."""

    def told() -> BatchStatus:
        job = client.get_model_invocation_job(jobIdentifier=arn)
        done = (int(job.get(name) or 0) for name in ("successRecordCount", "errorRecordCount"))
        return BatchStatus(str(job.get("status", "")), str(job.get("message") or ""), *done)

    return _call_or_none(told)


def _call_or_none(call: Callable[[], _T]) -> _T | None:
    try:
        return call()
    except ClientError as error:
        if _is_temporary(error):
            logging.getLogger(__name__).warning("Bedrock's batch jobs: %s; it will be asked again", error)
            return None
        raise EndpointError(str(error)) from error
    except (NoConnection, HTTPClientError) as error:
        logging.getLogger(__name__).warning("Bedrock's batch jobs: %s; it will be asked again", error)
        return None
    except BotoCoreError as error:
        raise EndpointError(str(error)) from error


def _is_temporary(error: ClientError) -> bool:
    response = error.response
    broken = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500  # noqa: PLR2004 - 5xx
    return broken or response.get("Error", {}).get("Code") in RETRY_LATER
