"""Write the HTML page of a run of completions, ROOT/completions/runs/RUN_ID.html, which loads no other file.

The numbers come from the run's own report (runs.py), the distributions from the rows it stored (tally.py), the rejected rows
from the dataset. Text of rows is untrusted: it reaches the page only through jinja2's escaping, and the page allows no script.
jinja2 and matplotlib are imported when a page is written, because EMR does not have them.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from raft_spark.config import Lake
from raft_spark.errors import InputError
from raft_spark.lake import schemas, tables
from raft_spark.lake.filesystem import Storage
from raft_spark.monitoring import html, run_charts, run_state, run_stats
from raft_spark.monitoring.run_state import Point, Run
from raft_spark.monitoring.run_stats import RunStats

TEMPLATE = "report.html"
DASH = "\N{EN DASH}"  # for an unknown number
EXTRA = "pip install 'raft-spark[report]'"
UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))
PEAK = "of one executor: JVM only, or with its Python workers if spark.executor.processTreeMetrics.enabled is true"
STATES = {"asking": "still asking", "finished": "finished", "stopped": "stopped early", "failed": "failed"}


@dataclass(frozen=True, slots=True)
class KeyNumber:
    """A number as the page shows it, with what it means."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Bar:
    """A row of a table with a bar: `share` of all in 0..1, an example where there is one."""

    name: str
    count: int
    share: float
    example: str = ""


def write(lake: Lake, run_id: str = "") -> str:
    """Write the page of a run, by default of the last that began, into the lake; return where it lies.

    Raises InputError when there is no such run, its rows cannot be read or a package is missing.
    """
    run = run_state.read(lake, run_id)
    store = Storage.of(lake).at(schemas.COMPLETIONS)
    if run is None:
        what = f"no run {run_id!r}" if run_id else "no run of completions"
        msg = f"{store.root} knows {what}; `raft-spark completions` makes one"
        raise InputError(msg)
    with _translate_missing_package():
        rows = functools.reduce(run_stats.add_batch, run_stats.read_batches(store, run.id), RunStats())
        text = render(run, rows, _dataset(lake, run.id))
    folder, name = store.at("runs"), f"{run.id}.html"
    folder.write(name, text.encode())
    return folder.path(name) if folder.is_local else f"{folder.root}/{name}"


@contextmanager
def _translate_missing_package() -> Iterator[None]:
    """Say how to get a package that only this page needs."""
    try:
        yield
    except ModuleNotFoundError as error:
        msg = f"the report needs the package {error.name}: {EXTRA}"
        raise InputError(msg) from error


def _dataset(lake: Lake, run_id: str) -> Mapping[str, Any] | None:
    """Return the counts of the current dataset if it was made from the answers of this run's version."""
    found = tables.current(lake, schemas.DATASET)
    return found.counts if found and found.inputs.get(schemas.COMPLETIONS) == run_id else None


def render(run: Run, rows: RunStats, dataset: Mapping[str, Any] | None = None) -> str:
    """Return the page about a run whose stored rows come to `rows`; `dataset` has the counts of the dataset made from them."""
    filters: Mapping[str, Callable[..., str]] = {
        "duration": run_charts.format_duration,
        "count": "{:,}".format,
        "moment": _format_time,
    }
    told: dict[str, Any] = {
        "run": run,
        "state": STATES[run.state],
        "rows": rows,
        "numbers": key_numbers(run, rows, dataset),
        "spark": spark_numbers(run.spark),
        "figures": _charts(run, rows),
        "errors": _errors(run, rows),
        "dataset": dataset,
        "rejected": _bars(_most_first(_rejected(dataset))),
        "attempts": _bars({str(calls): rows.attempts[calls] for calls in sorted(rows.attempts)}),
    }
    return html.render(TEMPLATE, told, filters)


def key_numbers(run: Run, rows: RunStats, dataset: Mapping[str, Any] | None = None) -> list[KeyNumber]:
    """Return the key numbers of a run; what is divided by nothing, or not known yet, is shown as a dash."""
    failed, seconds = sum(run.failed.values()), _seconds(run)
    tokens = run.prompt_tokens + run.completion_tokens
    return [
        KeyNumber("answered", f"{run.answered:,}", f"of {run.total:,} to ask"),
        KeyNumber("left", f"{max(0, run.total - run.answered):,}", "without an answer"),
        KeyNumber("failed", f"{failed:,}", _percent(failed, run.answered + failed, "asked")),
        KeyNumber("cut", f"{rows.cut:,}", _percent(rows.cut, rows.answered, "answers")),
        _rejected_number(dataset),
        KeyNumber("known before", f"{run.known:,}", "not asked again"),
        KeyNumber("calls", f"{run.calls:,}", _rate(run.calls, run.answered, "an answer")),
        KeyNumber("throttled", f"{run.throttled:,}", _percent(run.throttled, run.calls, "calls")),
        KeyNumber("tokens in", f"{run.prompt_tokens:,}", _rate(run.prompt_tokens, run.answered, "an answer")),
        KeyNumber("tokens out", f"{run.completion_tokens:,}", _rate(run.completion_tokens, run.answered, "an answer")),
        KeyNumber("dollars", f"${run.dollars:,.2f}" if run.dollars else DASH, _cost_per_thousand(run)),
        KeyNumber("answers a second", _ratio(run.answered, seconds), _rate(run.calls, seconds, "calls a second")),
        KeyNumber("tokens a second", _ratio(tokens, seconds), "in and out"),
        KeyNumber("duration", _format_duration(seconds), f"on {run.tasks:,} tasks" if run.tasks else ""),
    ]


