"""Define the commands of `raft-spark emr`."""

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
    """The options of `raft-spark emr submit` besides the settings."""

    release: str
    token: str
    dry_run: bool
    no_wait: bool


def _check_token(_: click.Context, __: click.Parameter, text: str) -> str:
    """Return a token that EMR accepts. Raises BadParameter for another one."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{0,64}", text):
        msg = "it must have at most 64 letters, digits and ._-"
        raise click.BadParameter(msg)
    return text


@click.group()
def emr() -> None:
    """Build a release for EMR Serverless; submit, follow and cancel runs."""


@emr.command("package")
@click.option(
    "--to", default="build/release", show_default=True, type=click.Path(path_type=Path), help="Folder of all releases."
)
def package_release(to: Path) -> None:
    """Build the release that EMR runs.

    It is a folder with wheel, jobs, settings and packages, named by a hash of its content. The last line of the output
    is its path.
    """
    with error_exit():
        from raft_spark.emr import package

        built = package.build(package.checkout(), to, click.echo)
        for line in package.size_lines(built):
            click.echo(line)
        click.echo(built.folder)


@emr.command()
@click.argument("job", type=click.Choice(registry.JOBS))
@settings
@click.option(
    "--release",
    default="",
    metavar="FOLDER",
    help="Release to run.  [default: the only one of this version in build/release]",
)
@click.option(
    "--token",
    default="",
    callback=_check_token,
    help="Start at most one run with this token, ever.  [default: at most one run of the same settings at a time]",
)
@click.option("--dry-run", is_flag=True, help="Print the arguments of StartJobRun as JSON, without network or release.")
@click.option("--no-wait", is_flag=True, help="Print the run's id and exit, while the run continues.")
def submit(job: str, files: Sequence[str], assignments: Sequence[str], **options: Unpack[SubmitOptions]) -> None:
    """Upload the release if necessary, start a run of a job, and follow it to its end.

    Example: raft-spark emr submit refresh my-emr.toml, where my-emr.toml is a copy of conf/emr.toml
    """
    with error_exit():
        from raft_spark.emr import follow, job_run
        from raft_spark.emr import submit as submission

        conf = config.load(files, assignments)
        job_run.check(conf, job)
        if options["dry_run"]:
            release = submission.release_to_show(options["release"], partial(click.echo, err=True))
            token = {"clientToken": options["token"]} if options["token"] else {}
            click.echo(json.dumps({**job_run.build(conf, job, (), release), **token}, indent=2))
            return
        release = submission.find_release(options["release"])
        run_id = submission.run(conf, job, release, options["token"], partial(follow.print_line, console))
        if not options["no_wait"]:
            follow.run(conf, run_id, console)


@emr.command()
@click.argument("run_id")
@settings
@click.option("--wait", is_flag=True, help="Follow the run until it has ended.")
def status(run_id: str, files: Sequence[str], assignments: Sequence[str], *, wait: bool) -> None:
    """Show the state of a run. After its end, show its cost; after a failure, why it failed."""
    with error_exit():
        from raft_spark.common import aws
        from raft_spark.emr import follow

        conf = config.load(files, assignments)
        if wait:
            follow.run(conf, run_id, console)
            return
        client = aws.connect("emr-serverless")
        job_run = follow.get_job_run(client, conf, run_id)
        follow.print_line(console, follow.status_line(job_run))
        if job_run["state"] in follow.END_STATES:
            follow.report_end(client, conf, job_run, console)


@emr.command()
@click.argument("run_id")
@settings
def cancel(run_id: str, files: Sequence[str], assignments: Sequence[str]) -> None:
    """Cancel a run. Everything that it has stored is kept, and the next run continues from there."""
    with error_exit():
        from raft_spark.common import aws
        from raft_spark.emr import follow

        follow.cancel(aws.connect("emr-serverless"), config.load(files, assignments), run_id)
        follow.print_line(console, f"run {run_id} is being cancelled")
