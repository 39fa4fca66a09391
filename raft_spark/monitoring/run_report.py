"""Write the HTML page of a run of completions, ROOT/completions/runs/RUN_ID.html, which loads no other file.

The numbers come from the stored state of the run (run_state), the distributions from the rows it stored (run_stats),
the rejected rows from the counts of the dataset. Text of rows is untrusted: it reaches the page only through jinja2's
escaping, and the page allows no script. jinja2 and matplotlib are imported when a page is written, because EMR does not
have them.
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
    """A number at the top of the page, as text, with a note that explains it."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Bar:
    """A row of a table with bars; `share` is that of the total, 0..1."""

    name: str
    count: int
    share: float
    example: str = ""


def write(lake: Lake, run_id: str = "") -> str:
    """Write the page of a run, by default of the one that started last, into the lake; return its path.

    Raises InputError when there is no such run, its rows cannot be read, or a package is missing.
    """
    run = run_state.read(lake, run_id)
    store = Storage.of(lake).at(schemas.COMPLETIONS)
    if run is None:
        missing = f"no run {run_id!r}" if run_id else "no run of completions"
        msg = f"{store.root} has {missing}; `raft-spark completions` starts one"
        raise InputError(msg)
    with _translate_missing_package():
        stats = functools.reduce(run_stats.add_batch, run_stats.read_batches(lake, run.id), RunStats())
        text = render(run, stats, _dataset(lake, run.id))
    folder, name = store.at("runs"), f"{run.id}.html"
    folder.write(name, text.encode())
    return folder.path(name) if folder.is_local else f"{folder.root}/{name}"


@contextmanager
def _translate_missing_package() -> Iterator[None]:
    """Turn the error of a missing package into an InputError that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        msg = f"the report needs the package {error.name}: {EXTRA}"
        raise InputError(msg) from error


def _dataset(lake: Lake, run_id: str) -> Mapping[str, Any] | None:
    """Return the counts of the current dataset if it was built from this run's version of completions, else None."""
    version = tables.current(lake, schemas.DATASET)
    return version.counts if version and version.inputs.get(schemas.COMPLETIONS) == run_id else None


def render(run: Run, stats: RunStats, dataset: Mapping[str, Any] | None = None) -> str:
    """Return the page of a run, from the statistics of its stored rows and the counts of its dataset."""
    filters: Mapping[str, Callable[..., str]] = {
        "duration": run_charts.format_duration,
        "count": "{:,}".format,
        "time": _format_time,
    }
    values: dict[str, Any] = {
        "run": run,
        "state": STATES[run.state],
        "stats": stats,
        "numbers": key_numbers(run, stats, dataset),
        "spark": spark_numbers(run.spark),
        "charts": _charts(run, stats),
        "errors": _errors(run, stats),
        "dataset": dataset,
        "rejected": _bars(_most_frequent_first(_rejected(dataset))),
        "attempts": _bars({str(calls): stats.attempts[calls] for calls in sorted(stats.attempts)}),
    }
    return html.render(TEMPLATE, values, filters)


def key_numbers(run: Run, stats: RunStats, dataset: Mapping[str, Any] | None = None) -> list[KeyNumber]:
    """Return the numbers at the top of the page; a number that is not known, or a division by zero, is a dash."""
    failed, seconds = sum(run.failed.values()), _seconds(run)
    tokens = run.prompt_tokens + run.completion_tokens
    return [
        KeyNumber("answered", f"{run.answered:,}", f"of {run.total:,} requests"),
        KeyNumber("left", f"{max(0, run.total - run.answered):,}", "without an answer"),
        KeyNumber("failed", f"{failed:,}", _percent(failed, run.answered + failed, "requests")),
        KeyNumber("cut", f"{stats.cut:,}", _percent(stats.cut, stats.answered, "answers")),
        _rejected_number(dataset),
        KeyNumber("known before", f"{run.known:,}", "not asked again"),
        KeyNumber("calls", f"{run.calls:,}", _rate(run.calls, run.answered, "per answer")),
        KeyNumber("throttled", f"{run.throttled:,}", _percent(run.throttled, run.calls, "calls")),
        _tokens_number("tokens in", run.prompt_tokens, run.answered, run.prompts_not_counted),
        _tokens_number("tokens out", run.completion_tokens, run.answered, run.completions_not_counted),
        KeyNumber("dollars", f"${run.dollars:,.2f}" if run.dollars else DASH, _cost_per_thousand(run)),
        *_possible_number(run),
        KeyNumber("answers per second", _ratio(run.answered, seconds), _rate(run.calls, seconds, "calls per second")),
        KeyNumber("tokens per second", _ratio(tokens, seconds), "in and out"),
        KeyNumber("duration", _format_duration(seconds), f"on {run.tasks:,} tasks" if run.tasks else ""),
    ]


def _tokens_number(label: str, tokens: int, answers: int, not_counted: int) -> KeyNumber:
    """Return the tokens of the answers whose tokens the server counted."""
    if not not_counted:
        return KeyNumber(label, f"{tokens:,}", _rate(tokens, answers, "per answer"))
    return KeyNumber(label, f"{tokens:,}" if tokens else "not counted", f"not counted for {not_counted:,} answers")


