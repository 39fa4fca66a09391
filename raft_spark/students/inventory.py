"""An account -> all in it that raft-spark has made and not removed, with its age, what it costs an hour, what it has cost.

Found by the names, which begin with raft-spark-, and kept when they bear the tag. A kind that this account may not list is a line too.
"""

import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from raft_spark.common import aws
from raft_spark.common.aws import AwsClient
from raft_spark.config import Config
from raft_spark.students import aws_requests, bedrock_import, hosting, sagemaker_endpoint

TRAINING_HISTORY = dt.timedelta(days=30)  # how far back trainings that have ended are told
Told = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Leftover:
    """One thing: dollars an hour now and dollars so far, None when a price is unknown; `removed_by`: the command, "" for none."""

    kind: str
    name: str
    state: str
    since: dt.datetime
    hourly: float | None
    spent: float | None
    removed_by: str = ""


def list_leftovers(conf: Config, region: str) -> Iterator[Leftover | str]:
    """Yield what is there; a sentence for a kind that cannot be listed."""
    for kind, look in (
        ("endpoints", _endpoints),
        ("inference components", _components),
        ("models and configurations", _without_endpoint),
        ("trainings", _trainings),
        ("imported models", _imported),
    ):
        yield from _list_kind(kind, look, conf, region)


def _list_kind(
    kind: str, look: Callable[[Config, str], Iterator[Leftover]], conf: Config, region: str
) -> Iterator[Leftover | str]:
    try:
        yield from look(conf, region)
    except (ClientError, BotoCoreError) as error:
        yield f"{kind} cannot be listed: {error}"


def describe(left: Leftover, now: dt.datetime) -> str:
    """Say in one line what a thing is, its age, its cost and how it goes."""
    hours = (now - left.since).total_seconds() / 3600
    age = f"{hours / 24:,.1f} days" if hours >= 24 else f"{hours:,.1f} hours"  # noqa: PLR2004 - a day
    hourly = "price unknown" if left.hourly is None else f"${left.hourly:,.2f} an hour"
    spent = "" if left.spent is None else f", ${left.spent:,.2f} so far at most"
    ended = f"; remove it: {left.removed_by}" if left.removed_by else ""
    return f"{left.kind} {left.name}: {left.state}, {age}, {hourly}{spent}{ended}"


def dollars(hourly: float, count: float, hours: float) -> tuple[float | None, float | None]:
    """Return (dollars an hour, dollars in `hours`) of `count` instances; None for both where the price is unknown, 0."""
    return (hourly * count, hourly * max(count, 1) * hours) if hourly else (None, None)


def _endpoints(conf: Config, region: str) -> Iterator[Leftover]:
    client = aws.connect("sagemaker", region)
    for name in _list_names(client, "list_endpoints", "Endpoints", "EndpointName"):
        told = sagemaker_endpoint.describe(client, sagemaker_endpoint.ENDPOINT, name)
        if told and aws_requests.TAG in sagemaker_endpoint.get_tags(client, told["EndpointArn"]):
            count, instance = _instances(client, told)
            hourly, spent = dollars(hosting.hourly_price(conf, instance), count, _hours(told["CreationTime"]))
            state = f"{told['EndpointStatus']} on {count} {instance or 'instances of unknown type'}"
            yield Leftover("endpoint", name, state, told["CreationTime"], hourly, spent, _unhost_command(name, region))


def _instances(client: AwsClient, told: Told) -> tuple[int, str]:
    """Return how many instances an endpoint has, and of which type."""
    counts = [variant.get("CurrentInstanceCount", 1) for variant in told.get("ProductionVariants", ())]
    conf = sagemaker_endpoint.describe(client, sagemaker_endpoint.CONFIG, told["EndpointConfigName"]) or {}
    types = [variant.get("InstanceType", "") for variant in conf.get("ProductionVariants", ())]
    return sum(counts) if counts else 1, next(iter(types), "")


def _components(_: Config, region: str) -> Iterator[Leftover]:
    client = aws.connect("sagemaker", region)
    for name in _list_names(client, "list_inference_components", "InferenceComponents", "InferenceComponentName"):
        told = sagemaker_endpoint.describe(client, sagemaker_endpoint.COMPONENT, name)
        if told and aws_requests.TAG in sagemaker_endpoint.get_tags(client, told["InferenceComponentArn"]):
            copies = told.get("RuntimeConfig", {}).get("CurrentCopyCount", 0)
            state = f"{told['InferenceComponentStatus']} with {copies} copies, paid with its endpoint"
            yield Leftover(
                "inference component", name, state, told["CreationTime"], 0.0, 0.0, _unhost_command(name, region)
            )


