"""Find, create, look up and read Bedrock's batch jobs: three calls of its control plane, and its output in S3.

    FILES/input/NAME.jsonl   {"recordId": key, "modelInput": body of a Converse call}
    FILES/output/...         what Bedrock writes: NAME.jsonl.out in a folder that Bedrock names

A function returns None when the call should be repeated later: the service throttles, fails, cannot be reached, or
already runs as many jobs as the quota allows. An error that waiting cannot resolve is an EndpointError. The retries of
the SDK are off, since the caller polls.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from hashlib import sha256
from typing import Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as NoConnection

from raft_spark.config import Completions, Endpoint
from raft_spark.endpoints import aws_errors, aws_service, batch_service, converse
from raft_spark.endpoints.base import Reply, Request
from raft_spark.endpoints.batch_service import BatchJob, BatchStatus, Files
from raft_spark.errors import ConfigError, EndpointError, InputError

RETRY_LATER = frozenset(
    {"ThrottlingException", "TooManyRequestsException", "ServiceQuotaExceededException", "ServiceUnavailableException"}
)
TIMEOUT_SECONDS = 60  # of one call
_T = TypeVar("_T")


class BedrockBatches:
    """Bedrock as a BatchService. A client is opened when it is first needed, so that Spark can send this object."""

    needs_bucket = True
    address = batch_service.BEDROCK

    def __init__(self, conf: Endpoint, completions: Completions) -> None:
        self._conf, self._hours = conf, completions.batch.timeout_hours

    @cached_property
    def _client(self) -> Any:  # noqa: ANN401 - see `connect`
        return connect(self._conf)

    def call(self, name: str, digest: str, files: Files) -> dict[str, Any]:
        """Return the arguments of CreateModelInvocationJob."""
        tags = {**self._conf.request_metadata, "raft-spark": name}
        source = batch_service.uri(files, f"input/{name}.jsonl")
        return {
            "jobName": name,
            "roleArn": self._conf.role_arn,
            "modelId": self._conf.model,
            "modelInvocationType": "Converse",
            "clientRequestToken": sha256(f"{name} {digest}".encode()).hexdigest(),
            "inputDataConfig": {"s3InputDataConfig": {"s3InputFormat": "JSONL", "s3Uri": source}},
            "outputDataConfig": {"s3OutputDataConfig": {"s3Uri": batch_service.uri(files, "output/")}},
            "timeoutDurationInHours": self._hours,
            "tags": [{"key": key, "value": value} for key, value in sorted(tags.items())],
        }

    def line(self, key: str, request: Request) -> bytes:
        """Return a record with the body of a Converse call."""
        return converse.batch_line(key, request)

    def find(self, job: BatchJob, _files: Files) -> str | None:
        """Return the ARN of a job."""
        return find(self._client, job.name)

    def create(self, job: BatchJob, _files: Files, _should_continue: Callable[[], bool]) -> str | None:
        """Create a job and return its ARN."""
        return create(self._client, job.call)

    def status(self, job: BatchJob, _files: Files) -> BatchStatus | None:
        """Return the state of a job."""
        return get_status(self._client, job.arn)

    def output(self, job: BatchJob, files: Files) -> Iterator[tuple[str, Reply]]:
        """Yield what Bedrock wrote below output/."""
        output = files.at("output")
        paths = [path for path in output.paths() if path.endswith(f"{job.name}.jsonl.out")]
        if not paths and job.answered:
            msg = (
                f"batch job {job.name} has {job.answered} answers, but {output.root} holds no {job.name}.jsonl.out; "
                "restore it and run again"
            )
            raise InputError(msg)
        for path in paths:
            yield from map(converse.read_batch_line, batch_service.lines(output, path))


def connect(conf: Endpoint) -> Any:  # noqa: ANN401 - boto3 creates its classes at run time
    """Open a client.

    AWS_ENDPOINT_URL_BEDROCK takes precedence over `url`, which may be that of bedrock-runtime only.
    """
    plane = conf.model_copy(update={"url": os.environ.get("AWS_ENDPOINT_URL_BEDROCK") or conf.url})
    try:
        return aws_service.open_client("bedrock", plane, TIMEOUT_SECONDS)
    except (BotoCoreError, ConfigError) as error:
        msg = f"Bedrock cannot be reached: {aws_errors.message_of(error)}"
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
    except BotoCoreError as error:
        if not isinstance(error, NoConnection | HTTPClientError) or aws_errors.is_refused(error):
            raise EndpointError(aws_errors.message_of(error)) from error
        logging.getLogger(__name__).warning("a call to Bedrock's batch jobs failed and will be repeated: %s", error)
        return None


def _is_temporary(error: ClientError) -> bool:
    response = error.response
    is_server_error = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500  # noqa: PLR2004 - 5xx
    return is_server_error or response.get("Error", {}).get("Code") in RETRY_LATER
