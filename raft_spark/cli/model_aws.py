"""Define the commands of `raft-spark model` that use AWS: submit, host, unhost, list."""

import datetime as dt
import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypedDict, Unpack

import click

from raft_spark import config
from raft_spark.cli.options import error_exit, settings
from raft_spark.errors import INTERRUPTED, ConfigError, RunError

TERMINATION_SECONDS = 300  # between SIGTERM and SIGKILL for the command of --run
SECTIONS_FOLDER = Path("build/hosted")  # of [endpoints.NAME] files of hosted students


class ModelOptions(TypedDict):
    """The options of `raft-spark model host` besides the settings."""

    student: str
    command: str
    keep: bool
    dry_run: bool


def _check_name(_: click.Context, __: click.Parameter, text: str) -> str:
    """Return a name that SageMaker, Bedrock and TOML accept. Raises BadParameter for another one."""
    if not re.fullmatch(r"[a-z0-9](-?[a-z0-9]){0,31}", text):
        msg = "it must have at most 32 lowercase letters, digits and single -"
        raise click.BadParameter(msg)
    return text


name = click.argument("name", callback=_check_name)


@click.command()
@settings
@click.option(
    "--dry-run", is_flag=True, help="Print the arguments of CreateTrainingJob as JSON, without any network access."
)
@click.option("--no-wait", is_flag=True, help="Print the training's name and exit, while the training continues.")
def submit(files: Sequence[str], assignments: Sequence[str], *, dry_run: bool, no_wait: bool) -> None:
    """Train the student of [training] on SageMaker, and follow the training to its end.

    The last line of the output is the student's folder in S3.
    """
    with error_exit():
        from raft_spark.common import aws
        from raft_spark.students import hosting, sagemaker_training

        conf = config.load(files, assignments)
        if dry_run:
            click.echo(json.dumps(sagemaker_training.dry_run_request(conf), indent=2))
            return
        job = sagemaker_training.start_or_find(conf, click.echo)
        if no_wait:
            click.echo(job)
            return
        client = aws.connect("sagemaker", sagemaker_training.region(conf.training.sagemaker))
        hourly = hosting.hourly_price(conf, conf.training.sagemaker.instance_type)
        try:
            click.echo(sagemaker_training.follow(client, job, hourly, click.echo))
        except KeyboardInterrupt:
            click.echo(
                f"training {job} continues, for at most {conf.training.sagemaker.max_hours:g} hours; the same command follows it, "
                f"`aws sagemaker stop-training-job --training-job-name {job}` stops it"
            )
            sys.exit(INTERRUPTED)


@click.command()
@name
@click.option(
    "--model",
    "student",
    required=True,
    metavar="s3://...",
    help="The student's folder in S3, as `raft-spark model submit` prints it.",
)
@settings
@click.option("--run", "command", default="", metavar="COMMAND", help="Host the student while this command runs.")
@click.option("--keep", is_flag=True, help="Do not remove it. It costs money until `raft-spark model unhost`.")
@click.option("--dry-run", is_flag=True, help="Print the requests to AWS as JSON, without any network access.")
def host(name: str, files: Sequence[str], assignments: Sequence[str], **options: Unpack[ModelOptions]) -> None:
    """Host a student as raft-spark-NAME while a command runs, or until Ctrl-C, and then remove it.

    The section [endpoints.NAME] is printed, and build/hosted/NAME.toml contains it as long as the student is hosted:

    \b
      raft-spark model host mine --model s3://... my.toml --run "raft-spark evaluation my.toml build/hosted/mine.toml ..."
    """  # noqa: D301 - click needs the backspace
    with error_exit():
        from raft_spark.students import hosting

        conf = config.load(files, assignments)
        if options["dry_run"]:
            click.echo(json.dumps(hosting.planned_requests(conf.hosting, name, options["student"]), indent=2))
        elif options["keep"]:
            _host_and_keep(conf, name, options)
        else:
            _host_temporarily(conf, name, options)


def _host_and_keep(conf: config.Config, name: str, options: ModelOptions) -> None:
    """Host the student and leave it running."""
    from raft_spark.students import hosting

    if options["command"]:
        raise ConfigError(
            "--keep and --run exclude each other: with --run the student is removed when the command ends"
        )
    hosting.check(conf.hosting, options["student"])
    removal = hosting.removal_command(name, hosting.region(conf.hosting), conf.hosting.kind)
    try:
        endpoint = hosting.create(conf, name, options["student"], click.echo)
    except KeyboardInterrupt:
        click.echo(
            f"interrupted; what was created may cost money; run the same command to continue, or remove it: {removal}"
        )
        sys.exit(INTERRUPTED)
    _show_section(conf, name, endpoint)
    click.echo(f"it costs money until you run: {removal}")


