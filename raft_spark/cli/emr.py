"""raft-spark emr: what happens between a checkout and EMR Serverless."""

import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TypedDict, Unpack

import click

from raft_spark import config
from raft_spark.cli.options import console, error_exit, settings
from raft_spark.stages import registry


class SubmitOptions(TypedDict):
    """How a run is submitted."""

    release: str
    token: str
    dry_run: bool
    no_wait: bool


def _check_token(_: click.Context, __: click.Parameter, text: str) -> str:
    """Refuse what EMR does not take for a token."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{0,64}", text):
        msg = "it must be at most 64 letters, digits and ._-"
        raise click.BadParameter(msg)
    return text


@click.group()
def emr() -> None:
    """Make a release for EMR Serverless, start a run of a job with it, follow and end it."""


@emr.command("package")
@click.option(
    "--to", default="build/release", show_default=True, type=click.Path(path_type=Path), help="Where releases are."
)
def package_release(to: Path) -> None:
    """Make the folder that EMR runs: wheel, jobs, settings, packages; named by its content. Prints its path last."""
    with error_exit():
        from raft_spark.emr import package

        made = package.build(package.checkout(), to, click.echo)
        for line in package.size_lines(made):
            click.echo(line)
        click.echo(made.folder)


@emr.command()
@click.argument("job", type=click.Choice(registry.JOBS))
@settings
@click.option("--release", default="", metavar="FOLDER", help="Which; default: the one below build/release.")
@click.option(
    "--token",
    default="",
    callback=_check_token,
    help="One run for this token, ever; default: one at a time, and the next after its end.",
)
@click.option("--dry-run", is_flag=True, help="Print what StartJobRun would get, as JSON; nothing is contacted.")
@click.option("--no-wait", is_flag=True, help="Print the run's id and leave it alone.")
def submit(job: str, files: Sequence[str], assignments: Sequence[str], **way: Unpack[SubmitOptions]) -> None:
    """Upload the release where it is not yet, start a run of a job, and follow it to its end."""
    with error_exit():
        from raft_spark.emr import follow, job_run
        from raft_spark.emr import submit as submission

        conf, taken = config.load(files, assignments), submission.find_release(way["release"])
        if way["dry_run"]:
            own_token = {"clientToken": way["token"]} if way["token"] else {}
            click.echo(json.dumps({**job_run.build(conf, job, (), taken), **own_token}, indent=2))
            return
        run_id = submission.run(conf, job, taken, way["token"], partial(follow.print_line, console))
        if not way["no_wait"]:
            follow.run(conf, run_id, console)


@emr.command()
@click.argument("run_id")
@settings
@click.option("--wait", is_flag=True, help="Until it has ended.")
def status(run_id: str, files: Sequence[str], assignments: Sequence[str], *, wait: bool) -> None:
    """Say how a run is doing and what it cost; of one that failed, the end of its driver's log."""
    with error_exit():
        from raft_spark.common import aws
        from raft_spark.emr import follow

        conf = config.load(files, assignments)
        if wait:
            follow.run(conf, run_id, console)
            return
        client = aws.connect("emr-serverless")
        told = follow.get_job_run(client, conf, run_id)
        follow.print_line(console, follow.status_line(told))
        if told["state"] in follow.END_STATES:
            follow.report_end(client, conf, told, console)


@emr.command()
@click.argument("run_id")
@settings
def cancel(run_id: str, files: Sequence[str], assignments: Sequence[str]) -> None:
    """End a run. What it has stored stays, and the next run goes on from there."""
    with error_exit():
        from raft_spark.common import aws
        from raft_spark.emr import follow

        follow.cancel(aws.connect("emr-serverless"), config.load(files, assignments), run_id)
        follow.print_line(console, f"run {run_id} is being cancelled")