def _rejected_number(dataset: Mapping[str, Any] | None) -> KeyNumber:
    if dataset is None:
        return KeyNumber("rejected", DASH, "no dataset of this run yet")
    count = sum(_rejected(dataset).values())
    return KeyNumber("rejected", f"{count:,}", _percent(count, dataset["rows"], "rows"))


def _rejected(dataset: Mapping[str, Any] | None) -> Mapping[str, int]:
    return dataset["rejected"] if dataset else {}


def spark_numbers(spark: Mapping[str, float]) -> list[KeyNumber]:
    """Return what Spark did for the stage, as cluster.py names it; nothing where Spark told nothing."""
    if not spark:
        return []
    seconds, collected = spark["task_seconds"], spark["gc_seconds"]
    return [
        KeyNumber("tasks ended", f"{spark['tasks']:,}", "in all Spark stages of this run, without failed tasks"),
        KeyNumber("tasks failed", f"{spark['failed_tasks']:,}", "Spark runs them again, up to spark.task.maxFailures"),
        KeyNumber("executors", f"{spark['executors']:,}", "in this Spark session, over all its time"),
        KeyNumber("executors lost", f"{spark['executors_lost']:,}", "without those that Spark released itself"),
        KeyNumber("time of all tasks", _format_duration(seconds), "mostly spent waiting for answers"),
        KeyNumber(
            "Java's garbage collection", _format_duration(collected), _percent(collected, seconds, "the task time")
        ),
        KeyNumber("read from shuffles", _size(spark["shuffle_read_bytes"]), ""),
        KeyNumber("written to shuffles", _size(spark["shuffle_written_bytes"]), ""),
        KeyNumber("spilled to disk", _size(spark["spilled_bytes"]), ""),
        KeyNumber("peak memory", _size(spark["peak_memory_bytes"]), PEAK),
    ]


def _size(count: float) -> str:
    unit, name = next((unit for unit in UNITS if count >= unit[0]), UNITS[-1])
    return f"{count / unit:,.1f} {name}" if unit > 1 else f"{count:,.0f} {name}"


def _cost_per_thousand(run: Run) -> str:
    if not run.dollars:
        return "no price is known"
    return f"${_ratio(1000 * run.dollars, run.answered)} for 1,000"


def _charts(run: Run, rows: RunStats) -> dict[str, str]:
    """Return the figures that have something to show, by name."""
    moves = bool(run.series) and run.series[-1].seconds > 0
    series = _full_series(run)
    figures: Mapping[str, tuple[bool, Callable[[], str]]] = {
        "throughput": (moves, lambda: run_charts.throughput(series)),
        "latencies": (bool(rows.latencies), lambda: run_charts.latencies(rows.latencies)),
        "tokens": (
            bool(rows.prompt_tokens or rows.completion_tokens),
            lambda: run_charts.tokens(rows.prompt_tokens, rows.completion_tokens),
        ),
        "cost": (
            moves and run.dollars > 0 and run.series[-1].tokens > 0,
            lambda: run_charts.cost(series, run.dollars),
        ),
    }
    return {name: draw() for name, (shows, draw) in figures.items() if shows}


def _full_series(run: Run) -> tuple[Point, ...]:
    """Return the points of a run up to its last report, so that an axis is as long as the run."""
    if not run.series or _seconds(run) < run.series[-1].seconds + 1:  # a report has whole seconds
        return run.series
    return (*run.series, replace(run.series[-1], seconds=_seconds(run)))


def _errors(run: Run, rows: RunStats) -> list[Bar]:
    """Return the failed rows by class, most first, as the run counted them, with an example of each from the store."""
    return _bars(_most_first({**rows.errors, **run.failed}), rows.examples)


def _most_first(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _bars(counts: Mapping[str, int], examples: Mapping[str, str] | None = None) -> list[Bar]:
    whole = max(1, sum(counts.values()))
    return [Bar(name, count, count / whole, (examples or {}).get(name, "")) for name, count in counts.items()]


def _seconds(run: Run) -> float:
    return (datetime.fromisoformat(run.updated_at) - datetime.fromisoformat(run.started_at)).total_seconds()


def _format_time(time: str) -> str:
    return datetime.fromisoformat(time).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def _format_duration(seconds: float) -> str:
    """Say a duration as a person does: 1 h 02 min, 5 min 07 s, 9.4 s."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:  # noqa: PLR2004 - an hour
        return f"{minutes // 60:,} h {minutes % 60:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{seconds:.1f} s"


def _ratio(part: float, whole: float) -> str:
    """Say a ratio to three digits, large ones whole."""
    if whole <= 0:
        return DASH
    ratio = part / whole
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:#.3g}"  # noqa: PLR2004 - three digits


def _rate(part: float, whole: float, unit: str) -> str:
    return f"{_ratio(part, whole)} {unit}" if whole > 0 else ""


def _percent(part: float, whole: float, of: str) -> str:
    return f"{100 * part / whole:.2g} % of {of}" if whole > 0 else ""
