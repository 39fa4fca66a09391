"""Define the commands of raft-spark. A command loads the settings, calls a stage and prints the result.

Each command imports what it needs when it runs, so that help needs neither Spark nor time.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from typing import TYPE_CHECKING, get_args

import click

from raft_spark import __version__, config
from raft_spark.cli import emr, fake_endpoint
from raft_spark.cli.model import model
from raft_spark.cli.options import console, error_exit, settings, stop_spark
from raft_spark.config.fields import FormatName
from raft_spark.errors import ConfigError, InputError
from raft_spark.stages import registry

if TYPE_CHECKING:
    from raft_spark.stages import pipeline


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def main() -> None:
    """Build a RAFT fine-tuning dataset: questions with oracle passages and distractors, answered by a teacher model.

    Each stage writes the table of its name. `run` runs the first four, in this order:

    \b
      articles     read the source: check, deduplicate, split and number its articles
      base         draw distractors, keep or leave out the oracle passages, shuffle
      completions  ask the teacher model each question once, with the oracle passages only
      dataset      check the answers, write train, validation and test splits
      evaluation   ask students the questions of the test split, and score their answers

    \b
    Examples:
      raft-spark run local.toml
      raft-spark run local.toml --set articles.source=sample:1000
      raft-spark show dataset local.toml
      ls $(raft-spark path dataset local.toml)

    Settings come from conf/default.toml, then from each CONF.toml, then from each --set; the last value wins. CONF.toml
    is a path, or the name of a file in conf/: local.toml, notebook.toml or emr.toml.
    """  # noqa: D301 - click needs the backspaces


@main.command()
@settings
def run(files: Sequence[str], assignments: Sequence[str]) -> None:
    """Run all stages: articles, base, completions, dataset. A stage whose settings and inputs are unchanged does nothing.

    Example: raft-spark run local.toml
    """
    with error_exit():
        from raft_spark.cli import views
        from raft_spark.stages import pipeline

        conf = config.load(files, assignments)
        with _run_page(conf):
            result = pipeline.run(conf, _print_result)
        if not result.stages[registry.COMPLETIONS.name].is_new:  # else the page is written already, after the dataset
            _update_run_page(conf, result.stages[registry.DATASET.name])
        stop_spark()
        stages = [(each.name, each.manifest, each.is_new, each.seconds) for each in result.stages.values()]
        arguments = [*files, *(word for assignment in assignments for word in ("--set", assignment))]
        views.summary(console, conf, stages, result.seconds, arguments)


def _print_result(result: "pipeline.StageResult") -> None:
    from raft_spark.cli import views

    console.print(views.stage_line((result.name, result.manifest, result.is_new, result.seconds)), highlight=False)


def _update_run_page(conf: config.Config, dataset: "pipeline.StageResult") -> None:
    """Rewrite the page of the run that answered a new dataset, which now has rejected rows to show."""
    from raft_spark.monitoring import run_report, run_state

    if not dataset.is_new or not find_spec("matplotlib"):
        return
    run_id = dataset.manifest.inputs[registry.COMPLETIONS.name]
    if run_state.read(conf.lake, run_id):
        run_report.write(conf.lake, run_id)


@contextmanager
def _run_page(conf: config.Config) -> Iterator[None]:
    """Write the page about the run of the block, also when it fails. Without matplotlib, as on EMR, write none."""
    from raft_spark.monitoring import run_report, run_state

    last = run_state.read(conf.lake)
    try:
        yield
    finally:
        run = run_state.read(conf.lake)
        if run and find_spec("matplotlib") and (last is None or run.id != last.id):
            try:
                said = run_report.write(conf.lake, run.id)
            except (OSError, InputError) as error:  # which must not hide why the run ended
                said = f"not written: {error}"
            console.print(f"{'':<12} report: {said}", soft_wrap=True, highlight=False)


def _stage_command(stage: registry.Stage) -> click.Command:
    @settings
    def command(files: Sequence[str], assignments: Sequence[str]) -> None:
        with error_exit():
            from raft_spark.stages import pipeline

            conf = config.load(files, assignments)
            with _run_page(conf) if "teacher" in stage.uses else nullcontext():
                result = pipeline.run_stage(stage.name, conf)
                _print_result(result)
            if stage == registry.DATASET:
                _update_run_page(conf, result)
            stop_spark()

    return click.command(stage.name, help=stage.help)(command)


for _stage in registry.STAGES:
    main.add_command(_stage_command(_stage))
main.add_command(emr.emr)
main.add_command(model)


@main.command()
@settings
@click.option("--pubid", type=int, help="Article to ask about.  [default: the first of the train split]")
def preview(files: Sequence[str], assignments: Sequence[str], pubid: int | None) -> None:
    """Ask the teacher one question and show its answer.

    The question is one of the base table. The command prints prompt, completion, seconds and tokens, the call as it was sent (address, headers without keys, body), and stores nothing.
    """
    with error_exit():
        from raft_spark.cli import views
        from raft_spark.inference import previews

        views.preview(console, previews.ask(config.load(files, assignments), pubid))


@main.command("estimate")
@settings
@click.option(
    "--ask",
    default=5,
    show_default=True,
    type=click.IntRange(0, 100),
    help="Number of answers to estimate from; requests are sent only for answers that are not stored yet.",
)
@click.option(
    "--evaluation",
    "of_evaluation",
    is_flag=True,
    help="Estimate the highest possible cost of the evaluation instead, without any request.",
)
@click.option(
    "--embeddings",
    "of_embeddings",
    is_flag=True,
    help="Estimate the highest possible cost of the embeddings of base instead, without any request.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as one line of JSON.")
def estimate_costs(
    files: Sequence[str],
    assignments: Sequence[str],
    ask: int,
    *,
    of_evaluation: bool,
    of_embeddings: bool,
    as_json: bool,
) -> None:
    """Estimate the cost of the completions from a few answers.

    The command stores the answers that it requests, so that a run does not pay for them again.
    """
    with error_exit():
        from raft_spark.cli import cost_views
        from raft_spark.costs import arithmetic, estimate, estimate_embeddings, estimate_evaluation

        conf = config.load(files, assignments)
        bounds = estimate_embeddings if of_embeddings else estimate_evaluation if of_evaluation else None
        result = bounds.run(conf) if bounds else estimate.run(conf, ask)
        stop_spark()
        if as_json:
            click.echo(json.dumps(result, default=dataclasses.asdict))
        elif isinstance(result, arithmetic.Estimate):
            cost_views.estimate(console, conf, result)
        else:
            cost_views.bounds(console, result, "embeddings" if of_embeddings else "evaluation")


@main.command()
@click.argument("table", type=click.Choice(registry.NAMES))
@settings
@click.option("--rows", default=3, show_default=True, type=click.IntRange(1, 1000), help="Number of rows.")
@click.option("--version", "version", help="Id of an older version.  [default: the current one]")
@click.option("--quarantine", is_flag=True, help="Show rejected rows with their reasons instead.")
def show(
    table: str, files: Sequence[str], assignments: Sequence[str], rows: int, version: str | None, *, quarantine: bool
) -> None:
    """Show the first rows of a table, with oracle and distractor passages marked.

    Example: raft-spark show dataset local.toml
    """
    with error_exit():
        from raft_spark.cli import views
        from raft_spark.lake import tables

        conf = config.load(files, assignments)
        loaded = tables.load(conf.lake, table, version) if version else tables.require(conf.lake, table)
        views.show(console, conf, loaded, rows, quarantine=quarantine)


@main.command()
@click.argument("table", type=click.Choice(registry.NAMES))
@settings
@click.option(
    "--format",
    "form",
    type=click.Choice(get_args(FormatName)),
    help="Print the folder of one format's shards; only for dataset.",
)
@click.option(
    "--version-folder",
    "whole",
    is_flag=True,
    help="Print the folder of the whole version, with manifest.json and the rejected rows.",
)
def path(table: str, files: Sequence[str], assignments: Sequence[str], form: str | None, *, whole: bool) -> None:
    """Print the folder with the rows of a table.

    pandas, Polars, DuckDB and Spark read this folder of the current version as it is:

    \b
    articles, base  Parquet, one folder per split
    completions     Parquet, one folder per day: the answers and failures of all runs that have
                    published, also with other settings; the rows of one request have the same key
    evaluation      Parquet, one row per article, student, setting and number of distractors;
                    --version-folder prints the folder with the report and the metrics
    dataset         one folder per format, which datasets.load_dataset reads; --format FORMAT
                    prints the folder of its shards, in JSON Lines or Parquet (dataset.file)
    """  # noqa: D301 - click needs the backspace
    with error_exit():
        from raft_spark.lake import browse, tables

        if form and table != registry.DATASET.name:
            msg = f"--format {form} cannot be used with {table}; only the table dataset has formats"
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
    """List the versions of a table, oldest first.

    The first column marks the current version, pinned versions and those that were rolled back.
    """
    with error_exit():
        from raft_spark.cli import views
        from raft_spark.lake import refs, tables

        lake = config.load(files, assignments).lake
        views.history(console, tables.require_history(lake, table), refs.read(tables.without_branch(lake, table)))


@main.command()
@click.argument("table", type=click.Choice(registry.NAMES))
@settings
@click.option("--version", "version", help="Id of an older version.  [default: the current one]")
@click.option("--all-versions", "is_all", is_flag=True, help="Check every version of the table.")
def check(table: str, files: Sequence[str], assignments: Sequence[str], version: str | None, *, is_all: bool) -> None:
    """Read all files of a table and compare them with the SHA-256 that its manifest holds.

    A file that is missing or differs is named, and the command ends with status 3.

    Example: raft-spark check dataset local.toml
    """
    with error_exit():
        from raft_spark.lake import integrity, tables

        lake = config.load(files, assignments).lake
        named = (
            [version or tables.require(lake, table).id] if version or not is_all else tables.finished_ids(lake, table)
        )
        for found in integrity.intact(lake, table, named):
            size = sum(file.bytes for file in found.files) / 1e6
            console.print(
                f"{table} {found.id}: {len(found.files)} files, {size:.1f} MB, all as written", highlight=False
            )


@main.command("refresh")
@settings
def refresh_all(files: Sequence[str], assignments: Sequence[str]) -> None:
    """Run all stages, check the result, and publish all tables at once.

    The stages write to a branch, which is published only if every gate of [refresh] passes.
    """
    with error_exit():
        from raft_spark.cli import views
        from raft_spark.stages import refresh

        conf = config.load(files, assignments)
        with _run_page(conf):
            record = refresh.run(conf)
        stop_spark()
        views.refresh_result(console, record)


@main.command()
@click.argument("version")
@settings
def rollback(version: str, files: Sequence[str], assignments: Sequence[str]) -> None:
    """Make an older version current again, with the versions it was made from.

    Stored answers are kept. A refresh with unchanged settings and source does not bring the newer version back.
    """
    with error_exit():
        from raft_spark.stages import pipeline

        for table, version_id in pipeline.rollback(config.load(files, assignments), version).items():
            console.print(f"{table:<12} {version_id}", highlight=False)
        stop_spark()


@main.command()
@click.argument("version")
@settings
@click.option("--off", is_flag=True, help="Remove the pin, so that the version can expire again.")
def pin(version: str, files: Sequence[str], assignments: Sequence[str], *, off: bool) -> None:
    """Protect a version, and the versions it was made from, from expiry."""
    with error_exit():
        from raft_spark.stages import retention

        retention.pin(config.load(files, assignments).lake, version, off=off)


@main.command()
@settings
def expire(files: Sequence[str], assignments: Sequence[str]) -> None:
    """Delete old versions of all tables.

    lake.keep_versions and lake.keep_days say which versions are kept. A refresh deletes old versions as well.
    """
    with error_exit():
        from raft_spark.stages import pipeline

        deleted = pipeline.expire(config.load(files, assignments))
        console.print("\n".join(deleted) or "no version has expired", highlight=False)
        stop_spark()


@main.command("progress")
@settings
@click.option("--once", is_flag=True, help="Print one line and exit.")
def progress_of(files: Sequence[str], assignments: Sequence[str], *, once: bool) -> None:
    """Follow the last run of completions.

    It may be running in another process or on another machine: the lake has its state. Ctrl-C ends this command only.
    """
    with error_exit():
        from raft_spark.cli import views

        views.follow(console, config.load(files, assignments).lake, once=once)


@main.command("fake-endpoint")
@fake_endpoint.options
def serve_fake_endpoint(port: int, **server_options: object) -> None:
    """Serve made-up answers on this machine, to try a run.

    The server speaks the APIs of OpenAI, SageMaker and Bedrock on 127.0.0.1 until Ctrl-C.
    """
    with error_exit():
        fake_endpoint.run(port, server_options)


@main.command("report")
@settings
@click.option(
    "--run", "run_id", default="", metavar="RUN_ID", help="Run to report on.  [default: the one that started last]"
)
def report_on(files: Sequence[str], assignments: Sequence[str], run_id: str) -> None:
    """Write the page about a run of completions, and print its path.

    The page is completions/runs/RUN_ID.html in the lake.
    """
    with error_exit():
        from raft_spark.monitoring import run_report

        click.echo(run_report.write(config.load(files, assignments).lake, run_id))
