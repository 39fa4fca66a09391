"""Follow a run on EMR Serverless to its end: print its state and attempts, then its cost or why it failed."""

import datetime as dt
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import click
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console

from raft_spark.common import aws, background
from raft_spark.common.aws import AwsClient
from raft_spark.config import Config
from raft_spark.emr import driver_logs
from raft_spark.errors import INTERRUPTED, ConfigError, RunError, StoppedError

END_STATES = frozenset({"SUCCESS", "FAILED", "CANCELLED"})
MAX_FAILED_POLLS = 5  # in a row, each after the SDK's own retries
JobRun = Mapping[str, Any]  # as GetJobRun returns it


def run(conf: Config, run_id: str, console: Console) -> None:
    """Follow a run to its end and report the result.

    After Ctrl-C in a terminal, ask whether to cancel the run. Without a terminal, or when following fails, the run is
    not cancelled. Raises RunError when the run failed, StoppedError when it was cancelled or took too long.
    """
    client = aws.connect("emr-serverless")
    try:
        job_run = wait_until_ended(client, conf, run_id, console)
    except KeyboardInterrupt:
        if not _confirm_cancel(run_id):
            print_line(console, f"run {run_id} continues; {_follow_hint(run_id)}")
            sys.exit(INTERRUPTED)
        cancel(client, conf, run_id)
        job_run = wait_until_ended(client, conf, run_id, console)
    report_end(client, conf, job_run, console)


def get_job_run(client: AwsClient, conf: Config, run_id: str) -> JobRun:
    """Return the run as EMR describes it now. Raises ConfigError."""
    with aws.config_errors(f"run {run_id} cannot be read"):
        return dict(client.get_job_run(**_names(conf, run_id))["jobRun"])


def cancel(client: AwsClient, conf: Config, run_id: str) -> None:
    """Ask EMR to cancel a run. Raises ConfigError when EMR refuses, for example because the run has ended."""
    with aws.config_errors(f"run {run_id} cannot be cancelled"):
        client.cancel_job_run(**_names(conf, run_id))


def _names(conf: Config, run_id: str) -> dict[str, str]:
    if not conf.emr.application_id:
        msg = "emr.application_id is not set; give the settings that the run was submitted with"
        raise ConfigError(msg)
    return {"applicationId": conf.emr.application_id, "jobRunId": run_id}


def wait_until_ended(client: AwsClient, conf: Config, run_id: str, console: Console) -> JobRun:
    """Poll the run until it has ended and return it; print a line whenever its state or attempt changes."""
    before = ""
    with console.status(f"run {run_id}") as status:
        for job_run in _poll(client, conf, run_id):
            line = status_line(job_run)
            if (state := f"{job_run['state']} {job_run.get('attempt', 1)}") != before:
                print_line(console, f"{dt.datetime.now(dt.UTC):%H:%M:%S} {line}")
            before = state
            status.update(line)
            if job_run["state"] in END_STATES:
                return job_run
    msg = f"run {run_id} cannot be read any more, and may still be running; {_follow_hint(run_id)}"
    raise RunError(msg)


def _poll(client: AwsClient, conf: Config, run_id: str) -> Iterator[JobRun]:
    """Yield the run again and again, with growing pauses; stop after MAX_FAILED_POLLS failures in a row."""
    failures = 0
    for job_run in background.poll(lambda: _read_run(client, conf, run_id)):
        failures = 0 if job_run else failures + 1
        if failures == MAX_FAILED_POLLS:
            return
        if job_run:
            yield job_run


def _read_run(client: AwsClient, conf: Config, run_id: str) -> JobRun | None:
    """Return the run, None if AWS does not answer."""
    try:
        job_run: JobRun = client.get_job_run(**_names(conf, run_id))["jobRun"]
    except (ClientError, BotoCoreError):
        return None
    return job_run


def status_line(job_run: JobRun) -> str:
    """Return state, minutes and attempt of a run in one line."""
    end = job_run["updatedAt"] if job_run["state"] in END_STATES else dt.datetime.now(dt.UTC)
    minutes = (end - job_run["createdAt"]).total_seconds() / 60
    attempts = job_run.get("retryPolicy", {}).get("maxAttempts", 1)
    attempt = f", attempt {job_run.get('attempt', 1)} of {attempts}" if attempts > 1 else ""
    return f"{job_run['state']}, {minutes:,.1f} minutes{attempt}"


def report_end(client: AwsClient, conf: Config, job_run: JobRun, console: Console) -> None:
    """Print the cost of a run that has ended; of one without success also the end of its driver's log and the dashboard.

    Raises RunError when it failed, StoppedError when it was cancelled.
    """
    print_line(console, billed(conf, job_run))
    if job_run["state"] == "SUCCESS":
        return
    for line in (*driver_logs.tail(conf, job_run), f"dashboard: {dashboard_url(client, job_run)}"):
        print_line(console, line)
    msg = f"run {job_run['jobRunId']} {job_run['state']}: {job_run['stateDetails']}"
    raise (StoppedError if job_run["state"] == "CANCELLED" else RunError)(msg)


def billed(conf: Config, job_run: JobRun) -> str:
    """Return what EMR bills for a run, in hours and in dollars at the prices of [emr]. A model's tokens are not in it."""
    used = job_run.get("billedResourceUtilization")
    if not used:
        return "EMR has not said yet what it bills for this run"
    vcpu, memory, disk = (used.get(name, 0.0) for name in ("vCPUHour", "memoryGBHour", "storageGBHour"))
    dollars = conf.emr.dollars(vcpu, memory, disk)
    priced = f": ${dollars:,.2f} at the prices of [emr], of {conf.emr.date}" if dollars else ""
    extra = f", {disk:,.2f} GB-hours of disk above 20 GB" if disk else ""
    return f"billed {vcpu:,.2f} vCPU-hours, {memory:,.2f} GB-hours{extra}{priced}"


def dashboard_url(client: AwsClient, job_run: JobRun) -> str:
    """Return the address of Spark's page about a run, which is valid for an hour; or why there is no address."""
    try:
        return str(
            client.get_dashboard_for_job_run(applicationId=job_run["applicationId"], jobRunId=job_run["jobRunId"])[
                "url"
            ]
        )
    except (ClientError, BotoCoreError) as error:
        return f"none ({error})"


def print_line(console: Console, line: str) -> None:
    """Print a line without markup and without wrapping."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _confirm_cancel(run_id: str) -> bool:
    """Ask in a terminal whether to cancel; no terminal or another Ctrl-C means no."""
    if not sys.stdin.isatty():
        return False
    try:
        return click.confirm(f"\nCancel run {run_id}? Otherwise it continues", default=False)
    except click.Abort:
        return False


def _follow_hint(run_id: str) -> str:
    return f"follow it, with the same settings: raft-spark emr status {run_id} --wait"
