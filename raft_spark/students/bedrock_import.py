"""Import a student into Bedrock with Custom Model Import, wait for the imported model, and remove it.

A running import cannot be stopped. The import is free; the imported model costs while it answers requests, in windows
of five minutes.
"""

from botocore.exceptions import ClientError

from raft_spark.common import aws, background
from raft_spark.common.aws import AwsClient
from raft_spark.config import Hosting
from raft_spark.config.models import Codec
from raft_spark.errors import RunError
from raft_spark.students import aws_requests, sagemaker_endpoint
from raft_spark.students.sagemaker_endpoint import Progress, ResourceDescription

IMPORT_MINUTES = 180
WITHOUT_CONVERSE = ("qwen", "gpt")  # beginnings of the architectures that Converse does not support


def create(conf: Hosting, name: str, student: str, region: str, tell: Progress) -> ResourceDescription:
    """Import the student unless it is imported already, wait, and return the answer of GetImportedModel.

    Raises NameTakenError when the name belongs to another student, RunError when the import fails.
    """
    client, resource_name = aws.connect("bedrock", region), aws_requests.resource_name(name)
    with aws.config_errors(f"{resource_name} cannot be imported"):
        model = find(client, name)
        if model is None:
            arn = running_job(client, name) or _start_job(client, conf, name, student)
            tell(f"import job {arn.rpartition('/')[2]} of {resource_name} is running")
            model = _wait_for_model(client, arn)
        wanted = aws_requests.import_job(conf, name, student, "")["importedModelTags"]
        identity = next(tag["value"] for tag in wanted if tag["key"] == aws_requests.IDENTITY_TAG)
        if get_tags(client, model["modelArn"]).get(aws_requests.IDENTITY_TAG) != identity:
            msg = f"imported model {resource_name} is another student or has other settings; first run: raft-spark model unhost {name}"
            raise sagemaker_endpoint.NameTakenError(msg)
        tell(f"imported model {resource_name} is ready")
        return model


def find(client: AwsClient, name: str) -> ResourceDescription | None:
    """Return the answer of GetImportedModel for the model of this name, None when it does not exist."""
    resource_name = aws_requests.resource_name(name)
    pages = client.get_paginator("list_imported_models").paginate(nameContains=resource_name)
    models = (model for page in pages for model in page["modelSummaries"])
    arn = next((model["modelArn"] for model in models if model["modelName"] == resource_name), None)
    return dict(client.get_imported_model(modelIdentifier=arn)) if arn else None


def list_jobs(client: AwsClient, name: str) -> list[ResourceDescription]:
    """Return the import jobs of this name, the newest first."""
    resource_name = aws_requests.resource_name(name)
    pages = client.get_paginator("list_model_import_jobs").paginate(
        nameContains=resource_name, sortBy="CreationTime", sortOrder="Descending"
    )
    jobs = (job for page in pages for job in page["modelImportJobSummaries"])
    return [job for job in jobs if job.get("importedModelName", resource_name) == resource_name]


def running_job(client: AwsClient, name: str) -> str:
    """Return the ARN of the import job that is running, "" when none is."""
    return next((str(job["jobArn"]) for job in list_jobs(client, name) if job["status"] == "InProgress"), "")


def get_tags(client: AwsClient, arn: str) -> dict[str, str]:
    """Return the tags of a model."""
    return {tag["key"]: tag["value"] for tag in client.list_tags_for_resource(resourceARN=arn)["tags"]}


def _start_job(client: AwsClient, conf: Hosting, name: str, student: str) -> str:
    earlier = list_jobs(client, name)
    last = str(earlier[0]["jobArn"]) if earlier else ""
    return str(client.create_model_import_job(**aws_requests.import_job(conf, name, student, last))["jobArn"])


def _wait_for_model(client: AwsClient, arn: str) -> ResourceDescription:
    """Wait for the end of an import job; return the model. Raises RunError when the job fails or takes too long."""
    for job in background.poll(lambda: client.get_model_import_job(jobIdentifier=arn), IMPORT_MINUTES * 60):
        if job["status"] == "Completed":
            return dict(client.get_imported_model(modelIdentifier=job["importedModelArn"]))
        if job["status"] == "Failed":
            msg = f"import {job['jobName']} failed: {job.get('failureMessage', 'AWS gave no reason')}"
            raise RunError(msg)
    msg = (
        f"import {arn} is still running after {IMPORT_MINUTES} minutes; run the same command again to continue waiting"
    )
    raise RunError(msg)


def remove(name: str, region: str, tell: Progress) -> None:
    """Delete the imported model. A running import is waited for first, since it cannot be stopped."""
    client, resource_name = aws.connect("bedrock", region), aws_requests.resource_name(name)
    with aws.config_errors(f"{resource_name} cannot be removed"):
        arn = running_job(client, name)
        if arn:
            tell(f"the import of {resource_name} cannot be stopped: waiting for its end")
            try:
                _wait_for_model(client, arn)
            except RunError as error:
                tell(str(error))
        model = find(client, name)
        if model is None:
            return
        try:
            client.delete_imported_model(modelIdentifier=model["modelArn"])
        except ClientError as error:
            if not sagemaker_endpoint.is_missing(error):
                raise
        tell(f"imported model {resource_name} was removed")


def codec(model: ResourceDescription) -> Codec:
    """Return how requests are sent to a model: through Converse where supported, else as OpenAI's chat."""
    is_supported = not str(model.get("modelArchitecture", "")).lower().startswith(WITHOUT_CONVERSE)
    return "converse" if model.get("instructSupported") and is_supported else "openai"
