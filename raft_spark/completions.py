"""base -> completions: ask the teacher what was never answered, many requests in flight, and store answers as they come.

The table is an append-only store named by the request's key, beside its versions: a run that dies has lost at most
`flush_seconds` of answers, and the next one asks only what is missing. A version lists the store's files at the end of a
run, so that a dataset says exactly which answers it was made from.
"""

import contextlib
import datetime as dt
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
from pyspark import SparkStageInfo, TaskContext
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention
from pyspark.sql.pandas.types import from_arrow_schema

from raft_spark import (
    compaction,
    config,
    coordinator,
    endpoints,
    parts,
    progress,
    prompts,
    requests,
    runs,
    schemas,
    session,
    store,
    tables,
    window,
)
from raft_spark.coordinator import Coordinator, Desk
from raft_spark.errors import EndpointError, StoppedError
from raft_spark.files import Place
from raft_spark.meter import Meter
from raft_spark.shares import UNLIMITED, Grant, Limits


@dataclass(frozen=True)
class Work:
    """What every task of a run gets: `share` is what it may do where it cannot ask at the driver's `desk`."""

    conf: config.Completions
    endpoint: config.Endpoint
    price: config.Price
    share: Grant
    desk: Desk
    at: Place
    run_id: str


def run(conf: config.Config) -> tables.Version:
    """Ask what the current base needs and nobody has answered; return the version that is current then.

    Raises EndpointError when the endpoint refuses the job or is dead, or more requests failed than max_failed_share allows,
    and StoppedError when a signal or a limit ended the run early: in each case after every answer is stored.
    """
    base = tables.needed(conf.lake, schemas.BASE)
    identity = tables.identity(schemas.COMPLETIONS, requests.settings(conf), [base.id])
    previous = tables.current(conf.lake, schemas.COMPLETIONS)
    if previous and previous.identity == identity and not to_ask(previous.counts, conf.completions):
        return previous
    spark = session.start(conf)
    new = tables.draft(conf.lake, schemas.COMPLETIONS, identity)
    known = looked_up(spark, conf, base).persist()
    counts, dead = _counted(known, conf.completions)
    told = _told(new.id, conf, counts)
    if counts["asked"]:
        told = _ask(spark, known.where(is_asked(conf.completions)), conf, told)
    known.unpersist()
    if told.state == "failed":
        msg = f"endpoint {conf.completions.endpoint!r} {told.reason}; {_stored(told)}"
        raise EndpointError(msg)
    paid_twice, failure = _looked_back(spark, conf, told)
    counts |= _sums(told, dead, conf.completions) | {"paid_twice": paid_twice}
    version = compaction.publish(spark, new, conf, {schemas.BASE: base}, counts)
    if told.state == "stopped":
        msg = f"{told.reason}; {_stored(told)}"
        raise StoppedError(msg)
    if counts["failed"] > conf.completions.max_failed_share * counts["asked"]:
        msg = (
            f"{counts['failed']} of {counts['asked']} requests failed ({told.failures}), more than "
            f"completions.max_failed_share = {conf.completions.max_failed_share}; {_stored(told)}. One reason: {failure}"
        )
        raise EndpointError(msg)
    return version


def looked_up(spark: SparkSession, conf: config.Config, base: tables.Version) -> DataFrame:
    """Return each distinct request of base once, with how many `rows` need it, whether it `is_answered`, and the class of
    its `last_error`.
    """
    wanted = requests.build(tables.read(spark, conf.lake, base), conf)
    first = F.min_by(F.struct("key_of_any_length", "pubid", "question", "oracle"), "pubid").alias("first")
    distinct = wanted.groupBy("key").agg(first, F.count("*").alias("rows")).select("key", "first.*", "rows")
    found = requests.looked_up(distinct, tables.stored(spark, conf.lake), conf.completions)
    return found.select(
        "key", "pubid", "question", "oracle", "rows", F.col("answer").isNotNull().alias("is_answered"), "last_error"
    )


