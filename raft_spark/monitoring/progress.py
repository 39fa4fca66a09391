"""A count that grows -> a live line for a person, or a plain line now and then for a log."""

import datetime as dt
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.text import Text

from raft_spark.common import logs
from raft_spark.common.background import in_background
from raft_spark.monitoring import cloudwatch
from raft_spark.monitoring.run_state import Run

if TYPE_CHECKING:  # `raft-spark progress` needs no Spark
    from pyspark import SparkStageInfo
    from pyspark.sql import SparkSession

LOG = logging.getLogger(__name__)
LOG_EVERY = 30.0  # seconds, where there is no terminal
REFRESH_EVERY = 0.5
COLUMNS = (
    TextColumn("{task.description:<16}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TextColumn("left"),
    TimeRemainingColumn(),
)


@contextmanager
def show_count(label: str, total: int, count: Callable[[], int]) -> Iterator[None]:
    """Show `count()` of `total` while the block runs."""
    console = _console()
    watch = partial(_show_bar, console) if console.is_terminal else _log_count
    with in_background(partial(watch, label, total, count)):
        yield


@contextmanager
def spark_tasks(spark: "SparkSession", label: str, total: int = 0) -> Iterator[None]:
    """Show how many tasks of the Spark jobs in the block are done; `total` of them, where that is known.

    The label is a stage and what it does, such as "base: draw distractors".
    """
    doing = label.partition(": ")[2]
    with (
        stages(spark, label) as found,
        show_count(doing, total, lambda: sum(stage.numCompletedTasks for stage in found())),
    ):
        yield


@contextmanager
def stages(spark: "SparkSession", label: str) -> Iterator["Callable[[], list[SparkStageInfo]]"]:
    """Lend a function that returns the stages of the Spark jobs that the block has started so far, callable from any thread.

    Spark's page and event log describe these jobs by the label, and the jobs after them by what stands before its colon.
    """
    context = spark.sparkContext
    group = f"raft-spark {label} {time.monotonic_ns()}"
    context.setJobGroup(group, label, interruptOnCancel=True)
    tracker = context.statusTracker()

    def found() -> "list[SparkStageInfo]":
        jobs = filter(None, map(tracker.getJobInfo, tracker.getJobIdsForGroup(group)))
        return list(filter(None, (tracker.getStageInfo(stage) for job in jobs for stage in job.stageIds)))

    try:
        yield found
    finally:
        context.setJobDescription(label.partition(": ")[0])


@contextmanager
def show_run(told: Callable[[], Run], arithmetic: str) -> Iterator[None]:
    """Show a run that asks while the block runs: first how its limits are shared, then how it goes."""
    LOG.info(arithmetic)
    console = _console()
    watch = partial(follow, console=console) if console.is_terminal else partial(_log_run, told())
    with in_background(lambda over: watch(told, over.wait)):
        yield


def _console() -> Console:
    """Return where a person looks on; where a machine reads, nothing is live."""
    return Console(file=sys.stderr, force_terminal=False if logs.is_json() else None)


def _log_run(before: Run, told: Callable[[], Run], is_over: Callable[[float], bool]) -> None:
    """Say every LINE_EVERY seconds, and at the end, how a run goes, with what it has added since as metrics."""
    over = False
    while not over:
        over = is_over(LOG_EVERY)
        run = told()
        counted = cloudwatch.embedded_metrics(cloudwatch.difference(before, run), run.stage, run.endpoint)
        LOG.info(status_line(run), extra=logs.fields(done=run.done, total=run.total, **counted))
        before = run


def follow(told: Callable[[], Run], is_over: Callable[[float], bool], console: Console) -> None:
    """Show a run until it `is_over`, which is asked with how long it may wait: live in a terminal, else a plain line every
    LINE_EVERY seconds.
    """
    if not console.is_terminal:
        while not is_over(LOG_EVERY):
            console.print(status_line(told()), highlight=False, soft_wrap=True)
        return
    with Live(console=console, auto_refresh=False) as live:
        while not is_over(REFRESH_EVERY):
            live.update(_panel(told()), refresh=True)
        live.update(_panel(told()), refresh=True)


def status_line(run: Run) -> str:
    """Say in one line how a run goes."""
    answers, tokens = run.rates()
    said = [f"{run.done:,} of {run.total:,} asked"]
    said += [f"{run.failures} failed"] if run.failed else []
    said += [f"{answers:.1f} requests/s", f"{tokens:,.0f} tokens/s", f"window {run.window}, {run.open} open"]
    said += [f"{run.throttled:,} of {run.calls:,} calls throttled"] if run.throttled else []
    if run.dollars:
        projected = f" of about ${run.dollars / run.done * run.total:,.2f}" if run.done else ""
        said.append(f"${run.dollars:,.2f}{projected}")
    left = max(0, run.total - run.done)  # a lost machine's answers may come twice
    said += [f"{dt.timedelta(seconds=round(left / answers))} left"] if answers else []
    return " · ".join(said)


def _panel(run: Run) -> Group:
    return Group(ProgressBar(total=max(1, run.total), completed=run.done), Text(status_line(run)))


def _show_bar(console: Console, label: str, total: int, count: Callable[[], int], over: threading.Event) -> None:
    with Progress(*COLUMNS, console=console, transient=not total) as progress:
        task = progress.add_task(label, total=total or None)
        while not over.wait(REFRESH_EVERY):
            progress.update(task, completed=count())
        progress.update(task, completed=count())


def _log_count(label: str, total: int, count: Callable[[], int], over: threading.Event) -> None:
    start = time.monotonic()
    while not over.wait(LOG_EVERY):
        done, seconds = count(), time.monotonic() - start
        left = f", {seconds / done * (total - done):.0f} s left" if done and total else ""
        said = f"{label}: {done}{f' of {total}' if total else ''} after {seconds:.0f} s{left}"
        LOG.info(said, extra=logs.fields(done=done, total=total))