def _host_temporarily(conf: config.Config, name: str, options: ModelOptions) -> None:
    """Host while a command runs, or until Ctrl-C or hosting.max_hours. Raises RunError when the command fails."""
    from raft_spark.students import hosting

    status = 0
    if options["command"] and not shutil.which(shlex.split(options["command"])[0]):
        msg = f"--run is {options['command']!r}; its first word must be a program"
        raise ConfigError(msg)
    try:
        with (
            hosting.temporary_endpoint(conf, name, options["student"], click.echo) as endpoint,
            _section_file(conf, name, endpoint),
        ):
            seconds = conf.hosting.max_hours * 3600
            if options["command"]:
                status = _run_command(options["command"], seconds)
            else:
                click.echo(f"Ctrl-C removes it; so does the end of {conf.hosting.max_hours:g} hours")
                threading.Event().wait(seconds)
    except KeyboardInterrupt:
        click.echo("interrupted; the student was removed")
        sys.exit(INTERRUPTED)
    except subprocess.TimeoutExpired as error:
        msg = f"the command took longer than hosting.max_hours, {conf.hosting.max_hours:g}; it was stopped, and the student removed"
        raise RunError(msg) from error
    if status:
        msg = f"the command ended with status {status}; the student was removed"
        raise RunError(msg)


def _run_command(command: str, seconds: float) -> int:
    """Run a command to its end and return its status.

    Whatever interrupts the wait stops the command first: it gets SIGTERM only, not the terminal's Ctrl-C as well, and
    TERMINATION_SECONDS to end.
    """
    process = subprocess.Popen(shlex.split(command), start_new_session=True)
    try:
        return process.wait(seconds)
    finally:
        process.terminate()
        try:
            with suppress(subprocess.TimeoutExpired):
                process.wait(TERMINATION_SECONDS)
        finally:
            process.kill()


@contextmanager
def _section_file(conf: config.Config, name: str, endpoint: config.Endpoint) -> Iterator[None]:
    """Write the section's file, and delete it after the block."""
    try:
        _show_section(conf, name, endpoint)
        yield
    finally:
        (SECTIONS_FOLDER / f"{name}.toml").unlink(missing_ok=True)


def _show_section(conf: config.Config, name: str, endpoint: config.Endpoint) -> None:
    """Print the endpoint's section and cost, and write the section to its file."""
    from raft_spark.students import hosting

    text, file = hosting.to_toml(name, endpoint), SECTIONS_FOLDER / f"{name}.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    click.echo(f"\n{text}")
    click.echo(f"written to {file}; {hosting.describe_cost(conf, endpoint)}")


@click.command()
@name
@settings
def unhost(name: str, files: Sequence[str], assignments: Sequence[str]) -> None:
    """Remove everything named raft-spark-NAME, complete or not: endpoint, configuration, model, inference component, or
    imported model.
    """
    with error_exit():
        from raft_spark.students import hosting

        conf = config.load(files, assignments).hosting
        hosting.remove(conf, name, click.echo)
        (SECTIONS_FOLDER / f"{name}.toml").unlink(missing_ok=True)
        click.echo(f"{hosting.region(conf)} has nothing named {name} any more (hosting.kind = {conf.kind})")


@click.command("list")
@settings
def list_inventory(files: Sequence[str], assignments: Sequence[str]) -> None:
    """List the endpoints, imported models and trainings of raft-spark in the account, with age and cost."""
    with error_exit():
        from raft_spark.students import hosting, inventory

        conf, now = config.load(files, assignments), dt.datetime.now(dt.UTC)
        total, count, is_complete = 0.0, 0, True
        for item in inventory.list_leftovers(conf, hosting.region(conf.hosting)):
            if isinstance(item, str):
                click.echo(item)
                is_complete = False
                continue
            click.echo(inventory.describe(item, now))
            total, count = total + (item.hourly or 0.0), count + 1
        if count:
            click.echo(f"together ${total:,.2f} an hour, at the prices that are known")
        elif is_complete:
            click.echo("no endpoint, imported model or training exists")