def _without_endpoint(_: Config, region: str) -> Iterator[Leftover]:
    """Tell of models and configurations whose endpoint is not there: what an interruption left; they cost nothing."""
    client = aws.connect("sagemaker", region)
    for kind, operation in (
        (sagemaker_endpoint.CONFIG, "list_endpoint_configs"),
        (sagemaker_endpoint.MODEL, "list_models"),
    ):
        for name in _list_names(client, operation, f"{kind.word}s", f"{kind.word}Name"):
            told = sagemaker_endpoint.describe(client, kind, name)
            is_whole = sagemaker_endpoint.describe(client, sagemaker_endpoint.ENDPOINT, name) is not None
            if (
                told
                and not is_whole
                and aws_requests.TAG in sagemaker_endpoint.get_tags(client, told[f"{kind.word}Arn"])
            ):
                yield Leftover(
                    kind.word,
                    name,
                    "without an endpoint",
                    told["CreationTime"],
                    0.0,
                    0.0,
                    _unhost_command(name, region),
                )


def _trainings(conf: Config, region: str) -> Iterator[Leftover]:
    where = conf.training.sagemaker.region or region
    client = aws.connect("sagemaker", where)
    since = dt.datetime.now(dt.UTC) - TRAINING_HISTORY
    key = "TrainingJobName"
    for name in _list_names(client, "list_training_jobs", "TrainingJobSummaries", key, CreationTimeAfter=since):
        told = client.describe_training_job(TrainingJobName=name)
        begun = told.get("TrainingStartTime", told["CreationTime"])
        is_on = told["TrainingJobStatus"] in {"InProgress", "Stopping"}
        hours = _hours(begun) if is_on else told.get("BillableTimeInSeconds", 0) / 3600
        price = hosting.hourly_price(conf, told["ResourceConfig"]["InstanceType"])
        hourly, spent = dollars(price, 1, hours)
        stop = f"aws sagemaker stop-training-job --training-job-name {name} --region {where}" if is_on else ""
        yield Leftover(
            "training", name, told["TrainingJobStatus"], told["CreationTime"], hourly if is_on else 0.0, spent, stop
        )


def _imported(conf: Config, region: str) -> Iterator[Leftover]:
    client = aws.connect("bedrock", region)
    pages = client.get_paginator("list_imported_models").paginate(nameContains=f"{aws_requests.TAG}-")
    for arn in [model["modelArn"] for page in pages for model in page["modelSummaries"]]:
        if aws_requests.TAG in bedrock_import.get_tags(client, arn):
            told = client.get_imported_model(modelIdentifier=arn)
            name, hourly = told["modelName"], hosting.imported_model_price(conf, told)
            state = "there, paid while it is asked and for its storage"
            remove = _unhost_command(name, region, "bedrock")
            yield Leftover("imported model", name, state, told["creationTime"], hourly or None, None, remove)
    jobs = client.get_paginator("list_model_import_jobs").paginate(
        nameContains=f"{aws_requests.TAG}-", statusEquals="InProgress"
    )
    for job in [job for page in jobs for job in page["modelImportJobSummaries"]]:
        yield Leftover("import", job["jobName"], job["status"], job["creationTime"], 0.0, 0.0)


def _list_names(client: AwsClient, operation: str, key: str, name: str, **more: object) -> list[str]:
    """List the names of a kind that begin as ours do."""
    pages = client.get_paginator(operation).paginate(NameContains=f"{aws_requests.TAG}-", **more)
    names = [str(summary[name]) for page in pages for summary in page[key]]
    return [name for name in names if name.startswith(f"{aws_requests.TAG}-")]


def _hours(since: dt.datetime) -> float:
    return (dt.datetime.now(dt.UTC) - since).total_seconds() / 3600


def _unhost_command(called: str, region: str, kind: str = "sagemaker") -> str:
    return hosting.removal_command(called.removeprefix(f"{aws_requests.TAG}-"), region, kind)
