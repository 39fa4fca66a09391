"""raft-spark model, on AWS: a student is trained by SageMaker, hosted, and what is left over is listed and removed."""

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

TERMINATION_SECONDS = 300  # for a command that is to end; then it is killed
SECTIONS_FOLDER = Path("build/hosted")  # where the section of an endpoint lies while it stands


class ModelOptions(TypedDict):
    """How a student is hosted."""

    student: str
    command: str
    keep: bool
    dry_run: bool


def _check_name(_: click.Context, __: click.Parameter, text: str) -> str:
    """Refuse what SageMaker and Bedrock do not take for a name, and what is no name of a section."""
    if not re.fullmatch(r"[a-z0-9](-?[a-z0-9]){0,31}", text):
        msg = "it must be at most 32 lowercase letters, digits and single -"
        raise click.BadParameter(msg)
    return text


name = click.argument("name", callback=_check_name)


@click.command()
@settings
@click.option("--dry-run", is_flag=True, help="Print what CreateTrainingJob would get, as JSON; nothing is contacted.")
@click.option("--no-wait", is_flag=True, help="Print the training's name and leave it alone.")
def submit(files: Sequence[str], assignments: Sequence[str], *, dry_run: bool, no_wait: bool) -> None:
    """Train the student of [training] on SageMaker, follow it to its end, and print its folder in S3 last."""
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
                f"training {job} goes on, at most {conf.training.sagemaker.max_hours:g} hours; the same command follows it, "
                f"`aws sagemaker stop-training-job --training-job-name {job}` ends it"
            )
            sys.exit(INTERRUPTED)


@click.command()
@name
@click.option(
    "--model", "student", required=True, metavar="s3://...", help="The student's folder: what submit printed."
)
@settings
@click.option("--run", "command", default="", metavar="COMMAND", help="Host it while this runs, then take it down.")
@click.option("--keep", is_flag=True, help="Leave it when it stands. It costs until `raft-spark model unhost`.")
@click.option("--dry-run", is_flag=True, help="Print what AWS would be sent, as JSON; nothing is contacted.")
def host(name: str, files: Sequence[str], assignments: Sequence[str], **way: Unpack[ModelOptions]) -> None:
    """Host a student as raft-spark-NAME while a command runs, or until Ctrl-C, and take it down.

    Its [endpoints.NAME] is printed, and lies in build/hosted/NAME.toml while it stands:

    \b
      raft-spark model host mine --model s3://... my.toml --run "raft-spark evaluation my.toml build/hosted/mine.toml ..."
    """  # noqa: D301 - the backspace is what click wants
    with error_exit():
        from raft_spark.students import hosting

        conf = config.load(files, assignments)
        if way["dry_run"]:
            click.echo(json.dumps(hosting.planned_requests(conf.hosting, name, way["student"]), indent=2))
        elif way["keep"]:
            _host_and_keep(conf, name, way)
        else:
            _host_temporarily(conf, name, way)


def _host_and_keep(conf: config.Config, name: str, way: ModelOptions) -> None:
    """Leave the endpoint when it stands."""
    from raft_spark.students import hosting

    if way["command"]:
        raise ConfigError("--keep and --run exclude each other: a command's endpoint is taken down with its end")
    hosting.check(conf.hosting, way["student"])
    removal = hosting.removal_command(name, hosting.region(conf.hosting), conf.hosting.kind)
    try:
        endpoint = hosting.create(conf, name, way["student"], click.echo)
    except KeyboardInterrupt:
        click.echo(f"interrupted; what is made goes on and may cost; the same command goes on from here, or: {removal}")
        sys.exit(INTERRUPTED)
    _show_section(conf, name, endpoint)
    click.echo(f"it stands until: {removal}")


def _host_temporarily(conf: config.Config, name: str, way: ModelOptions) -> None:
    """Host while a command runs, or until Ctrl-C or hosting.max_hours. A command that fails is a RunError."""
    from raft_spark.students import hosting

    status = 0
    if way["command"] and not shutil.which(shlex.split(way["command"])[0]):
        msg = f"--run is {way['command']!r}, whose first word is no program"
        raise ConfigError(msg)
    try:
        with (
            hosting.temporary_endpoint(conf, name, way["student"], click.echo) as endpoint,
            _section_file(conf, name, endpoint),
        ):
            seconds = conf.hosting.max_hours * 3600
            if way["command"]:
                status = _run_command(way["command"], seconds)
            else:
                click.echo(f"Ctrl-C takes it down; so does the end of {conf.hosting.max_hours:g} hours")
                threading.Event().wait(seconds)
    except KeyboardInterrupt:
        click.echo("interrupted, and taken down")
        sys.exit(INTERRUPTED)
    except subprocess.TimeoutExpired as error:
        msg = f"the command took longer than hosting.max_hours, {conf.hosting.max_hours:g}; it was ended, and the student taken down"
        raise RunError(msg) from error
    if status:
        msg = f"the command ended with status {status}; the student is taken down"
        raise RunError(msg)


def _run_command(command: str, seconds: float) -> int:
    """Run a command to its end and return its status; whatever ends the wait for it ends the command first, in peace: it gets
    one signal, no Ctrl-C of the terminal beside it, and PEACE_SECONDS.
    """
    running = subprocess.Popen(shlex.split(command), start_new_session=True)
    try:
        return running.wait(seconds)
    finally:
        running.terminate()
        try:
            with suppress(subprocess.TimeoutExpired):
                running.wait(TERMINATION_SECONDS)
        finally:
            running.kill()


@contextmanager
def _section_file(conf: config.Config, name: str, endpoint: config.Endpoint) -> Iterator[None]:
    """Keep the section's file while the block runs."""
    try:
        _show_section(conf, name, endpoint)
        yield
    finally:
        (SECTIONS_FOLDER / f"{name}.toml").unlink(missing_ok=True)


def _show_section(conf: config.Config, name: str, endpoint: config.Endpoint) -> None:
    """Print the section, write it to its file, say what it costs."""
    from raft_spark.students import hosting

    text, file = hosting.to_toml(name, endpoint), SECTIONS_FOLDER / f"{name}.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    click.echo(f"\n{text}")
    click.echo(f"{file} holds it; {hosting.describe_cost(conf, endpoint)}")


@click.command()
@name
@settings
def unhost(name: str, files: Sequence[str], assignments: Sequence[str]) -> None:
    """Remove all of raft-spark-NAME, whole or half made: endpoint, configuration, model, component; or the imported model."""
    with error_exit():
        from raft_spark.students import hosting

        conf = config.load(files, assignments).hosting
        hosting.remove(conf, name, click.echo)
        (SECTIONS_FOLDER / f"{name}.toml").unlink(missing_ok=True)
        click.echo(f"nothing of {name} is left in {hosting.region(conf)}, hosting.kind {conf.kind}")


@click.command("list")
@settings
def list_inventory(files: Sequence[str], assignments: Sequence[str]) -> None:
    """List endpoints, imported models and trainings of raft-spark with their age and cost."""
    with error_exit():
        from raft_spark.students import hosting, inventory

        conf, now = config.load(files, assignments), dt.datetime.now(dt.UTC)
        total, count, is_whole = 0.0, 0, True
        for left in inventory.list_leftovers(conf, hosting.region(conf.hosting)):
            if isinstance(left, str):
                click.echo(left)
                is_whole = False
                continue
            click.echo(inventory.describe(left, now))
            total, count = total + (left.hourly or 0.0), count + 1
        if count:
            click.echo(f"together ${total:,.2f} an hour, of the prices that are known")
        elif is_whole:
            click.echo("nothing is left over")
