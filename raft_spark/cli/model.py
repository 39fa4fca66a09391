"""raft-spark model: what becomes of a dataset: a student that is trained, hosted, asked and taken down again."""

from collections.abc import Sequence
from pathlib import Path

import click

from raft_spark import config
from raft_spark.cli import model_aws
from raft_spark.cli.options import error_exit, settings


@click.group()
def model() -> None:
    """Train a student on the dataset, host it for its evaluation, list what is left over with its cost."""


for verb in (model_aws.submit, model_aws.host, model_aws.unhost, model_aws.list_inventory):
    model.add_command(verb)


@model.command("train")
@settings
@click.option(
    "--to", default="build/student", show_default=True, type=click.Path(path_type=Path), help="Where it is kept."
)
def train_student(files: Sequence[str], assignments: Sequence[str], to: Path) -> None:
    """Train the student of [training] on the lake's dataset, and print its folder last. What was interrupted goes on."""
    with error_exit():
        from raft_spark.students import train

        click.echo(train.run(config.load(files, assignments), to))
