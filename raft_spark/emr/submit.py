"""Start a run on EMR Serverless once; check everything before anything is uploaded or paid.

Two submissions of the same arguments are one run while it has not ended: after a double click, from a retried step, from
two machines. After its end the same command starts the next run. With --token there is only ever one run per token.
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
from raft_spark.emr.follow import END_STATES
from raft_spark.emr.release import Release
from raft_spark.errors import ConfigError, InputError
from raft_spark.inference import quota
from raft_spark.stages import registry

RELEASES = Path("build/release")
LOOKBACK = dt.timedelta(days=30)  # runs that were created earlier are not searched
CLOCK_TOLERANCE = dt.timedelta(minutes=1)  # between this machine's clock and EMR's
Document = Mapping[str, Any]


def release_to_show(folder: str, say: Callable[[str], None]) -> Release:
    """Return the release whose run is shown: `find_release`'s, or one that nobody has built. Raises InputError."""
    if folder or list(RELEASES.glob(f"raft-spark-{__version__}-*")):
        return find_release(folder)
    unbuilt = release.unbuilt(__version__, registry.JOBS)
    say(f"note: there is no release in {RELEASES}; the arguments name {unbuilt.name}, which EMR does not find")
    return unbuilt


def find_release(folder: str) -> Release:
    """Load the release in a folder, or without a folder the only one of this version in build/release. Raises InputError."""
    if folder:
        return release.load(Path(folder))
    folders = sorted(RELEASES.glob(f"raft-spark-{__version__}-*"))
    if len(folders) != 1:
        hint = (
            f": {', '.join(map(str, folders))}; name one with --release"
            if folders
            else "; build one: raft-spark emr package"
        )
        msg = f"{RELEASES} has {len(folders) or 'no'} releases of raft-spark {__version__}{hint}"
        raise InputError(msg)
    return release.load(folders[0])


def run(conf: Config, job: str, package: Release, token: str, say: Callable[[str], None]) -> str:
    """Check the application, upload the release `package`, start the run or find it; return its id. Raises ConfigError."""
    document = job_run.build(conf, job, (), package)
    client = aws.connect("emr-serverless")
    with aws.config_errors(f"application {conf.emr.application_id} cannot be read"):
        details = client.get_application(applicationId=conf.emr.application_id)["application"]
    problems = application.problems(details, conf)
    if problems:
        raise ConfigError("\n".join(problems))
    for line in (
        *worker_lines(conf),
        *batch_lines(conf, job),
        *quota_lines(conf, job),
        *application.notes(details, conf, job),
    ):
        say(line)
    sent = upload.upload_release(aws.connect("s3"), package, job_run.release_uri(conf, package), say)
    say(f"release {package.name}: {f'{sent / 1e6:,.1f} MB uploaded' if sent else 'already uploaded'}")
    run_id, is_new = start_once(client, document, token)
    say(f"run {run_id} {'started' if is_new else 'exists already: no other run was started'}")
    return run_id


def worker_lines(conf: Config) -> Iterator[str]:
    """Yield lines on the size of the workers and on what all of them cost in an hour."""
    emr, factor = conf.emr, worker_sizes.overhead_factor(conf.spark)
    vcpus, memory = emr.vcpus, emr.memory_gb
    for what, cores, gigabytes in (
        ("driver", emr.driver_cores, emr.driver_memory_gb),
        (f"at most {emr.max_executors} executors, each", emr.executor_cores, emr.executor_memory_gb),
    ):
        heap = worker_sizes.heap_mb(gigabytes, factor)
        yield f"{what} {cores} vCPU, {gigabytes} GB: {heap:,} MB for Spark's heap, {gigabytes * 1024 - heap:,} MB for Python"
    dollars = emr.dollars(vcpus, memory, emr.billed_disk_gb * (1 + emr.max_executors))
    priced = f": ${dollars:,.2f} an hour while all of them run" if dollars else ""
    yield f"together {vcpus} vCPU, {memory} GB{priced}"


