"""Host a student from its folder in S3 while a `with` block runs, and remove the endpoint when the block ends.

    with hosting.temporary_endpoint(conf, "mine", "s3://bucket/students/one", print) as endpoint: ...

The endpoint is also removed after an error, Ctrl-C, SIGTERM or a closed terminal. Only SIGKILL or the loss of the
machine leaves it; `raft-spark model list` then lists it.
"""

import json
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from raft_spark.common import aws
from raft_spark.config import Config, Endpoint, Hosting
from raft_spark.config.models import Codec
from raft_spark.errors import ConfigError, RunError
from raft_spark.students import artifact_checks, aws_requests, bedrock_import, sagemaker_endpoint
from raft_spark.students.sagemaker_endpoint import Progress

HostingCall = Mapping[str, Any]
CODEC: Codec = "openai"  # LMI's container serves OpenAI's chat completions
END_SIGNALS = (signal.SIGTERM, signal.SIGHUP)  # handled like Ctrl-C
MODEL_UNIT = "bedrock-custom-model-unit"  # its version follows, in the name under which [prices] has an imported model


@contextmanager
def temporary_endpoint(conf: Config, name: str, folder: str, tell: Progress) -> Iterator[Endpoint]:
    """Create an endpoint or find it, wait until it answers, yield its settings, and remove it at the end.

    Raises ConfigError before anything is created, NameTakenError when the name belongs to another student, whose
    endpoint is left alone, and RunError when the endpoint fails or cannot be removed.
    """
    check(conf.hosting, folder)
    is_ours = True
    with signals_as_interrupt():
        try:
            yield create(conf, name, folder, tell)
        except sagemaker_endpoint.NameTakenError:
            is_ours = False
            raise
        finally:
            if is_ours:
                with signals_deferred():
                    remove(conf.hosting, name, tell)


def region(conf: Hosting) -> str:
    """Return hosting.region, or the default region of the AWS environment. Raises ConfigError when neither is set."""
    found = conf.region or aws.default_region()
    if not found:
        raise ConfigError("no AWS region is set: set hosting.region or AWS_DEFAULT_REGION")
    return found


def check(conf: Hosting, folder: str) -> None:
    """Check the settings and the files of the student. Raises ConfigError with every problem."""
    where = region(conf)
    problems = [] if conf.role_arn else ["hosting.role_arn must be set"]
    if conf.kind == "sagemaker":
        aws_requests.image(conf, where)
    if not folder.startswith("s3://"):
        raise ConfigError("\n".join([*problems, f"the student is {folder!r}; it must be in S3, as s3://bucket/prefix"]))
    problems += artifact_checks.problems(artifact_checks.inspect(aws.connect("s3", where), folder), conf, where)
    if problems:
        raise ConfigError("\n".join(problems))


def create(conf: Config, name: str, folder: str, tell: Progress) -> Endpoint:
    """Create the resources that are missing, wait until the endpoint answers, and return its settings."""
    settings, where = conf.hosting, region(conf.hosting)
    if settings.kind == "bedrock":
        model = bedrock_import.create(settings, name, folder, where, tell)
        return Endpoint(
            kind="bedrock",
            model=model["modelArn"],
            codec=bedrock_import.codec(model),
            region=where,
            hourly_price=imported_model_price(conf, model) or None,
        )
    sagemaker_endpoint.create(settings, name, folder, where, tell)
    return Endpoint(
        kind="sagemaker",
        endpoint_name=aws_requests.resource_name(name),
        inference_component=aws_requests.resource_name(name) if settings.scale_to_zero else "",
        codec=CODEC,
        region=where,
        hourly_price=hourly_price(conf, settings.instance_type) or None,
    )


def remove(conf: Hosting, name: str, tell: Progress) -> None:
    """Remove all resources of a hosting, also of one that was created in part only.

    Raises RunError when AWS refuses.
    """

    def tell_safely(text: str) -> None:
        with suppress(OSError):  # the terminal may be closed
            tell(text)

    try:
        remove_all = bedrock_import.remove if conf.kind == "bedrock" else sagemaker_endpoint.remove
        remove_all(name, region(conf), tell_safely)
    except ConfigError as error:
        msg = f"{error}; the resources that are left cost money until you run: {removal_command(name, region(conf), conf.kind)}"
        raise RunError(msg) from error


