"""List what raft-spark has created in an AWS account and not removed, with its age, its cost per hour and its cost so
far.

A resource counts when its name begins with raft-spark- and it has the tag `raft-spark`. A kind of resource that the
account may not list becomes a line that says so.
"""

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from botocore.exceptions import BotoCoreError, ClientError

from raft_spark.common import aws
from raft_spark.common.aws import AwsClient
from raft_spark.config import Config
from raft_spark.students import aws_requests, bedrock_import, hosting, sagemaker_endpoint
from raft_spark.students.sagemaker_endpoint import ResourceDescription, ResourceKind

TRAINING_HISTORY = dt.timedelta(days=30)  # how far back finished trainings are listed


@dataclass(frozen=True, slots=True)
class Leftover:
    """One resource: dollars per hour now and dollars so far, None when the price is unknown; `removed_by`: the command,
    or "".
    """

    kind: str
    name: str
    state: str
    since: dt.datetime
    hourly: float | None
    spent: float | None
    removed_by: str = ""


def list_leftovers(conf: Config, region: str) -> Iterator[Leftover | str]:
    """Yield each resource, or a sentence for a kind that cannot be listed."""
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
    """Return one line: the resource, its state, age and cost, and the command that removes it."""
    hours = (now - left.since).total_seconds() / 3600
    age = f"{hours / 24:,.1f} days" if hours >= 24 else f"{hours:,.1f} hours"  # noqa: PLR2004 - a day
    hourly = "price unknown" if left.hourly is None else f"${left.hourly:,.2f} an hour"
    spent = "" if left.spent is None else f", ${left.spent:,.2f} so far at most"
    removal = f"; remove it: {left.removed_by}" if left.removed_by else ""
    return f"{left.kind} {left.name}: {left.state}, {age}, {hourly}{spent}{removal}"


def dollars(hourly: float, count: float, hours: float) -> tuple[float | None, float | None]:
    """Return (dollars per hour, dollars in `hours`) of `count` instances, None for both when the price is 0."""
    return (hourly * count, hourly * max(count, 1) * hours) if hourly else (None, None)


def _endpoints(conf: Config, region: str) -> Iterator[Leftover]:
    client = aws.connect("sagemaker", region)
    for name, found in _tagged(client, sagemaker_endpoint.ENDPOINT):
        count, instance = _instances(client, found)
        hourly, spent = dollars(hosting.hourly_price(conf, instance), count, _hours(found["CreationTime"]))
        state = f"{found['EndpointStatus']} on {count} {instance or 'instances of unknown type'}"
        yield Leftover("endpoint", name, state, found["CreationTime"], hourly, spent, _unhost_command(name, region))


def _instances(client: AwsClient, endpoint: ResourceDescription) -> tuple[int, str]:
    """Return the number of an endpoint's instances, and their type."""
    counts = [variant.get("CurrentInstanceCount", 1) for variant in endpoint.get("ProductionVariants", ())]
    conf = sagemaker_endpoint.describe(client, sagemaker_endpoint.CONFIG, endpoint["EndpointConfigName"]) or {}
    types = [variant.get("InstanceType", "") for variant in conf.get("ProductionVariants", ())]
    return sum(counts) if counts else 1, next(iter(types), "")


def _components(_: Config, region: str) -> Iterator[Leftover]:
    for name, found in _tagged(aws.connect("sagemaker", region), sagemaker_endpoint.COMPONENT):
        copies = found.get("RuntimeConfig", {}).get("CurrentCopyCount", 0)
        state = f"{found['InferenceComponentStatus']} with {copies} copies, included in the cost of its endpoint"
        created, removal = found["CreationTime"], _unhost_command(name, region)
        yield Leftover("inference component", name, state, created, 0.0, 0.0, removal)