def is_asked(conf: config.Completions) -> Column:
    """Leave out what is answered, and what failed in a class that completions.retry does not name."""
    return ~F.col("is_answered") & (F.col("last_error").isNull() | F.col("last_error").isin(*conf.retry))


def _counted(known: DataFrame, conf: config.Completions) -> tuple[dict[str, Any], Counter[str]]:
    """Count rows by what is known of their requests; return the counts, and the dead letters by class: some ten rows."""
    groups = known.groupBy("is_answered", "last_error").agg(F.count("*").alias("requests"), F.sum("rows").alias("rows"))
    found = groups.collect()
    dead = {
        row.last_error: row.requests
        for row in found
        if not row.is_answered and row.last_error not in {None, *conf.retry}
    }
    asked = sum(row.requests for row in found if not row.is_answered) - sum(dead.values())
    counts = {
        "requests": sum(row.rows for row in found),
        "distinct": sum(row.requests for row in found),
        "known": sum(row.requests for row in found if row.is_answered),
        "asked": asked,
    }
    return counts, Counter(dead)


def to_ask(counts: Mapping[str, Any], conf: config.Completions) -> int:
    """Return how many requests the next run would ask, by a version's counts."""
    again = (int(count) for name, count in counts["dead"].items() if name in conf.retry)
    return int(counts["missing"]) + sum(again)


def _told(run_id: str, conf: config.Config, counts: Mapping[str, int]) -> runs.Run:
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    model = conf.teacher.model
    return runs.Run(
        run_id, conf.completions.endpoint, model, now, now, counts["asked"], counts["known"], state="finished"
    )


def _sums(told: runs.Run, dead: Counter[str], conf: config.Completions) -> dict[str, Any]:
    """Return what a run adds to the counts: rows that failed for good are dead letters, all others are missing."""
    failed = Counter(told.failed)
    now_dead = Counter({name: count for name, count in failed.items() if name not in conf.retry})
    return {
        "answered": told.answered,
        "failed": failed.total(),
        "failed_by_class": dict(failed),
        "dead": dict(dead + now_dead),
        "missing": told.total - told.answered - now_dead.total(),
        "calls": told.calls,
        "throttled": told.throttled,
        "tokens": {"prompt": told.prompt_tokens, "completion": told.completion_tokens},
        "dollars": told.dollars,
    }


def _looked_back(spark: SparkSession, conf: config.Config, told: runs.Run) -> tuple[int, str | None]:
    """Count the answers of this run beyond the first to the same request, and find one reason of a failure."""
    if not told.done:
        return 0, None
    own = tables.stored(spark, conf.lake).where(F.col("run_id") == told.id)
    answered = F.when(F.col("completion").isNotNull(), F.col("key"))
    row = own.agg(F.count(answered) - F.countDistinct(answered), F.max("error")).collect()[0]
    return int(row[0]), row[1]


def _stored(told: runs.Run) -> str:
    return f"{told.answered} answers are stored, and a rerun asks only the others"


