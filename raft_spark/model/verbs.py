"""raft-spark model: what becomes of a dataset: a student that is trained, hosted, asked and taken down again."""

import click


@click.group()
def model() -> None:
    """Train a student on the dataset, host it for its evaluation, list what is left over with its cost."""
