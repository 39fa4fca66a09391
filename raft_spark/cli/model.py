"""Define the commands of `raft-spark model`: train a student, host it, remove it, list what costs money."""

from collections.abc import Sequence
from pathlib import Path

import click

from raft_spark import config
from raft_spark.cli import model_aws
from raft_spark.cli.options import error_exit, settings


@click.group()
def model() -> None:
    """Train a student on the dataset, and host it on AWS for an evaluation."""


for verb in (model_aws.submit, model_aws.host, model_aws.unhost, model_aws.list_inventory):
    model.add_command(verb)


@model.command("train")
@settings
@click.option(
    "--to",
    default="build/student",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of the student and its checkpoints.",
)
def train_student(files: Sequence[str], assignments: Sequence[str], to: Path) -> None:
    """Train the student of [training] on the lake's dataset. An interrupted training continues.

    The last line of the output is the student's folder.
    """
    with error_exit():
        from raft_spark.students import train

        click.echo(train.run(config.load(files, assignments), to))
