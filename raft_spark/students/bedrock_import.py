"""A name and settings -> a model of Bedrock's Custom Model Import, made where it is missing, waited for, removed.

An import cannot be stopped; it costs nothing, and the model that it makes is paid for while it is asked, in windows of five minutes.
"""

import time
from collections.abc import Mapping
from typing import Any

from botocore.exceptions import ClientError

from raft_spark.common import aws
from raft_spark.common.aws import AwsClient
from raft_spark.config import Hosting
from raft_spark.config.models import Codec
from raft_spark.errors import RunError
from raft_spark.students import aws_requests, sagemaker_endpoint
from raft_spark.students.sagemaker_endpoint import Progress

Told = Mapping[str, Any]
IMPORT_MINUTES = 180
WITHOUT_CONVERSE = ("qwen", "gpt")  # how architectures begin that Converse does not speak with


def create(conf: Hosting, name: str, student: str, region: str, tell: Progress) -> Told:
    """Import what is not there, wait, and return GetImportedModel. Raises TakenError for another, RunError when it fails."""
    client, called = aws.connect("bedrock", region), aws_requests.resource_name(name)
    with aws.config_errors(f"{called} cannot be imported"):
        told = find(client, name)
        if told is None:
            arn = running_job(client, name) or _start_job(client, conf, name, student)
            tell(f"import job {arn.rpartition('/')[2]} of {called}")
            told = _wait_for_model(client, arn, tell)
        wanted = aws_requests.import_job(conf, name, student, "")["importedModelTags"]
        mark = next(tag["value"] for tag in wanted if tag["key"] == aws_requests.IDENTITY_TAG)
        if get_tags(client, told["modelArn"]).get(aws_requests.IDENTITY_TAG) != mark:
            msg = f"imported model {called} is another student or has other settings; first: raft-spark model unhost {name}"
            raise sagemaker_endpoint.NameTakenError(msg)
        tell(f"imported model {called} is there")
        return told


def find(client: AwsClient, name: str) -> Told | None:
    """Return GetImportedModel of the model of this name, None where there is none."""
    pages = client.get_paginator("list_imported_models").paginate(nameContains=aws_requests.resource_name(name))
    arns = [
        model["modelArn"]
        for page in pages
        for model in page["modelSummaries"]
        if model["modelName"] == aws_requests.resource_name(name)
    ]
    return dict(client.get_imported_model(modelIdentifier=arns[0])) if arns else None


def list_jobs(client: AwsClient, name: str) -> list[Told]:
    """Return the import jobs of this name, the newest first."""
    pages = client.get_paginator("list_model_import_jobs").paginate(
        nameContains=aws_requests.resource_name(name), sortBy="CreationTime", sortOrder="Descending"
    )
    return [
        job
        for page in pages
        for job in page["modelImportJobSummaries"]
        if job.get("importedModelName", aws_requests.resource_name(name)) == aws_requests.resource_name(name)
    ]


def running_job(client: AwsClient, name: str) -> str:
    """Return the ARN of an import that goes on, "" when none does."""
    return next((str(job["jobArn"]) for job in list_jobs(client, name) if job["status"] == "InProgress"), "")


def get_tags(client: AwsClient, arn: str) -> dict[str, str]:
    """Return a model's tags."""
    return {tag["key"]: tag["value"] for tag in client.list_tags_for_resource(resourceARN=arn)["tags"]}


def _start_job(client: AwsClient, conf: Hosting, name: str, student: str) -> str:
    before = list_jobs(client, name)
    last = str(before[0]["jobArn"]) if before else ""
    return str(client.create_model_import_job(**aws_requests.import_job(conf, name, student, last))["jobArn"])


def _wait_for_model(client: AwsClient, arn: str, tell: Progress) -> Told:
    """Look at a job until its model is there."""
    pause, end = sagemaker_endpoint.FIRST, time.monotonic() + IMPORT_MINUTES * 60
    while time.monotonic() < end:
        job = client.get_model_import_job(jobIdentifier=arn)
        if job["status"] == "Completed":
            return dict(client.get_imported_model(modelIdentifier=job["importedModelArn"]))
        if job["status"] == "Failed":
            msg = f"import {job['jobName']} failed: {job.get('failureMessage', 'no reason is given')}"
            raise RunError(msg)
        time.sleep(pause)
        pause = min(sagemaker_endpoint.LONGEST, pause * sagemaker_endpoint.GROWTH)
    tell(f"import {arn} goes on")
    msg = f"import {arn} has not ended after {IMPORT_MINUTES} minutes; the same command goes on waiting"
    raise RunError(msg)


def remove(name: str, region: str, tell: Progress) -> None:
    """Delete the imported model; one that is being imported is waited for first, as an import cannot be stopped."""
    client, called = aws.connect("bedrock", region), aws_requests.resource_name(name)
    with aws.config_errors(f"{called} cannot be removed"):
        arn = running_job(client, name)
        if arn:
            tell(f"import of {called} cannot be stopped: waiting for its end")
            try:
                _wait_for_model(client, arn, tell)
            except RunError as error:
                tell(str(error))
        told = find(client, name)
        if told is None:
            return
        try:
            client.delete_imported_model(modelIdentifier=told["modelArn"])
        except ClientError as error:
            if not sagemaker_endpoint.is_missing(error):
                raise
        tell(f"imported model {called} is removed")


def codec(told: Told) -> Codec:
    """Return how a model is asked: by Converse where it has a chat template that Converse knows, else as OpenAI's chat."""
    speaks = told.get("instructSupported") and not str(told.get("modelArchitecture", "")).lower().startswith(
        WITHOUT_CONVERSE
    )
    return "converse" if speaks else "openai"