def _without_endpoint(_: Config, region: str) -> Iterator[Leftover]:
    """List models and configurations without an endpoint, as an interruption leaves them; they cost nothing."""
    client = aws.connect("sagemaker", region)
    for kind in (sagemaker_endpoint.CONFIG, sagemaker_endpoint.MODEL):
        for name, found in _tagged(client, kind):
            if sagemaker_endpoint.describe(client, sagemaker_endpoint.ENDPOINT, name) is None:
                created, removal = found["CreationTime"], _unhost_command(name, region)
                yield Leftover(kind.api_name, name, "without an endpoint", created, 0.0, 0.0, removal)


def _tagged(client: AwsClient, kind: ResourceKind) -> Iterator[tuple[str, ResourceDescription]]:
    """Yield (name, description) of the resources of a kind that raft-spark has created."""
    for name in _list_names(client, f"list_{kind.method}s", f"{kind.api_name}s", f"{kind.api_name}Name"):
        found = sagemaker_endpoint.describe(client, kind, name)
        if found and aws_requests.TAG in sagemaker_endpoint.get_tags(client, found[f"{kind.api_name}Arn"]):
            yield name, found


def _trainings(conf: Config, region: str) -> Iterator[Leftover]:
    where = conf.training.sagemaker.region or region
    client = aws.connect("sagemaker", where)
    since = dt.datetime.now(dt.UTC) - TRAINING_HISTORY
    key = "TrainingJobName"
    for name in _list_names(client, "list_training_jobs", "TrainingJobSummaries", key, CreationTimeAfter=since):
        job = client.describe_training_job(TrainingJobName=name)
        state, created = job["TrainingJobStatus"], job["CreationTime"]
        is_running = state in {"InProgress", "Stopping"}
        started = job.get("TrainingStartTime", created)
        hours = _hours(started) if is_running else job.get("BillableTimeInSeconds", 0) / 3600
        hourly, spent = dollars(hosting.hourly_price(conf, job["ResourceConfig"]["InstanceType"]), 1, hours)
        stop = f"aws sagemaker stop-training-job --training-job-name {name} --region {where}" if is_running else ""
        yield Leftover("training", name, state, created, hourly if is_running else 0.0, spent, stop)


def _imported(conf: Config, region: str) -> Iterator[Leftover]:
    client = aws.connect("bedrock", region)
    prefix = f"{aws_requests.TAG}-"
    pages = client.get_paginator("list_imported_models").paginate(nameContains=prefix)
    for arn in [model["modelArn"] for page in pages for model in page["modelSummaries"]]:
        if aws_requests.TAG in bedrock_import.get_tags(client, arn):
            model = client.get_imported_model(modelIdentifier=arn)
            name, hourly = model["modelName"], hosting.imported_model_price(conf, model)
            state = "ready, costs while it answers requests, and its storage"
            removal = _unhost_command(name, region, "bedrock")
            yield Leftover("imported model", name, state, model["creationTime"], hourly or None, None, removal)
    pages = client.get_paginator("list_model_import_jobs").paginate(nameContains=prefix, statusEquals="InProgress")
    for job in [job for page in pages for job in page["modelImportJobSummaries"]]:
        yield Leftover("import", job["jobName"], job["status"], job["creationTime"], 0.0, 0.0)


def _list_names(client: AwsClient, operation: str, key: str, name: str, **more: object) -> list[str]:
    """List the names of a kind that begin with raft-spark-."""
    pages = client.get_paginator(operation).paginate(NameContains=f"{aws_requests.TAG}-", **more)
    names = [str(summary[name]) for page in pages for summary in page[key]]
    return [name for name in names if name.startswith(f"{aws_requests.TAG}-")]


def _hours(since: dt.datetime) -> float:
    return (dt.datetime.now(dt.UTC) - since).total_seconds() / 3600


def _unhost_command(resource_name: str, region: str, kind: str = "sagemaker") -> str:
    return hosting.removal_command(resource_name.removeprefix(f"{aws_requests.TAG}-"), region, kind)
