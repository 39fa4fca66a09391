"""raft-spark: every verb of the command line. A verb settles the settings, calls a stage and shows what came of it.

Each verb imports what it needs when it runs: help is printed at once, and without Spark.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, get_args

import click

from raft_spark import __version__, config
from raft_spark.cli import emr, fake_endpoint
from raft_spark.cli.model import model
from raft_spark.cli.options import console, error_exit, settings, stop_spark
from raft_spark.config.fields import FormatName
from raft_spark.errors import ConfigError
from raft_spark.stages import registry

if TYPE_CHECKING:
    from raft_spark.stages import pipeline


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def main() -> None:
    """Build a RAFT fine-tuning dataset: questions with their oracle passages among distractors, answered by a teacher.

    The stages, in the order of the data, each writing the table of its name:

    \b
      articles     ingest PubMedQA: check, deduplicate, split, number
      base         draw distractors, keep or leave out the oracle, shuffle
      completions  ask the teacher model, once per question, from the oracle alone
      dataset      judge the answers, write train/validation/test in training formats

    and evaluation, which asks students the questions of the test split, and is no part of a run.

    \b
    Try it:   raft-spark run local.toml
    One key:  raft-spark run local.toml --set articles.source=sample:1000
    Look:     raft-spark show dataset local.toml;  ls $(raft-spark path dataset local.toml)

    Settings are those of conf/default.toml, then of each file given, then of each --set; the last wins.
    """  # noqa: D301 - the backspaces are what click wants


@main.command()
@settings
def run(files: Sequence[str], assignments: Sequence[str]) -> None:
    """Run all stages; what is done already is not done again."""
    with error_exit():
        from raft_spark.cli import views
        from raft_spark.stages import pipeline

        conf = config.load(files, assignments)
        with _run_page(conf):
            result = pipeline.run(conf, partial(_show_result, conf))
        stop_spark()
        done = [(each.name, each.manifest, each.is_new, each.seconds) for each in result.stages.values()]
        arguments = [*files, *(word for assignment in assignments for word in ("--set", assignment))]
        views.summary(console, conf, done, result.seconds, arguments)


def _show_result(conf: config.Config, done: "pipeline.StageResult") -> None:
    from raft_spark.cli import views

    console.print(views.line(done.name, done.manifest, done.is_new, done.seconds), highlight=False)
    if done.name == registry.DATASET.name and done.is_new:
        _update_run_page(conf, done.manifest.inputs[registry.COMPLETIONS.name])


def _update_run_page(conf: config.Config, run_id: str) -> None:
    """Write the page of the run again that answered a new dataset: now it knows the rejected rows."""
    from raft_spark.monitoring import run_report, run_state

    if run_state.read(conf.lake, run_id) and find_spec("matplotlib"):
        run_report.write(conf.lake, run_id)


@contextmanager
def _run_page(conf: config.Config) -> Iterator[None]:
    """Write the page about the run that the block makes, also when it fails; none where matplotlib is missing, as on EMR."""
    from raft_spark.monitoring import run_report, run_state

    last = run_state.read(conf.lake)
    try:
        yield
    finally:
        run = run_state.read(conf.lake)
        if run and find_spec("matplotlib") and (last is None or run.id != last.id):
            console.print(f"{'':<12} report: {run_report.write(conf.lake, run.id)}", soft_wrap=True, highlight=False)


def _stage_command(stage: registry.Stage) -> click.Command:
    @settings
    def command(files: Sequence[str], assignments: Sequence[str]) -> None:
        with error_exit():
            from raft_spark.stages import pipeline

            conf = config.load(files, assignments)
            with _run_page(conf) if "teacher" in stage.uses else nullcontext():
                _show_result(conf, pipeline.run_stage(stage.name, conf))
            stop_spark()

    return click.command(stage.name, help=stage.help)(command)


for _stage in registry.STAGES:
    main.add_command(_stage_command(_stage))
main.add_command(emr.emr)
main.add_command(model)


@main.command()
@settings
@click.option("--pubid", type=int, help="Which article; default: the first of the train split.")
def preview(files: Sequence[str], assignments: Sequence[str], pubid: int | None) -> None:
    """Ask the teacher one question of the base table; show prompt, completion, seconds and tokens. Stores nothing."""
    with error_exit():
        from raft_spark.cli import views
        from raft_spark.inference import previews

        views.preview(console, previews.ask(config.load(files, assignments), pubid))


@main.command("estimate")
@settings
@click.option(
    "--ask", default=5, show_default=True, type=click.IntRange(0, 100), help="Answers to go by: asks what is missing."
)
@click.option(
    "--evaluation", "of_evaluation", is_flag=True, help="What the evaluation would cost at most; asks nothing."
)
@click.option("--json", "as_json", is_flag=True, help="The same numbers as one line of JSON.")
def estimate_costs(
    files: Sequence[str], assignments: Sequence[str], ask: int, *, of_evaluation: bool, as_json: bool
) -> None:
    """Say what the completions would cost; asks a few requests where no answers tell, and stores what it paid for."""
    with error_exit():
        from raft_spark.cli import views
        from raft_spark.costs import arithmetic, estimate, estimate_evaluation

        conf = config.load(files, assignments)
        told = estimate_evaluation.run(conf) if of_evaluation else estimate.run(conf, ask)
        stop_spark()
        if as_json:
            click.echo(json.dumps(told, default=dataclasses.asdict))
        elif isinstance(told, arithmetic.Estimate):
            views.estimate(console, conf, told)
        else:
            views.bounds(console, told)


@main.command()
@click.argument("table", type=click.Choice(registry.NAMES))
@settings
@click.option("--rows", default=3, show_default=True, type=click.IntRange(1, 1000), help="How many rows.")
@click.option("--version", "version", help="An old version, by its id; default: the current one.")
@click.option("--quarantine", is_flag=True, help="The rejected rows instead, with their reasons.")
def show(
    table: str, files: Sequence[str], assignments: Sequence[str], rows: int, version: str | None, *, quarantine: bool
) -> None:
    """Show rows of a table, oracle and distractor passages marked."""
    with error_exit():
        from raft_spark.cli import views
        from raft_spark.lake import tables

        conf = config.load(files, assignments)
        found = tables.load(conf.lake, table, version) if version else tables.require(conf.lake, table)
        views.show(console, conf, found, rows, quarantine=quarantine)


@main.command()
@click.argument("table", type=click.Choice(registry.NAMES))
@settings
@click.option("--format", "form", type=click.Choice(get_args(FormatName)), help="Of dataset: the shards of one format.")
@click.option("--version-folder", "whole", is_flag=True, help="All of the version, with manifest.json and quarantine.")
def path(table: str, files: Sequence[str], assignments: Sequence[str], form: str | None, *, whole: bool) -> None:
    """Print the folder with the rows of a table's current version, for pandas, Polars, DuckDB or Spark.

    \b
    articles, base  one folder a split, in Parquet
    completions     one folder a day, in Parquet: all stored answers and failures, also those of
                    other runs and settings; the rows of one request have the same key
    evaluation      in Parquet: one row an article, student, setting and number of distractors;
                    --version-folder has the report and the metrics
    dataset         one folder a format, which datasets.load_dataset reads; --format FORMAT prints
                    the folder of its shards, in JSON Lines or Parquet (dataset.file)
    """  # noqa: D301 - the backspace is what click wants
    with error_exit():
        from raft_spark.lake import browse, tables

        if form and table != registry.DATASET.name:
            msg = f"--format {form} is given with table {table}; only dataset has formats"
            raise ConfigError(msg)
        conf = config.load(files, assignments)
        version = tables.require(conf.lake, table)
        if form:
            click.echo(browse.format_folder(conf.lake, version, form))
        else:
            click.echo((browse.folder if whole else browse.rows_folder)(conf.lake, version))


@main.command()
@click.argument("table", type=click.Choice(registry.NAMES))
@settings
def history(table: str, files: Sequence[str], assignments: Sequence[str]) -> None:
    """List the versions of a table, oldest first: the current one, those that are pinned, those rolled back from."""
    with error_exit():
        from raft_spark.cli import views
        from raft_spark.lake import refs, tables

        lake = config.load(files, assignments).lake
        views.history(console, tables.require_history(lake, table), refs.read(tables.without_branch(lake, table)))


@main.command("refresh")
@settings
def refresh_all(files: Sequence[str], assignments: Sequence[str]) -> None:
    """Run all stages aside, look at what they made, and publish it at once; nothing new is nothing to do."""
    with error_exit():
        from raft_spark.cli import views
        from raft_spark.stages import refresh

        conf = config.load(files, assignments)
        with _run_page(conf):
            done = refresh.run(conf)
        stop_spark()
        views.refreshed(console, done)


@main.command()
@click.argument("version")
@settings
def rollback(version: str, files: Sequence[str], assignments: Sequence[str]) -> None:
    """Make a version current again, with those it was made from. Answers stay; a refresh does not bring the left one back."""
    with error_exit():
        from raft_spark.stages import pipeline

        for table, name in pipeline.rollback(config.load(files, assignments), version).items():
            console.print(f"{table:<12} {name}", highlight=False)
        stop_spark()


@main.command()
@click.argument("version")
@settings
@click.option("--off", is_flag=True, help="Let it expire again.")
def pin(version: str, files: Sequence[str], assignments: Sequence[str], *, off: bool) -> None:
    """Keep a version, and those it was made from, for ever."""
    with error_exit():
        from raft_spark.stages import retention

        retention.pin(config.load(files, assignments).lake, version, off=off)


@main.command()
@settings
def expire(files: Sequence[str], assignments: Sequence[str]) -> None:
    """Delete the versions that lake.keep_versions and lake.keep_days no longer keep; a refresh does so too."""
    with error_exit():
        from raft_spark.stages import pipeline

        gone = pipeline.expire(config.load(files, assignments))
        console.print("\n".join(gone) or "nothing has expired", highlight=False)
        stop_spark()


@main.command("progress")
@settings
@click.option("--once", is_flag=True, help="One line, and no more.")
def progress_of(files: Sequence[str], assignments: Sequence[str], *, once: bool) -> None:
    """Follow the last run of completions from another process, by what it keeps in the lake; Ctrl-C ends this, not the run."""
    with error_exit():
        from raft_spark.cli import views

        views.follow(console, config.load(files, assignments).lake, once=once)


@main.command("fake-endpoint")
@fake_endpoint.options
def serve_fake_endpoint(port: int, **manner: object) -> None:
    """Answer as OpenAI, SageMaker and Bedrock do, on 127.0.0.1 and with made-up answers, until Ctrl-C: to try a run."""
    with error_exit():
        fake_endpoint.run(port, manner)


@main.command("report")
@settings
@click.option("--run", "run_id", default="", metavar="RUN_ID", help="Which run; default: the last that began.")
def report_on(files: Sequence[str], assignments: Sequence[str], run_id: str) -> None:
    """Write a page about a run of completions into the lake, completions/runs/RUN_ID.html, and print where it lies."""
    with error_exit():
        from raft_spark.monitoring import run_report

        click.echo(run_report.write(config.load(files, assignments).lake, run_id))
