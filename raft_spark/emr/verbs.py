"""raft-spark emr: what happens between a checkout and EMR Serverless."""

from pathlib import Path

import click

from raft_spark.emr import package
from raft_spark.terminal import reported


@click.group()
def emr() -> None:
    """Make a release, for EMR Serverless."""


@emr.command("package")
@click.option(
    "--to", default="build/release", show_default=True, type=click.Path(path_type=Path), help="Where releases are."
)
def package_release(to: Path) -> None:
    """Make the folder that EMR runs: wheel, jobs, settings, packages; named by its content. Prints its path last."""
    with reported():
        made = package.built(package.checkout(), to, click.echo)
        for line in package.sizes(made):
            click.echo(line)
        click.echo(made.folder)
