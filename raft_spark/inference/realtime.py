"""Requests -> answers in the store, one call a request, many in flight: the tasks that ask, and the driver that shares out.

The limits of the settings hold for the whole cluster. An answer is stored at most `flush_seconds` after it came.
"""

import contextlib
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
from pyspark import SparkStageInfo, TaskContext
from pyspark.sql import DataFrame, SparkSession

from raft_spark import config, endpoints
from raft_spark.common import logs
from raft_spark.endpoints.base import Request
from raft_spark.inference import answer_store, coordinator, executor, quota
from raft_spark.inference.admission import Admission
from raft_spark.inference.coordinator import Coordinator, CoordinatorAddress
from raft_spark.inference.quota import UNLIMITED, Allocation, ClusterLimits
from raft_spark.lake import parquet, schemas, session, tables
from raft_spark.lake.filesystem import Storage
from raft_spark.lake.tasks import map_in_arrow, worker_errors
from raft_spark.monitoring import progress, run_state

LEAST = 1e-9  # dollars
RequestBuilder = Callable[[Mapping[str, Any]], Request]  # a row -> its request; it goes to the tasks


@dataclass(frozen=True)
class AskTask:
    """What every task of a run gets: `share` is what it may do where it cannot ask at the driver's `desk`; answers go to the
    store of `stage`, which lies `at`.
    """

    stage: str
    worded: RequestBuilder
    conf: config.Completions
    endpoint: config.Endpoint
    price: config.Price
    share: Allocation
    desk: CoordinatorAddress
    at: Storage
    run_id: str
    form: logs.LogFormat


def ask(
    spark: SparkSession, missing: DataFrame, conf: config.Config, told: run_state.Run, worded: RequestBuilder
) -> run_state.Run:
    """Run the tasks that ask, a server of our own beside them where the endpoint needs one; return the run as it ended, on
    top of what it had done before.

    `missing` has a row a request: `key`, `pubid` and what `worded` makes the request of. Answers go to the store of told.stage.
    """
    asking = conf.completions
    tasks = max(1, min(session.task_slots(spark), asking.in_flight, told.total - told.answered))
    limits = ClusterLimits(asking.in_flight, asking.requests_per_second, asking.tokens_per_minute, _dollars(conf, told))
    driver = Coordinator(limits, run_state.start(told, tasks), conf.price.hourly_price, _seconds(conf, told))
    calls, tokens, dollars = (limit / tasks or UNLIMITED for limit in _rates(limits))
    share = Allocation(max(1, asking.in_flight // tasks), calls, tokens, dollars)

    def going() -> run_state.Run:
        return run_state.join(told, driver.told())

    at, key = tables.storage(conf.lake, told.stage), secrets.token_bytes(32)
    with (
        endpoints.serving(conf.teacher) as endpoint,
        worker_errors(),
        progress.stages(spark, f"{told.stage}: ask {conf.completions.endpoint}") as stages,
        coordinator.serve(driver, *session.driver_addresses(spark), key, partial(_running, stages)) as desk,
        session.stop_on_signals(spark, driver.stop),
        run_state.store_periodically(conf.lake, going),
        progress.show_run(going, quota.arithmetic(limits, tasks)),
    ):
        work = AskTask(told.stage, worded, asking, endpoint, conf.price, share, desk, at, told.id, conf.log.format)
        ask_all = partial(_ask_all, work=work)
        map_in_arrow(missing.repartition(tasks, "key"), ask_all, schemas.FILES).collect()
    ended = run_state.finish(going(), driver.trouble, driver.stop_reason)
    run_state.write(conf.lake, ended)
    return ended


def _running(stages: Callable[[], list[SparkStageInfo]]) -> int:
    return sum(stage.numActiveTasks for stage in stages())


def _rates(limits: ClusterLimits) -> tuple[float, float, float]:
    return limits.requests_per_second, limits.tokens_per_minute, limits.dollars


def _dollars(conf: config.Config, told: run_state.Run) -> float:
    """Return what the run may still spend, 0 without a limit: what nobody can pay with is left of one that is reached."""
    spend = conf.completions.max_spend
    return max(spend - told.dollars, LEAST) if spend else 0.0


def _seconds(conf: config.Config, told: run_state.Run) -> float:
    """Return how long the run may still take: max_minutes, or what max_spend pays of an endpoint that costs by the hour."""
    spend, hourly = conf.completions.max_spend, conf.price.hourly_price
    paid = (spend - told.dollars) / hourly * 3600 - conf.completions.flush_seconds if spend and hourly else UNLIMITED
    taken = told.series[-1].seconds if told.series else 0.0
    return min((conf.completions.max_minutes * 60 or UNLIMITED) - taken, paid)


def _ask_all(batches: Iterator[pa.RecordBatch], work: AskTask) -> Iterator[pa.RecordBatch]:
    """Ask all rows of one partition but those that a lost attempt has stored; yield a description of each stored file."""
    conf, context = work.conf, TaskContext.get()
    partition, attempt = (context.partitionId(), context.taskAttemptId()) if context else (0, 0)
    logs.configure(work.form, stage=work.stage, run_id=work.run_id, task=f"{partition}-{attempt}")
    prefix, meter = (
        answer_store.file_prefix(work.run_id, partition),
        Admission(work.share, work.price, conf.timeout_seconds),
    )
    kept = answer_store.AnswerStore(work.at, prefix, conf.flush_seconds, meter.tally)
    limits = executor.RetryLimits(conf.attempts, conf.deadline_seconds)
    with (
        contextlib.closing(endpoints.connect(work.endpoint, conf.in_flight, conf.timeout_seconds)) as client,
        coordinator.report_to_driver(work.desk, f"{partition}-{attempt}", meter),
    ):
        coordinator.wait_for_previous_attempt(meter)
        before = answer_store.stored_keys(work.at, prefix)
        rows = (row for batch in batches for row in batch.to_pylist() if row["key"] not in before)
        asking = ((row["pubid"], work.worded(row)) for row in rows)
        for asked in executor.ask_all(asking, client.ask, limits, meter):
            if asked is not None and not (asked.reply.completion is None and _is_replaced(meter)):
                kept.add(answer_store.answer_row(asked, work.endpoint.model, work.run_id))
            for file in kept.files():
                yield parquet.files_batch([file])
        for file in kept.rest():
            yield parquet.files_batch([file])
        if _is_replaced(meter):
            raise RuntimeError(coordinator.REPLACED)  # so that Spark does not take its rows for done


def _is_replaced(meter: Admission) -> bool:
    return meter.grant.stop == coordinator.REPLACED