def _possible_number(run: Run) -> list[KeyNumber]:
    """Return what may have been billed besides the certain dollars; an empty list if that is nothing."""
    answers = max(run.prompts_not_counted, run.completions_not_counted)
    named = {"failed calls": run.possibly_billed, "answers without token counts": answers}
    causes = ", ".join(f"{count:,} {name}" for name, count in named.items() if count)
    dollars = f"up to ${run.possible_dollars:,.2f}" if run.possible_dollars else DASH
    return [KeyNumber("possibly billed", dollars, causes)] if causes else []


def _rejected_number(dataset: Mapping[str, Any] | None) -> KeyNumber:
    if dataset is None:
        return KeyNumber("rejected", DASH, "no dataset of this run yet")
    count = sum(_rejected(dataset).values())
    return KeyNumber("rejected", f"{count:,}", _percent(count, dataset["rows"], "rows"))


def _rejected(dataset: Mapping[str, Any] | None) -> Mapping[str, int]:
    return dataset["rejected"] if dataset else {}


def spark_numbers(spark: Mapping[str, float]) -> list[KeyNumber]:
    """Return the measurements of spark_stats as the page shows them; an empty list if there are none."""
    if not spark:
        return []
    seconds, gc_seconds = spark["task_seconds"], spark["gc_seconds"]
    return [
        KeyNumber("tasks ended", f"{spark['tasks']:,}", "in all Spark stages of this run, without failed tasks"),
        KeyNumber("tasks failed", f"{spark['failed_tasks']:,}", "Spark runs them again, up to spark.task.maxFailures"),
        KeyNumber("executors", f"{spark['executors']:,}", "of this Spark session, lost ones included"),
        KeyNumber("executors lost", f"{spark['executors_lost']:,}", "without those that Spark released"),
        KeyNumber("time of all tasks", _format_duration(seconds), "mostly spent waiting for answers"),
        KeyNumber(
            "Java's garbage collection", _format_duration(gc_seconds), _percent(gc_seconds, seconds, "the task time")
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
        return "" if run.possible_dollars else "no price is configured"
    return f"${_ratio(1000 * run.dollars, run.answered)} per 1,000 answers"


def _charts(run: Run, stats: RunStats) -> dict[str, str]:
    """Return the charts that have data, as SVG by name."""
    has_duration = bool(run.series) and run.series[-1].seconds > 0
    series = _full_series(run)
    charts: Mapping[str, tuple[bool, Callable[[], str]]] = {
        "throughput": (has_duration, lambda: run_charts.throughput(series)),
        "latencies": (bool(stats.latencies), lambda: run_charts.latencies(stats.latencies)),
        "tokens": (
            bool(stats.prompt_tokens or stats.completion_tokens),
            lambda: run_charts.tokens(stats.prompt_tokens, stats.completion_tokens),
        ),
        "cost": (
            has_duration and run.dollars > 0 and run.series[-1].tokens > 0,
            lambda: run_charts.cost(series, run.dollars),
        ),
    }
    return {name: draw() for name, (has_data, draw) in charts.items() if has_data}


def _full_series(run: Run) -> tuple[Point, ...]:
    """Return the points of a run, the last one repeated at the run's end, so that a time axis is as long as the run."""
    if not run.series or _seconds(run) < run.series[-1].seconds + 1:  # updated_at has whole seconds
        return run.series
    return (*run.series, replace(run.series[-1], seconds=_seconds(run)))


def _errors(run: Run, stats: RunStats) -> list[Bar]:
    """Return the failed rows by class, most frequent first, each with an example from the stored rows."""
    return _bars(_most_frequent_first({**stats.errors, **run.failed}), stats.examples)


def _most_frequent_first(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _bars(counts: Mapping[str, int], examples: Mapping[str, str] | None = None) -> list[Bar]:
    whole = max(1, sum(counts.values()))
    return [Bar(name, count, count / whole, (examples or {}).get(name, "")) for name, count in counts.items()]


def _seconds(run: Run) -> float:
    return (datetime.fromisoformat(run.updated_at) - datetime.fromisoformat(run.started_at)).total_seconds()


def _format_time(time: str) -> str:
    return datetime.fromisoformat(time).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def _format_duration(seconds: float) -> str:
    """Return a duration such as 1 h 02 min, 5 min 07 s or 9.4 s."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:  # noqa: PLR2004 - an hour
        return f"{minutes // 60:,} h {minutes % 60:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{seconds:.1f} s"


def _ratio(part: float, whole: float) -> str:
    """Return a ratio with three digits, or as a whole number from 100 on."""
    if whole <= 0:
        return DASH
    ratio = part / whole
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:#.3g}"  # noqa: PLR2004 - three digits


def _rate(part: float, whole: float, unit: str) -> str:
    return f"{_ratio(part, whole)} {unit}" if whole > 0 else ""


def _percent(part: float, whole: float, of: str) -> str:
    return f"{100 * part / whole:.2g} % of {of}" if whole > 0 else ""
