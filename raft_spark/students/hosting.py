"""A student's folder in S3 -> an endpoint that answers while a block of code, or a command, runs; taken down at its end.

    with hosting.hosted(conf.hosting, "mine", "s3://bucket/students/one", tell) as endpoint: ...

The end may be an error, Ctrl-C, SIGTERM or a closed terminal; only SIGKILL or a lost machine leaves it, and `raft-spark model list` tells of it.
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
CODEC: Codec = "openai"  # LMI's container takes a chat as OpenAI writes it
END_SIGNALS = (signal.SIGTERM, signal.SIGHUP)  # beside Ctrl-C
MODEL_UNIT = "bedrock-custom-model-unit"  # what an imported model is called in [prices], with the version of its units


@contextmanager
def temporary_endpoint(conf: Config, name: str, folder: str, tell: Progress) -> Iterator[Endpoint]:
    """Make an endpoint or find it, wait until it stands, lend its section, and take it down at the end.

    Raises ConfigError before anything is made, TakenError where another stands, which is left, RunError when it does not come
    to stand or cannot be taken down.
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
    """Return the region of the settings, or of AWS's chain. Raises ConfigError where there is none."""
    found = conf.region or aws.default_region()
    if not found:
        raise ConfigError("no AWS region is known: set hosting.region, or AWS_DEFAULT_REGION")
    return found


def check(conf: Hosting, folder: str) -> None:
    """Look at the settings and at the student. Raises ConfigError with all that is wrong."""
    where = region(conf)
    trouble = [] if conf.role_arn else ["hosting.role_arn must be given"]
    if conf.kind == "sagemaker":
        aws_requests.image(conf, where)
    if not folder.startswith("s3://"):
        raise ConfigError("\n".join([*trouble, f"the student is {folder!r}; it must lie in S3, s3://bucket/prefix"]))
    trouble += artifact_checks.problems(artifact_checks.inspect(aws.connect("s3", where), folder), conf, where)
    if trouble:
        raise ConfigError("\n".join(trouble))


def create(conf: Config, name: str, folder: str, tell: Progress) -> Endpoint:
    """Make what is missing, wait, and return the section of an endpoint that answers."""
    told, where = conf.hosting, region(conf.hosting)
    if told.kind == "bedrock":
        model = bedrock_import.create(told, name, folder, where, tell)
        hourly = imported_model_price(conf, model)
        return Endpoint(
            kind="bedrock",
            model=model["modelArn"],
            codec=bedrock_import.codec(model),
            region=where,
            hourly_price=hourly or None,
        )
    sagemaker_endpoint.create(told, name, folder, where, tell)
    return Endpoint(
        kind="sagemaker",
        endpoint_name=aws_requests.resource_name(name),
        inference_component=aws_requests.resource_name(name) if told.scale_to_zero else "",
        codec=CODEC,
        region=where,
        hourly_price=hourly_price(conf, told.instance_type) or None,
    )


def remove(conf: Hosting, name: str, tell: Progress) -> None:
    """Remove all of a hosting, half made or whole; what is not there is passed over. Raises RunError when AWS refuses."""

    def tell_if_heard(text: str) -> None:
        with suppress(OSError):  # the terminal may be gone
            tell(text)

    try:
        remove_all = bedrock_import.remove if conf.kind == "bedrock" else sagemaker_endpoint.remove
        remove_all(name, region(conf), tell_if_heard)
    except ConfigError as error:
        msg = f"{error}; what stands goes on costing until: {removal_command(name, region(conf), conf.kind)}"
        raise RunError(msg) from error


def removal_command(name: str, region: str, kind: str) -> str:
    """Return the command that removes a hosting, whatever the settings say of it."""
    return f"raft-spark model unhost {name} --set hosting.region={region} --set hosting.kind={kind}"


def planned_requests(conf: Hosting, name: str, folder: str) -> dict[str, HostingCall]:
    """Return what would be sent, by operation; nothing is contacted."""
    where = region(conf)
    if conf.kind == "bedrock":
        return {"CreateModelImportJob": aws_requests.import_job(conf, name, folder, "")}
    told: dict[str, HostingCall] = {
        "CreateModel": aws_requests.model(conf, name, folder, where),
        "CreateEndpointConfig": aws_requests.endpoint_config(conf, name),
        "CreateEndpoint": aws_requests.endpoint(conf, name),
    }
    if not conf.scale_to_zero:
        return told
    scaling = {
        "CreateInferenceComponent": aws_requests.inference_component(conf, name),
        "RegisterScalableTarget": aws_requests.scalable_target(conf, name),
        "PutScalingPolicy, down": aws_requests.requests_policy(name),
        "PutScalingPolicy, up from zero": aws_requests.wake_policy(name),
        "PutMetricAlarm": aws_requests.wake_alarm(conf, name, "the ARN of the policy above"),
    }
    return {**told, **scaling}


def to_toml(name: str, endpoint: Endpoint) -> str:
    """Return [endpoints.NAME] as a settings file holds it."""
    lines = (f"{key} = {json.dumps(value)}" for key, value in endpoint.model_dump(exclude_unset=True).items() if value)
    return "\n".join((f"[endpoints.{name}]", *lines, ""))


def hourly_price(conf: Config, instance: str) -> float:
    """Return dollars an hour of an instance, 0 when that is unknown."""
    known = conf.prices.get(instance)
    return known.hourly_price if known else 0.0


def imported_model_price(conf: Config, model: HostingCall) -> float:
    """Return dollars an hour of one copy of an imported model while it is asked, 0 when that is unknown."""
    units = model.get("customModelUnits", {})
    each = hourly_price(conf, f"{MODEL_UNIT}-{units.get('customModelUnitsVersion', '')}")
    return each * int(units.get("customModelUnitsPerModelCopy", 0))


def describe_cost(conf: Config, endpoint: Endpoint) -> str:
    """Say what standing costs."""
    if endpoint.kind == "bedrock":
        while_asked = f"${endpoint.hourly_price:,.2f} an hour" if endpoint.hourly_price else "by the minute"
        return f"costs {while_asked} while it is asked and five minutes after, and Bedrock's storage of a model by the month"
    if not endpoint.hourly_price:
        return f"costs by the hour; the price of {conf.hosting.instance_type} is not in [prices]"
    return f"costs ${endpoint.hourly_price:,.2f} an hour"


@contextmanager
def signals_as_interrupt() -> Iterator[None]:
    """Take SIGTERM and a closed terminal for Ctrl-C while the block runs; what nohup ignores stays ignored."""
    with signal_handler(
        [number for number in END_SIGNALS if signal.getsignal(number) != signal.SIG_IGN], signal.default_int_handler
    ):
        yield


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Let no further signal interrupt the block: what is half removed would go on costing."""

    def told(*_: object) -> None:
        with suppress(OSError):
            sys.stderr.write("still taking down; what is left over would go on costing\n")

    with signal_handler((signal.SIGINT, *END_SIGNALS), told):
        yield


@contextmanager
def signal_handler(numbers: Iterable[int], handler: Callable[..., Any]) -> Iterator[None]:
    """Handle some signals in one way while the block runs."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
