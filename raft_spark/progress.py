"""A count that grows -> a live line for a person, or a plain line now and then for a log."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pyspark.sql import SparkSession
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY = 30.0  # seconds, where there is no terminal
LOOK_EVERY = 0.5
COLUMNS = (
    TextColumn("{task.description:<12}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TextColumn("left"),
    TimeRemainingColumn(),
)


@contextmanager
def shown(label: str, total: int, count: Callable[[], int]) -> Iterator[None]:
    """Show `count()` of `total` while the block runs."""
    console = Console(file=sys.stderr)
    over = threading.Event()
    watch = _live if console.is_terminal else _lines
    thread = threading.Thread(target=watch, args=(label, total, count, over, console), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def spark_tasks(spark: SparkSession, label: str, total: int = 0) -> Iterator[None]:
    """Show how many tasks of the Spark jobs in the block are done; `total` of them, where that is known."""
    context = spark.sparkContext
    group = f"raft-spark {label} {time.monotonic_ns()}"
    context.setJobGroup(group, f"raft-spark {label}", interruptOnCancel=True)
    tracker = context.statusTracker()

    def completed() -> int:
        jobs = filter(None, map(tracker.getJobInfo, tracker.getJobIdsForGroup(group)))
        stages = (tracker.getStageInfo(stage) for job in jobs for stage in job.stageIds)
        return sum(stage.numCompletedTasks for stage in stages if stage)

    with shown(label, total, completed):
        yield


def _live(label: str, total: int, count: Callable[[], int], over: threading.Event, console: Console) -> None:
    with Progress(*COLUMNS, console=console, transient=not total) as progress:
        task = progress.add_task(label, total=total or None)
        while not over.wait(LOOK_EVERY):
            progress.update(task, completed=count())
        progress.update(task, completed=count())


def _lines(label: str, total: int, count: Callable[[], int], over: threading.Event, console: Console) -> None:
    start = time.monotonic()
    while not over.wait(LINE_EVERY):
        done, seconds = count(), time.monotonic() - start
        left = f", {seconds / done * (total - done):.0f} s left" if done and total else ""
        console.print(f"{label}: {done}{f' of {total}' if total else ''} after {seconds:.0f} s{left}", highlight=False)
