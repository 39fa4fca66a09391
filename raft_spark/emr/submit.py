"""A job and settings -> a run on EMR Serverless, started once: what is wrong is said before anything is uploaded or paid.

Two submissions of the same are one run as long as it has not ended, however they come about: a double click, a retried step, two
machines. After it has ended, the same command starts the next run. With a token of one's own there is one run for the token, ever.
"""

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from raft_spark import __version__
from raft_spark.common import aws
from raft_spark.common.aws import AwsClient
from raft_spark.config import Config
from raft_spark.emr import application, job_run, release, upload, validation, worker_sizes
from raft_spark.emr.follow import ENDED
from raft_spark.emr.release import Release
from raft_spark.errors import ConfigError, InputError
from raft_spark.inference import quota

RELEASES = Path("build/release")
REMEMBERED = dt.timedelta(days=30)  # how far back runs are looked through
NEW = dt.timedelta(minutes=1)  # of a run that was started now, by another clock
Document = Mapping[str, Any]


def found(folder: str) -> Release:
    """Load the release in a folder, or the only one of this version below build/release. Raises InputError."""
    if folder:
        return release.load(Path(folder))
    there = sorted(RELEASES.glob(f"raft-spark-{__version__}-*"))
    if len(there) != 1:
        listed = (
            f": {', '.join(map(str, there))}; name one with --release"
            if there
            else "; make one: raft-spark emr package"
        )
        msg = f"{RELEASES} has {len(there) or 'no'} releases of raft-spark {__version__}{listed}"
        raise InputError(msg)
    return release.load(there[0])


def run(conf: Config, job: str, taken: Release, own_token: str, tell: Callable[[str], None]) -> str:
    """Look at the application, upload the release, start the run or find it; return its id. Raises ConfigError."""
    whole = job_run.build(conf, job, (), taken)
    client = aws.connect("emr-serverless")
    with aws.config_errors(f"application {conf.emr.application_id} cannot be looked at"):
        told = client.get_application(applicationId=conf.emr.application_id)["application"]
    trouble = application.problems(told, conf)
    if trouble:
        raise ConfigError("\n".join(trouble))
    for line in (*sizes(conf), *arithmetic(conf, job), *application.notes(told, conf, job)):
        tell(line)
    sent = upload.put(aws.connect("s3"), taken, job_run.at(conf, taken), tell)
    tell(f"release {taken.name}: {f'{sent / 1e6:,.1f} MB uploaded' if sent else 'is there'}")
    run_id, is_new = started(client, whole, own_token)
    tell(f"run {run_id} {'started' if is_new else 'is there already: nothing was started'}")
    return run_id


def sizes(conf: Config) -> Iterator[str]:
    """Say what the workers are, and what they cost while all of them run."""
    emr, factor = conf.emr, worker_sizes.factor(conf.spark)
    vcpus, memory = emr.vcpus, emr.memory_gb
    for what, cores, gigabytes in (
        ("driver", emr.driver_cores, emr.driver_memory_gb),
        (f"at most {emr.max_executors} executors, each", emr.executor_cores, emr.executor_memory_gb),
    ):
        heap = worker_sizes.heap_mb(gigabytes, factor)
        yield f"{what} {cores} vCPU, {gigabytes} GB: {heap:,} MB Spark's heap, {gigabytes * 1024 - heap:,} MB beside it for Python"
    dollars = emr.dollars(vcpus, memory)
    priced = f": ${dollars:,.2f} an hour while all of them run" if dollars else ""
    yield f"together {vcpus} vCPU, {memory} GB{priced}"


def arithmetic(conf: Config, job: str) -> Iterator[str]:
    """Say what a task that asks may do, as the stage shares it out; nothing of jobs that ask nothing. Students are asked in real time
    even where the teacher is asked in batches.
    """
    if not validation.asks_model(conf, job) or ("teacher" in validation.uses(job) and conf.completions.mode == "batch"):
        return
    asking, executors, cores = conf.completions, conf.emr.max_executors, conf.emr.executor_cores
    slots = executors * cores
    limits = quota.ClusterLimits(
        asking.in_flight, asking.requests_per_second, asking.tokens_per_minute, asking.max_spend
    )
    idle = f", of which {slots - asking.in_flight} would have no call: completions.in_flight is {asking.in_flight}"
    yield f"{executors} executors x {cores} cores = {slots} tasks{idle if slots > asking.in_flight else ''}"
    yield quota.describe_limits(limits, min(slots, asking.in_flight))


def started(client: AwsClient, whole: Document, own_token: str) -> tuple[str, bool]:
    """Return the id of the one run of this document that has not ended, and whether it was started now.

    What EMR lists may be seconds old, so the clientToken says the same again: it is made from the last run that has ended. Where EMR
    still knows it from a run that is not listed any more, another is made from that run and the day.
    """
    with aws.config_errors("the run cannot be started"):
        if own_token:
            return _start(client, whole, own_token)[:2]
        listed = _listed(client, whole)
        active = next(
            (told["id"] for told in listed if told["state"] not in ENDED and _is_of(client, told, whole)), None
        )
        if active:
            return active, False
        ended = {told["id"]: told["createdAt"] for told in listed if told["state"] in ENDED}
        last = max(ended, key=lambda run_id: ended[run_id], default="")
        run_id, is_new, state = _start(client, whole, job_run.token(whole, last))
        if not is_new and state in ENDED:
            today = dt.datetime.now(dt.UTC).date()
            return _start(client, whole, job_run.token(whole, f"{run_id} {today}"))[:2]
        return run_id, is_new


def _start(client: AwsClient, whole: Document, token: str) -> tuple[str, bool, str]:
    """Start a run, or get the one that has this token: (its id, whether it is new, its state). Only its age tells them apart."""
    before = dt.datetime.now(dt.UTC)
    run_id = str(client.start_job_run(**whole, clientToken=token)["jobRunId"])
    told = client.get_job_run(applicationId=whole["applicationId"], jobRunId=run_id)["jobRun"]
    return run_id, bool(told["createdAt"] > before - NEW), str(told["state"])


def _listed(client: AwsClient, whole: Document) -> Sequence[Mapping[str, Any]]:
    """Return the application's runs of this name, of the last days."""
    pages = client.get_paginator("list_job_runs").paginate(
        applicationId=whole["applicationId"], createdAtAfter=dt.datetime.now(dt.UTC) - REMEMBERED
    )
    return [told for page in pages for told in page["jobRuns"] if told.get("name") == whole["name"]]


def _is_of(client: AwsClient, told: Mapping[str, Any], whole: Document) -> bool:
    """Say whether a listed run is of the same document, which only its tags tell."""
    found = client.get_job_run(applicationId=whole["applicationId"], jobRunId=told["id"])["jobRun"]
    return bool(found.get("tags", {}).get(job_run.IDENTITY) == whole["tags"][job_run.IDENTITY])
