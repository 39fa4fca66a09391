"""Create, wait for and remove a SageMaker endpoint with its model, configuration and inference component.

Every resource is looked up by its name first. So an interrupted hosting continues where it was, and hosting the same
student twice creates nothing new.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from raft_spark.common import aws, background
from raft_spark.common.aws import AwsClient
from raft_spark.config import Hosting
from raft_spark.errors import ConfigError, RunError
from raft_spark.students import aws_requests

Progress = Callable[[str], None]
ResourceDescription = Mapping[str, Any]
REMOVAL_MINUTES = 60  # the longest wait for a removal, or for a state in which a resource can be removed
INSTANCE_MINUTES = 15  # to start the instance; hosting.start_minutes are those of the container
MISSING = frozenset({"ResourceNotFoundException", "ResourceNotFound", "ObjectNotFoundException"})


class NameTakenError(ConfigError):
    """The name belongs to another student, or to the same one with other settings.

    Its resources must not be removed.
    """


@dataclass(frozen=True, slots=True)
class ResourceKind:
    """One kind of SageMaker resource.

    `api_name` begins the names of its fields (EndpointName, EndpointStatus), `method` ends the names of boto3's methods
    (create_endpoint, describe_endpoint).
    """

    api_name: str
    method: str


MODEL = ResourceKind("Model", "model")
CONFIG = ResourceKind("EndpointConfig", "endpoint_config")
ENDPOINT = ResourceKind("Endpoint", "endpoint")
COMPONENT = ResourceKind("InferenceComponent", "inference_component")


def create(conf: Hosting, name: str, student: str, region: str, tell: Progress) -> None:
    """Create the resources that are missing and wait until the endpoint answers.

    Raises NameTakenError when the name belongs to another student, RunError when a resource fails.
    """
    client = aws.connect("sagemaker", region)
    with aws.config_errors(f"{aws_requests.resource_name(name)} cannot be hosted"):
        for kind, request in (
            (MODEL, aws_requests.model(conf, name, student, region)),
            (CONFIG, aws_requests.endpoint_config(conf, name)),
            (ENDPOINT, aws_requests.endpoint(conf, name)),
        ):
            _create_missing(client, kind, request, tell)
        wait_in_service(client, ENDPOINT, name, conf.start_minutes + INSTANCE_MINUTES, tell)
        if conf.scale_to_zero:
            _create_missing(client, COMPONENT, aws_requests.inference_component(conf, name), tell)
            wait_in_service(client, COMPONENT, name, conf.start_minutes + INSTANCE_MINUTES, tell)
            _set_up_scaling(conf, name, region)


def _set_up_scaling(conf: Hosting, name: str, region: str) -> None:
    """Let the number of copies fall to zero and rise again. Each of these calls can be repeated."""
    scaling = aws.connect("application-autoscaling", region)
    scaling.register_scalable_target(**aws_requests.scalable_target(conf, name))
    scaling.put_scaling_policy(**aws_requests.requests_policy(name))
    arn = scaling.put_scaling_policy(**aws_requests.wake_policy(name))["PolicyARN"]
    aws.connect("cloudwatch", region).put_metric_alarm(**aws_requests.wake_alarm(conf, name, arn))


def _create_missing(client: AwsClient, kind: ResourceKind, request: ResourceDescription, tell: Progress) -> None:
    """Create a resource that does not exist. Raises NameTakenError when one of its name has another identity."""
    name = str(request[f"{kind.api_name}Name"])
    existing = describe(client, kind, name)
    if existing is None:
        getattr(client, f"create_{kind.method}")(**request)
        tell(f"{kind.api_name} {name} was created")
    elif get_tags(client, existing[f"{kind.api_name}Arn"]).get(aws_requests.IDENTITY_TAG) != _identity(request):
        command = f"raft-spark model unhost {name.removeprefix(f'{aws_requests.TAG}-')}"
        msg = f"{kind.api_name} {name} already exists with another student or other settings; first run: {command}"
        raise NameTakenError(msg)
    else:
        tell(f"{kind.api_name} {name} already exists")


def _identity(request: ResourceDescription) -> str:
    return next(str(tag["Value"]) for tag in request["Tags"] if tag["Key"] == aws_requests.IDENTITY_TAG)


def get_tags(client: AwsClient, arn: str) -> dict[str, str]:
    """Return the tags of a resource."""
    pages = client.get_paginator("list_tags").paginate(ResourceArn=arn)
    return {tag["Key"]: tag["Value"] for page in pages for tag in page["Tags"]}


def describe(client: AwsClient, kind: ResourceKind, name: str) -> ResourceDescription | None:
    """Return SageMaker's description of a resource, None when it does not exist."""
    try:
        return dict(getattr(client, f"describe_{kind.method}")(**{f"{kind.api_name}Name": name}))
    except ClientError as error:
        if is_missing(error):
            return None
        raise


