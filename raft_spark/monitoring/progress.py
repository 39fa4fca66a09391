"""Show progress: a live line in a terminal, a log line every 30 seconds elsewhere."""

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
LOG_EVERY = 30.0  # seconds, without a terminal
REFRESH_EVERY = 0.5  # seconds, in a terminal
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
    """Show `count()` of `total` while the `with` block runs; a total of 0 is unknown."""
    console = _console()
    show = partial(_show_bar, console) if console.is_terminal else _log_count
    with in_background(partial(show, label, total, count)):
        yield


@contextmanager
def spark_tasks(spark: "SparkSession", label: str, total: int = 0) -> Iterator[None]:
    """Show how many tasks of the `with` block's Spark jobs are done, of `total`; 0 is unknown.

    The label is a stage and its current step, such as "base: draw distractors".
    """
    step = label.partition(": ")[2]
    with (
        stages(spark, label) as started,
        show_count(step, total, lambda: sum(stage.numCompletedTasks for stage in started())),
    ):
        yield


@contextmanager
def stages(spark: "SparkSession", label: str) -> Iterator["Callable[[], list[SparkStageInfo]]"]:
    """Yield a function that returns the Spark stages of the jobs that the `with` block has started so far; any thread
    may call it.

    Spark's UI and event log describe these jobs by the label, and later jobs by the part of the label before the colon.
    """
    context = spark.sparkContext
    group = f"raft-spark {label} {time.monotonic_ns()}"
    context.setJobGroup(group, label, interruptOnCancel=True)
    tracker = context.statusTracker()

    def started() -> "list[SparkStageInfo]":
        jobs = filter(None, map(tracker.getJobInfo, tracker.getJobIdsForGroup(group)))
        return list(filter(None, (tracker.getStageInfo(stage) for job in jobs for stage in job.stageIds)))

    try:
        yield started
    finally:
        context.setJobDescription(label.partition(": ")[0])


@contextmanager
def show_run(read_run: Callable[[], Run], arithmetic: str) -> Iterator[None]:
    """Log `arithmetic`, how the limits are divided, then show a run's progress while the `with` block runs."""
    LOG.info(arithmetic)
    console = _console()
    show = partial(follow, console=console) if console.is_terminal else partial(_log_run, read_run())
    with in_background(lambda over: show(read_run, over.wait)):
        yield


def _console() -> Console:
    """Return the console of stderr; it is no terminal when logs are JSON."""
    return Console(file=sys.stderr, force_terminal=False if logs.is_json() else None)


def _log_run(before: Run, read_run: Callable[[], Run], is_over: Callable[[float], bool]) -> None:
    """Log a run's status every LOG_EVERY seconds and at the end, with CloudWatch metrics of its progress since then."""
    over = False
    while not over:
        over = is_over(LOG_EVERY)
        run = read_run()
        metrics = cloudwatch.embedded_metrics(cloudwatch.difference(before, run), run.stage, run.endpoint)
        LOG.info(status_line(run), extra=logs.fields(done=run.done, total=run.total, **metrics))
        before = run


def follow(read_run: Callable[[], Run], is_over: Callable[[float], bool], console: Console) -> None:
    """Show a run until `is_over(seconds)`, which waits at most that long, returns true: live in a terminal, else as a
    line every LOG_EVERY seconds.
    """
    if not console.is_terminal:
        while not is_over(LOG_EVERY):
            console.print(status_line(read_run()), highlight=False, soft_wrap=True)
        return
    with Live(console=console, auto_refresh=False) as live:
        while not is_over(REFRESH_EVERY):
            live.update(_panel(read_run()), refresh=True)
        live.update(_panel(read_run()), refresh=True)


def status_line(run: Run) -> str:
    """Return the status of a run in one line: requests, failures, rates, window, dollars, time left."""
    answers, tokens = run.rates()
    parts = [f"{run.done:,} of {run.total:,} asked"]
    parts += [f"{run.failures} failed"] if run.failed else []
    parts += [f"{answers:.1f} requests/s", f"{tokens:,.0f} tokens/s", f"window {run.window}, {run.open} open"]
    parts += [f"{run.throttled:,} of {run.calls:,} calls throttled"] if run.throttled else []
    if run.dollars:
        projected = f" of about ${run.dollars / run.done * run.total:,.2f}" if run.done else ""
        parts.append(f"${run.dollars:,.2f}{projected}")
    parts += [f"up to ${run.possible_dollars:,.2f} more possibly billed"] if run.possible_dollars else []
    left = max(0, run.total - run.done)  # answers of a lost machine may be counted twice
    parts += [f"{dt.timedelta(seconds=round(left / answers))} left"] if answers else []
    return " · ".join(parts)


def _panel(run: Run) -> Group:
    bar = ProgressBar(total=max(1, run.total), completed=run.done)
    return Group(Text(status_line(run)), bar)  # a bar ends without a newline, so what follows it would be cut off


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
        message = f"{label}: {done}{f' of {total}' if total else ''} after {seconds:.0f} s{left}"
        LOG.info(message, extra=logs.fields(done=done, total=total))