def removal_command(name: str, region: str, kind: str) -> str:
    """Return the command that removes a hosting, independent of the settings files."""
    return f"raft-spark model unhost {name} --set hosting.region={region} --set hosting.kind={kind}"


def planned_requests(conf: Hosting, name: str, folder: str) -> dict[str, HostingCall]:
    """Return by operation the requests that would be sent; nothing is contacted."""
    where = region(conf)
    if conf.kind == "bedrock":
        return {"CreateModelImportJob": aws_requests.import_job(conf, name, folder, "")}
    requests: dict[str, HostingCall] = {
        "CreateModel": aws_requests.model(conf, name, folder, where),
        "CreateEndpointConfig": aws_requests.endpoint_config(conf, name),
        "CreateEndpoint": aws_requests.endpoint(conf, name),
    }
    if not conf.scale_to_zero:
        return requests
    scaling = {
        "CreateInferenceComponent": aws_requests.inference_component(conf, name),
        "RegisterScalableTarget": aws_requests.scalable_target(conf, name),
        "PutScalingPolicy, down": aws_requests.requests_policy(name),
        "PutScalingPolicy, up from zero": aws_requests.wake_policy(name),
        "PutMetricAlarm": aws_requests.wake_alarm(conf, name, "the ARN of the policy above"),
    }
    return {**requests, **scaling}


def to_toml(name: str, endpoint: Endpoint) -> str:
    """Return the section [endpoints.NAME] of a settings file."""
    lines = (f"{key} = {json.dumps(value)}" for key, value in endpoint.model_dump(exclude_unset=True).items() if value)
    return "\n".join((f"[endpoints.{name}]", *lines, ""))


def hourly_price(conf: Config, instance: str) -> float:
    """Return the dollars per hour of an instance type, 0 when [prices] lacks it."""
    known = conf.prices.get(instance)
    return known.hourly_price if known else 0.0


def imported_model_price(conf: Config, model: HostingCall) -> float:
    """Return the dollars per hour of a copy of an imported model while it answers, 0 when [prices] lacks it."""
    units = model.get("customModelUnits", {})
    unit_price = hourly_price(conf, f"{MODEL_UNIT}-{units.get('customModelUnitsVersion', '')}")
    return unit_price * int(units.get("customModelUnitsPerModelCopy", 0))


def describe_cost(conf: Config, endpoint: Endpoint) -> str:
    """Return in words what the endpoint costs while it exists."""
    if endpoint.kind == "bedrock":
        price = f"${endpoint.hourly_price:,.2f} an hour" if endpoint.hourly_price else "by the minute"
        return (
            f"costs {price} while it answers requests and five minutes after, and the storage of the model by the month"
        )
    if not endpoint.hourly_price:
        return f"costs by the hour; the price of {conf.hosting.instance_type} is not in [prices]"
    return f"costs ${endpoint.hourly_price:,.2f} an hour"


@contextmanager
def signals_as_interrupt() -> Iterator[None]:
    """Handle SIGTERM and SIGHUP (a closed terminal) like Ctrl-C while the block runs; a signal that nohup ignores stays
    ignored.
    """
    with signal_handler(
        [number for number in END_SIGNALS if signal.getsignal(number) != signal.SIG_IGN], signal.default_int_handler
    ):
        yield


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Let no signal interrupt the block: resources that are not removed cost money."""

    def warn(*_: object) -> None:
        with suppress(OSError):
            sys.stderr.write("still removing the endpoint; stopping now would leave resources that cost money\n")

    with signal_handler((signal.SIGINT, *END_SIGNALS), warn):
        yield


@contextmanager
def signal_handler(numbers: Iterable[int], handler: Callable[..., Any]) -> Iterator[None]:
    """Install one handler for some signals while the block runs."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
