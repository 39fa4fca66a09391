"""A name and settings -> an endpoint of SageMaker with all that belongs to it, made where it is missing, waited for, removed.

Each thing is looked for by its name first: a hosting that was interrupted goes on where it was, and a second one finds what stands.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from raft_spark.common import aws
from raft_spark.common.aws import AwsClient
from raft_spark.config import Hosting
from raft_spark.errors import ConfigError, RunError
from raft_spark.students import aws_requests

Progress = Callable[[str], None]
ResourceDescription = Mapping[str, Any]
FIRST, LONGEST, GROWTH = 2.0, 30.0, 1.5  # seconds between two looks: soon at first, then ever less often
REMOVAL_MINUTES = 60  # how long the removal of a thing is waited for, or the end of what it is in the middle of
INSTANCE_MINUTES = 15  # for the machine, beside hosting.start_minutes for the container
MISSING = frozenset({"ResourceNotFoundException", "ResourceNotFound", "ObjectNotFoundException"})


class NameTakenError(ConfigError):
    """Another student, or one with other settings, stands under this name; it is not ours to remove."""


@dataclass(frozen=True, slots=True)
class ResourceKind:
    """One kind of thing in SageMaker's words: Endpoint is made by create_endpoint and told of as EndpointName, EndpointStatus."""

    word: str
    verb: str

    def name(self, request: ResourceDescription) -> str:
        """Return the name in a request."""
        return str(request[f"{self.word}Name"])


MODEL = ResourceKind("Model", "model")
CONFIG = ResourceKind("EndpointConfig", "endpoint_config")
ENDPOINT = ResourceKind("Endpoint", "endpoint")
COMPONENT = ResourceKind("InferenceComponent", "inference_component")


def create(conf: Hosting, name: str, student: str, region: str, tell: Progress) -> None:
    """Make what is missing and wait until it answers. Raises TakenError for another of the same name, RunError when it fails."""
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
    """Let copies go down to none and come back; each of these calls may be repeated."""
    scaling = aws.connect("application-autoscaling", region)
    scaling.register_scalable_target(**aws_requests.scalable_target(conf, name))
    scaling.put_scaling_policy(**aws_requests.requests_policy(name))
    arn = scaling.put_scaling_policy(**aws_requests.wake_policy(name))["PolicyARN"]
    aws.connect("cloudwatch", region).put_metric_alarm(**aws_requests.wake_alarm(conf, name, arn))


def _create_missing(client: AwsClient, kind: ResourceKind, request: ResourceDescription, tell: Progress) -> None:
    """Make a thing that is not there. Raises TakenError when another of its name is."""
    name = kind.name(request)
    told = describe(client, kind, name)
    if told is None:
        getattr(client, f"create_{kind.verb}")(**request)
        tell(f"{kind.word} {name} is made")
    elif get_tags(client, told[f"{kind.word}Arn"]).get(aws_requests.IDENTITY_TAG) != _identity(request):
        msg = f"{kind.word} {name} stands with another student or other settings; first: raft-spark model unhost {_hosting_name(name)}"
        raise NameTakenError(msg)
    else:
        tell(f"{kind.word} {name} is there already")


def _identity(request: ResourceDescription) -> str:
    return next(str(tag["Value"]) for tag in request["Tags"] if tag["Key"] == aws_requests.IDENTITY_TAG)


def get_tags(client: AwsClient, arn: str) -> dict[str, str]:
    """Return a thing's tags."""
    pages = client.get_paginator("list_tags").paginate(ResourceArn=arn)
    return {tag["Key"]: tag["Value"] for page in pages for tag in page["Tags"]}


def describe(client: AwsClient, kind: ResourceKind, name: str) -> ResourceDescription | None:
    """Return what SageMaker says of a thing, None where there is none."""
    try:
        return dict(getattr(client, f"describe_{kind.verb}")(**{f"{kind.word}Name": name}))
    except ClientError as error:
        if is_missing(error):
            return None
        raise