def batch_lines(conf: Config, job: str) -> Iterator[str]:
    """Yield a line on what the driver costs while it waits for batch jobs, and what a small one would cost."""
    if not ("teacher" in validation.uses(job) and conf.completions.mode == "batch"):
        return
    wait = worker_sizes.batch_wait(conf)
    yield f"batch jobs may take {wait.hours} hours, in which the driver waits{f': ${wait.dollars:,.2f}' if wait.dollars else ''}"
    if wait.advice:
        yield f"note: {wait.advice}"


def quota_lines(conf: Config, job: str) -> Iterator[str]:
    """Yield lines on how many requests each task may send; no line for a job that sends none in real time.

    Students are always asked in real time, the teacher only when completions.mode is "realtime".
    """
    if not validation.endpoints_of(conf, job) or (
        "teacher" in validation.uses(job) and conf.completions.mode == "batch"
    ):
        return
    section, executors, cores = conf.completions, conf.emr.max_executors, conf.emr.executor_cores
    slots = executors * cores
    limits = quota.ClusterLimits(
        section.in_flight, section.requests_per_second, section.tokens_per_minute, section.max_spend
    )
    idle = f", of which {slots - section.in_flight} would send no request: completions.in_flight is {section.in_flight}"
    yield f"{executors} executors x {cores} cores = {slots} tasks{idle if slots > section.in_flight else ''}"
    yield quota.describe_limits(limits, min(slots, section.in_flight))


def start_once(client: AwsClient, document: Document, token: str) -> tuple[str, bool]:
    """Return the id of the only run of this document that has not ended, and whether it was started now.

    EMR's list of runs may be some seconds old. So the clientToken protects against a second start as well: it is derived
    from the last run that has ended. When EMR still knows that token from a run that the list no longer shows, the token
    is derived from that run and the date instead.
    """
    with aws.config_errors("the run cannot be started"):
        if token:
            return _start(client, document, token)[:2]
        runs = _runs_of_same_name(client, document)
        active = next(
            (
                run["id"]
                for run in runs
                if run["state"] not in END_STATES and _has_same_document(client, run["id"], document)
            ),
            None,
        )
        if active:
            return active, False
        ended = {run["id"]: run["createdAt"] for run in runs if run["state"] in END_STATES}
        last = max(ended, key=lambda run_id: ended[run_id], default="")
        run_id, is_new, state = _start(client, document, job_run.client_token(document, last))
        if not is_new and state in END_STATES:
            today = dt.datetime.now(dt.UTC).date()
            return _start(client, document, job_run.client_token(document, f"{run_id} {today}"))[:2]
        return run_id, is_new


def _start(client: AwsClient, document: Document, token: str) -> tuple[str, bool, str]:
    """Start a run, or find the one with this token; return its id, whether it is new, and its state.

    StartJobRun answers the same in both cases; only the time of creation tells them apart.
    """
    before = dt.datetime.now(dt.UTC)
    run_id = str(client.start_job_run(**document, clientToken=token)["jobRunId"])
    run = client.get_job_run(applicationId=document["applicationId"], jobRunId=run_id)["jobRun"]
    return run_id, bool(run["createdAt"] > before - CLOCK_TOLERANCE), str(run["state"])


def _runs_of_same_name(client: AwsClient, document: Document) -> Sequence[Mapping[str, Any]]:
    """Return the application's runs with the document's name, created within LOOKBACK."""
    pages = client.get_paginator("list_job_runs").paginate(
        applicationId=document["applicationId"], createdAtAfter=dt.datetime.now(dt.UTC) - LOOKBACK
    )
    return [run for page in pages for run in page["jobRuns"] if run.get("name") == document["name"]]


def _has_same_document(client: AwsClient, run_id: str, document: Document) -> bool:
    """Compare the identity tag, which the list of runs does not show."""
    run = client.get_job_run(applicationId=document["applicationId"], jobRunId=run_id)["jobRun"]
    return bool(run.get("tags", {}).get(job_run.IDENTITY) == document["tags"][job_run.IDENTITY])
