"""raft-spark model: what becomes of a dataset: a student that is trained, hosted, asked and taken down again."""

import click

from raft_spark.model import aws_verbs


@click.group()
def model() -> None:
    """Train a student on the dataset, host it for its evaluation, list what is left over with its cost."""


for verb in (aws_verbs.submit, aws_verbs.host, aws_verbs.unhost, aws_verbs.list_left):
    model.add_command(verb)