def is_missing(error: ClientError) -> bool:
    """Say whether an error means that there is no such thing; SageMaker says so in words."""
    told = error.response["Error"]
    return told["Code"] in MISSING or (
        told["Code"] == "ValidationException" and "could not find" in told["Message"].lower()
    )


def wait_in_service(client: AwsClient, kind: ResourceKind, name: str, minutes: float, tell: Progress) -> None:
    """Wait until a thing stands. Raises RunError when it failed, goes away, or takes longer than `minutes`."""
    before, status = "", f"{kind.word}Status"
    for told in looks(client, kind, aws_requests.resource_name(name), minutes):
        state = str(told[status]) if told else "gone"
        if state != before:
            tell(f"{kind.word} {aws_requests.resource_name(name)}: {state}")
        if state == "InService":
            return
        if state not in {"Creating", "Updating", "SystemUpdating"}:
            why = told.get("FailureReason", "no reason is given") if told else "it was removed"
            msg = f"{kind.word} {aws_requests.resource_name(name)} is {state}: {why}; what is left is removed by: raft-spark model unhost {name}"
            raise RunError(msg)
        before = state
    msg = f"{kind.word} {aws_requests.resource_name(name)} does not stand after {minutes:g} minutes; it may cost: raft-spark model unhost {name}"
    raise RunError(msg)


def looks(client: AwsClient, kind: ResourceKind, name: str, minutes: float) -> Iterator[ResourceDescription | None]:
    """Yield what SageMaker says, ever less often, until `minutes` have passed."""
    pause, end = FIRST, time.monotonic() + minutes * 60
    while time.monotonic() < end:
        yield describe(client, kind, name)
        time.sleep(pause)
        pause = min(LONGEST, pause * GROWTH)


def remove(name: str, region: str, tell: Progress) -> None:
    """Remove all that belongs to a hosting, what is half made too; what is not there is passed over."""
    client, called = aws.connect("sagemaker", region), aws_requests.resource_name(name)
    with aws.config_errors(f"{called} cannot be removed"):
        if _remove_and_wait(client, COMPONENT, name, tell):
            _remove_scaling(name, region)
        for kind in (ENDPOINT, CONFIG, MODEL):
            _remove_and_wait(client, kind, name, tell)


def _remove_scaling(name: str, region: str) -> None:
    """Forget the copies' limits, with their policies, and the alarm."""
    scaling = aws.connect("application-autoscaling", region)
    try:
        scaling.deregister_scalable_target(**aws_requests.scaled_component(name))
    except ClientError as error:
        if not is_missing(error):
            raise
    aws.connect("cloudwatch", region).delete_alarms(AlarmNames=[aws_requests.resource_name(name)])


def _remove_and_wait(client: AwsClient, kind: ResourceKind, name: str, tell: Progress) -> bool:
    """Delete a thing and wait until it is gone; say whether it was there. One that is being made is asked again until it can go."""
    called, was = aws_requests.resource_name(name), False
    refused: ClientError | None = None
    for told in looks(client, kind, called, REMOVAL_MINUTES):
        if told is None:
            if was:
                tell(f"{kind.word} {called} is removed")
            return was
        was = True
        if told.get(f"{kind.word}Status") != "Deleting":
            refused = _try_delete(client, kind, called)
    msg = f"{kind.word} {called} is still there after {REMOVAL_MINUTES} minutes: {refused or 'it is being removed'}"
    raise RunError(msg)


def _try_delete(client: AwsClient, kind: ResourceKind, called: str) -> ClientError | None:
    """Ask for a removal; return a refusal that may pass, as that of something in the middle of being made."""
    try:
        getattr(client, f"delete_{kind.verb}")(**{f"{kind.word}Name": called})
    except ClientError as error:
        if error.response["Error"]["Code"] != "ValidationException":
            raise
        return None if is_missing(error) else error
    return None


def _hosting_name(called: str) -> str:
    return called.removeprefix(f"{aws_requests.TAG}-")
