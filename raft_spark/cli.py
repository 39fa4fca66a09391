"""raft-spark: every verb of the command line. A verb settles the settings, calls a stage and shows what came of it."""

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec

import click

from raft_spark import (
    __version__,
    bounds,
    config,
    costs,
    estimate,
    evaluation,
    iceberg,
    pointers,
    refresh,
    report,
    retention,
    runs,
    schemas,
    session,
    tables,
    views,
    watched,
)
from raft_spark.emr import verbs
from raft_spark.endpoints import trial
from raft_spark.model.verbs import model
from raft_spark.terminal import console, reported, settings

STAGES: refresh.Stages = {**refresh.STAGES, schemas.EVALUATION: evaluation.run}


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
    with reported():
        conf = config.load(files, assignments)
        begin = time.monotonic()
        done = [(name, *_timed(stage, name, conf)) for name, stage in refresh.STAGES.items()]
        session.stop()
        arguments = [*files, *(word for assignment in assignments for word in ("--set", assignment))]
        views.summary(console, conf, done, time.monotonic() - begin, arguments)


def _timed(
    stage: Callable[[config.Config], tables.Version], name: str, conf: config.Config
) -> tuple[tables.Version, bool, float]:
    """Run one stage: (its version, whether it is new, seconds)."""
    before, begin = tables.current(conf.lake, name), time.monotonic()
    with _reported_on(conf) if name == schemas.COMPLETIONS else nullcontext():
        version = watched.run(stage, conf)
    seconds, new = time.monotonic() - begin, before is None or before.id != version.id
    console.print(views.line(name, version, new, seconds), highlight=False)
    return version, new, seconds


@contextmanager
def _reported_on(conf: config.Config) -> Iterator[None]:
    """Write the page about the run that the block makes, also when it fails; none where matplotlib is missing, as on EMR."""
    last = runs.read(conf.lake)
    try:
        yield
    finally:
        run = runs.read(conf.lake)
        if run and find_spec("matplotlib") and (last is None or run.id != last.id):
            console.print(f"{'':<12} report: {report.written(conf.lake, run.id)}", soft_wrap=True, highlight=False)


def _stage_command(name: str, stage: Callable[[config.Config], tables.Version]) -> click.Command:
    @settings
    def command(files: Sequence[str], assignments: Sequence[str]) -> None:
        with reported():
            _timed(stage, name, config.load(files, assignments))
            session.stop()

    description = (sys.modules[stage.__module__].__doc__ or "").partition("\n\n")[0].replace("\n", " ")
    return click.command(name, help=description)(command)


for _name, _stage in STAGES.items():
    main.add_command(_stage_command(_name, _stage))
main.add_command(verbs.emr)
main.add_command(model)


@main.command()
@settings
@click.option("--pubid", type=int, help="Which article; default: the first of the train split.")
def preview(files: Sequence[str], assignments: Sequence[str], pubid: int | None) -> None:
    """Ask the teacher one question of the base table; show prompt, completion, seconds and tokens. Stores nothing."""
    with reported():
        conf = config.load(files, assignments)
        row = tables.first_row(conf.lake, tables.needed(conf.lake, schemas.BASE), pubid)
        views.preview(console, conf, row)


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
    with reported():
        conf = config.load(files, assignments)
        told = bounds.run(conf) if of_evaluation else estimate.run(conf, ask)
        session.stop()
        if as_json:
            click.echo(json.dumps(told, default=dataclasses.asdict))
        elif isinstance(told, costs.Estimate):
            views.estimate(console, conf, told)
        else:
            views.bounds(console, told)