def _ask(spark: SparkSession, missing: DataFrame, conf: config.Config, told: runs.Run) -> runs.Run:
    """Run the tasks that ask, a server of our own beside them where the endpoint needs one; return the run as it ended."""
    asking = conf.completions
    tasks = max(1, min(session.slots(spark), asking.in_flight, told.total))
    limits = Limits(asking.in_flight, asking.requests_per_second, asking.tokens_per_minute, asking.max_spend)
    desk_of = Coordinator(limits, runs.begun(told, tasks), conf.price.hourly_price, _seconds(conf))
    calls, tokens, dollars = (limit / tasks or UNLIMITED for limit in _rates(limits))
    share = Grant(max(1, asking.in_flight // tasks), calls, tokens, dollars)
    store_of = tables.place(conf.lake, schemas.COMPLETIONS)
    with contextlib.ExitStack() as open_for_the_run:
        endpoint = open_for_the_run.enter_context(endpoints.serving(conf.teacher))
        open_for_the_run.enter_context(session.translated())
        stages = open_for_the_run.enter_context(progress.stages(spark, "asking"))
        desk = open_for_the_run.enter_context(
            coordinator.listening(
                desk_of, *session.addresses(spark), secrets.token_bytes(32), partial(_running, stages)
            )
        )
        open_for_the_run.enter_context(session.stoppable(spark, desk_of.stop))
        open_for_the_run.enter_context(runs.kept(conf.lake, desk_of.told))
        open_for_the_run.enter_context(progress.asking(desk_of.told, _arithmetic(limits, tasks)))
        work = Work(asking, endpoint, conf.price, share, desk, store_of, told.id)
        asked = missing.repartition(tasks, "key").mapInArrow(
            partial(_ask_all, work=work), from_arrow_schema(schemas.FILES)
        )
        asked.collect()
    ended = runs.ended(desk_of.told(), desk_of.trouble, desk_of.stop_reason)
    runs.write(conf.lake, ended)
    return ended


def _running(stages: Callable[[], list[SparkStageInfo]]) -> int:
    return sum(stage.numActiveTasks for stage in stages())


def _rates(limits: Limits) -> tuple[float, float, float]:
    return limits.requests_per_second, limits.tokens_per_minute, limits.dollars


def _seconds(conf: config.Config) -> float:
    """Return how long a run may take: max_minutes, or what max_spend pays of an endpoint that costs by the hour."""
    spend, hourly = conf.completions.max_spend, conf.price.hourly_price
    paid = spend / hourly * 3600 - conf.completions.flush_seconds if spend and hourly else UNLIMITED
    return min(conf.completions.max_minutes * 60 or UNLIMITED, paid)


def _arithmetic(limits: Limits, tasks: int) -> str:
    """Say what the whole cluster may do, and a task's part of it while all run."""
    named = {
        "calls open at once": limits.in_flight,
        "requests a second": limits.requests_per_second,
        "tokens a minute": limits.tokens_per_minute,
        "dollars": limits.dollars,
    }
    said = [f"{limit:,g} {name} / {tasks} = {limit / tasks:,.4g}" for name, limit in named.items() if limit]
    return f"{tasks} task{'s' * (tasks > 1)}; the whole cluster, and a task while all run: {', '.join(said)}"


def _ask_all(batches: Iterator[pa.RecordBatch], work: Work) -> Iterator[pa.RecordBatch]:
    """Ask all rows of one partition but those that a lost attempt has stored; yield a description of each stored file."""
    conf, context = work.conf, TaskContext.get()
    partition, attempt = (context.partitionId(), context.taskAttemptId()) if context else (0, 0)
    prefix = store.prefix(work.run_id, partition)
    before = store.stored_before(work.at, prefix)
    rows = (row for batch in batches for row in batch.to_pylist() if row["key"] not in before)
    asking = (
        (row["pubid"], prompts.request(row["question"], row["oracle"], work.endpoint.model, conf)) for row in rows
    )
    meter = Meter(work.share, work.price, conf.timeout_seconds)
    kept = store.Store(work.at, prefix, conf.flush_seconds, meter.tally)
    limits = window.Limits(conf.attempts, conf.deadline_seconds)
    with (
        contextlib.closing(endpoints.connect(work.endpoint, conf.in_flight, conf.timeout_seconds)) as client,
        coordinator.reporting(work.desk, f"{partition}-{attempt}", meter),
    ):
        for asked in window.answers(asking, client.ask, limits, meter):
            if asked is not None:
                kept.add(store.row(asked, work.endpoint.model, work.run_id))
            for file in kept.files():
                yield parts.as_batch([file])
        for file in kept.rest():
            yield parts.as_batch([file])