def is_missing(error: ClientError) -> bool:
    """Return whether an error means that the resource does not exist; SageMaker says so only in the message."""
    details = error.response["Error"]
    is_not_found = details["Code"] == "ValidationException" and "could not find" in details["Message"].lower()
    return details["Code"] in MISSING or is_not_found


def wait_in_service(client: AwsClient, kind: ResourceKind, name: str, minutes: float, tell: Progress) -> None:
    """Wait until a resource is InService. Raises RunError when it fails, disappears or needs more than `minutes`."""
    resource = f"{kind.api_name} {aws_requests.resource_name(name)}"
    state = ""
    for found in background.poll(lambda: describe(client, kind, aws_requests.resource_name(name)), minutes * 60):
        before, state = state, str(found[f"{kind.api_name}Status"]) if found else "gone"
        if state != before:
            tell(f"{resource}: {state}")
        if state == "InService":
            return
        if state not in {"Creating", "Updating", "SystemUpdating"}:
            why = found.get("FailureReason", "AWS gave no reason") if found else "it was removed"
            msg = f"{resource} is {state}: {why}; to remove what is left, run: raft-spark model unhost {name}"
            raise RunError(msg)
    msg = f"{resource} is not in service after {minutes:g} minutes and may cost money; to remove it, run: raft-spark model unhost {name}"
    raise RunError(msg)


def remove(name: str, region: str, tell: Progress) -> None:
    """Remove all resources of a hosting, also of one that was created in part only.

    Resources that do not exist are skipped.
    """
    client, resource_name = aws.connect("sagemaker", region), aws_requests.resource_name(name)
    with aws.config_errors(f"{resource_name} cannot be removed"):
        if _remove_and_wait(client, COMPONENT, resource_name, tell):
            _remove_scaling(name, region)
        for kind in (ENDPOINT, CONFIG, MODEL):
            _remove_and_wait(client, kind, resource_name, tell)


def _remove_scaling(name: str, region: str) -> None:
    """Remove the scalable target, its policies with it, and the alarm."""
    scaling = aws.connect("application-autoscaling", region)
    try:
        scaling.deregister_scalable_target(**aws_requests.scaled_component(name))
    except ClientError as error:
        if not is_missing(error):
            raise
    aws.connect("cloudwatch", region).delete_alarms(AlarmNames=[aws_requests.resource_name(name)])


def _remove_and_wait(client: AwsClient, kind: ResourceKind, resource_name: str, tell: Progress) -> bool:
    """Delete a resource, wait until it no longer exists, and return whether it existed.

    SageMaker refuses to delete a resource that is being created; the deletion is then tried again.
    """
    existed = False
    refused: ClientError | None = None
    for found in background.poll(lambda: describe(client, kind, resource_name), REMOVAL_MINUTES * 60):
        if found is None:
            if existed:
                tell(f"{kind.api_name} {resource_name} was removed")
            return existed
        existed = True
        if found.get(f"{kind.api_name}Status") != "Deleting":
            refused = _try_delete(client, kind, resource_name)
    msg = f"{kind.api_name} {resource_name} still exists after {REMOVAL_MINUTES} minutes: {refused or 'it is being deleted'}"
    raise RunError(msg)


def _try_delete(client: AwsClient, kind: ResourceKind, resource_name: str) -> ClientError | None:
    """Ask for a deletion; return a refusal that may be temporary, as of a resource that is being created."""
    try:
        getattr(client, f"delete_{kind.method}")(**{f"{kind.api_name}Name": resource_name})
    except ClientError as error:
        if error.response["Error"]["Code"] != "ValidationException":
            raise
        return None if is_missing(error) else error
    return None