@main.command()
@click.argument("table", type=click.Choice([*STAGES]))
@settings
@click.option("--rows", default=3, show_default=True, type=click.IntRange(1, 1000), help="How many rows.")
@click.option("--version", "version", help="An old version, by its id; default: the current one.")
@click.option("--quarantine", is_flag=True, help="The rejected rows instead, with their reasons.")
def show(
    table: str, files: Sequence[str], assignments: Sequence[str], rows: int, version: str | None, *, quarantine: bool
) -> None:
    """Show rows of a table, oracle and distractor passages marked."""
    with reported():
        conf = config.load(files, assignments)
        found = tables.load(conf.lake, table, version) if version else tables.needed(conf.lake, table)
        views.show(console, conf, found, rows, quarantine=quarantine)


@main.command()
@click.argument("table", type=click.Choice([*STAGES]))
@settings
def path(table: str, files: Sequence[str], assignments: Sequence[str]) -> None:
    """Print the folder of a table's current version, so that any tool can read it."""
    with reported():
        conf = config.load(files, assignments)
        click.echo(tables.folder(conf.lake, tables.needed(conf.lake, table)))


@main.command()
@click.argument("table", type=click.Choice([*STAGES]))
@settings
def history(table: str, files: Sequence[str], assignments: Sequence[str]) -> None:
    """List the versions of a table, oldest first: the current one, those that are pinned, those rolled back from."""
    with reported():
        lake = config.load(files, assignments).lake
        views.history(console, tables.history(lake, table), pointers.read(tables.line(lake, table)))


@main.command("refresh")
@settings
def refresh_all(files: Sequence[str], assignments: Sequence[str]) -> None:
    """Run all stages aside, look at what they made, and publish it at once; nothing new is nothing to do."""
    with reported():
        conf = config.load(files, assignments)
        with _reported_on(conf):
            done = refresh.run(conf)
        session.stop()
        views.refreshed(console, done)


@main.command()
@click.argument("version")
@settings
def rollback(version: str, files: Sequence[str], assignments: Sequence[str]) -> None:
    """Make a version current again, with those it was made from. Answers stay; a refresh does not bring the left one back."""
    with reported():
        conf = config.load(files, assignments)
        for table, name in retention.rolled_back(conf.lake, version).items():
            console.print(f"{table:<12} {name}", highlight=False)
        _followed(conf)


@main.command()
@click.argument("version")
@settings
@click.option("--off", is_flag=True, help="Let it expire again.")
def pin(version: str, files: Sequence[str], assignments: Sequence[str], *, off: bool) -> None:
    """Keep a version, and those it was made from, for ever."""
    with reported():
        retention.pin(config.load(files, assignments).lake, version, off=off)


@main.command()
@settings
def expire(files: Sequence[str], assignments: Sequence[str]) -> None:
    """Delete the versions that lake.keep_versions and lake.keep_days no longer keep; a refresh does so too."""
    with reported():
        conf = config.load(files, assignments)
        gone = retention.expire(conf.lake)
        console.print("\n".join(gone) or "nothing has expired", highlight=False)
        _followed(conf)


def _followed(conf: config.Config) -> None:
    """Bring the lake's catalog there too."""
    iceberg.follow(conf)
    session.stop()


@main.command("progress")
@settings
@click.option("--once", is_flag=True, help="One line, and no more.")
def progress_of(files: Sequence[str], assignments: Sequence[str], *, once: bool) -> None:
    """Follow the last run of completions from another process, by what it keeps in the lake; Ctrl-C ends this, not the run."""
    with reported():
        views.follow(console, config.load(files, assignments).lake, once=once)


@main.command("fake-endpoint")
@trial.options
def fake_endpoint(port: int, **manner: object) -> None:
    """Answer as OpenAI, SageMaker and Bedrock do, on 127.0.0.1 and with made-up answers, until Ctrl-C: to try a run."""
    with reported():
        trial.run(port, manner)


@main.command("report")
@settings
@click.option("--run", "run_id", default="", metavar="RUN_ID", help="Which run; default: the last that began.")
def report_on(files: Sequence[str], assignments: Sequence[str], run_id: str) -> None:
    """Write a page about a run of completions into the lake, completions/runs/RUN_ID.html, and print where it lies."""
    with reported():
        click.echo(report.written(config.load(files, assignments).lake, run_id))
