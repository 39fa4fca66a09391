"""A run on EMR Serverless -> how it is doing, until it has ended: its state, its attempts, what it cost, or why it failed."""

import datetime as dt
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import click
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console

from raft_spark.common import aws
from raft_spark.common.aws import AwsClient
from raft_spark.config import Config
from raft_spark.emr import driver_logs
from raft_spark.errors import INTERRUPTED, ConfigError, RunError, StoppedError

ENDED = frozenset({"SUCCESS", "FAILED", "CANCELLED"})
FIRST, LONGEST, GROWTH = 2.0, 30.0, 1.5  # seconds between two looks: soon at first, then ever less often
BLIND = 5  # looks in a row that may fail, each after the SDK's own attempts
Told = Mapping[str, Any]  # a job run as GetJobRun returns it


def run(conf: Config, run_id: str, console: Console) -> None:
    """Follow a run to its end and say what came of it.

    Ctrl-C asks in a terminal whether to cancel the run; without one the run is left alone, as it is when following fails.
    Raises RunError when the run failed, StoppedError when it was cancelled or took too long.
    """
    client = aws.connect("emr-serverless")
    try:
        told = until_ended(client, conf, run_id, console)
    except KeyboardInterrupt:
        if not _is_to_cancel(run_id):
            say(console, f"run {run_id} goes on; {_later(run_id)}")
            sys.exit(INTERRUPTED)
        cancel(client, conf, run_id)
        told = until_ended(client, conf, run_id, console)
    ended(client, conf, told, console)


def look(client: AwsClient, conf: Config, run_id: str) -> Told:
    """Ask once. Raises ConfigError."""
    with aws.config_errors(f"run {run_id} cannot be looked at"):
        return dict(client.get_job_run(**_names(conf, run_id))["jobRun"])


def cancel(client: AwsClient, conf: Config, run_id: str) -> None:
    """Ask EMR to end a run. Raises ConfigError when it refuses, as it does of a run that has ended."""
    with aws.config_errors(f"run {run_id} cannot be cancelled"):
        client.cancel_job_run(**_names(conf, run_id))


def _names(conf: Config, run_id: str) -> dict[str, str]:
    if not conf.emr.application_id:
        msg = "emr.application_id must be given: give the settings that the run was submitted with"
        raise ConfigError(msg)
    return {"applicationId": conf.emr.application_id, "jobRunId": run_id}


def until_ended(client: AwsClient, conf: Config, run_id: str, console: Console) -> Told:
    """Look again and again; show the state, and keep a line of each change."""
    before = ""
    with console.status(f"run {run_id}") as status:
        for told in _looks(client, conf, run_id):
            said = line(told)
            if (state := f"{told['state']} {told.get('attempt', 1)}") != before:
                say(console, f"{dt.datetime.now(dt.UTC):%H:%M:%S} {said}")
            before = state
            status.update(said)
            if told["state"] in ENDED:
                return told
    msg = f"run {run_id} cannot be looked at any more, and may go on; {_later(run_id)}"
    raise RunError(msg)


def _looks(client: AwsClient, conf: Config, run_id: str) -> Iterator[Told]:
    """Yield what EMR says, ever less often; end when it says nothing again and again."""
    pause, blind = FIRST, 0
    while blind < BLIND:
        try:
            yield client.get_job_run(**_names(conf, run_id))["jobRun"]
            blind = 0
        except (ClientError, BotoCoreError):
            blind += 1
        time.sleep(pause)
        pause = min(LONGEST, pause * GROWTH)


def line(told: Told) -> str:
    """Say in one line how a run is doing."""
    minutes = (told["updatedAt"] if told["state"] in ENDED else dt.datetime.now(dt.UTC)) - told["createdAt"]
    attempts = told.get("retryPolicy", {}).get("maxAttempts", 1)
    which = f", attempt {told.get('attempt', 1)} of {attempts}" if attempts > 1 else ""
    return f"{told['state']}, {minutes.total_seconds() / 60:,.1f} minutes{which}"


def ended(client: AwsClient, conf: Config, told: Told, console: Console) -> None:
    """Say what came of a run that has ended: its price, or the end of its driver's log and where to look.

    Raises RunError when it failed, StoppedError when it was cancelled.
    """
    say(console, cost(conf, told))
    if told["state"] == "SUCCESS":
        return
    for said in (*driver_logs.tail(conf, told), f"dashboard: {dashboard(client, told)}"):
        say(console, said)
    msg = f"run {told['jobRunId']} {told['state']}: {told['stateDetails']}"
    raise (StoppedError if told["state"] == "CANCELLED" else RunError)(msg)


def cost(conf: Config, told: Told) -> str:
    """Say what EMR bills a run for, and its dollars at the prices of [emr]; the tokens are beside it, in the manifest."""
    used = told.get("billedResourceUtilization")
    if not used:
        return "what EMR bills is not known yet"
    vcpu, memory, disk = (used.get(name, 0.0) for name in ("vCPUHour", "memoryGBHour", "storageGBHour"))
    dollars = conf.emr.dollars(vcpu, memory)
    priced = f": ${dollars:,.2f} at the prices of [emr], of {conf.emr.date}" if dollars else ""
    beside = f"; {disk:,.2f} GB-hours of disk, not in it" if disk else ""
    return f"billed {vcpu:,.2f} vCPU-hours, {memory:,.2f} GB-hours{priced}{beside}"


def dashboard(client: AwsClient, told: Told) -> str:
    """Return the address of Spark's own page about a run, which holds for an hour; or why there is none."""
    try:
        return str(
            client.get_dashboard_for_job_run(applicationId=told["applicationId"], jobRunId=told["jobRunId"])["url"]
        )
    except (ClientError, BotoCoreError) as error:
        return f"none ({error})"


def say(console: Console, line: str) -> None:
    """Print a line as it is: brackets are no markup, and nothing is folded."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _is_to_cancel(run_id: str) -> bool:
    """Ask a person, where there is one; another Ctrl-C is a no."""
    if not sys.stdin.isatty():
        return False
    try:
        return click.confirm(f"\nCancel run {run_id}? It goes on otherwise", default=False)
    except click.Abort:
        return False


def _later(run_id: str) -> str:
    return f"follow it, with the same settings: raft-spark emr status {run_id} --wait"
