"""Send many requests at once, one call each, and store their answers: the Spark tasks and the driver's part.

The limits of the settings hold for the whole cluster. An answer is stored at most `flush_seconds` after its reply.
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

MIN_DOLLARS = 1e-9  # the limit of a run whose max_spend is used up: it pays for no call, while 0 would mean no limit
RequestBuilder = Callable[[Mapping[str, Any]], Request]  # a row -> its request; it is sent to the tasks


@dataclass(frozen=True)
class AskTask:
    """The arguments of every Spark task of a run. Answers go to `storage`, the folder of `stage`'s table.

    `allocation` holds for a task that cannot reach the driver at `coordinator`.
    """

    stage: str
    build_request: RequestBuilder
    conf: config.Completions
    endpoint: config.Endpoint
    price: config.Price
    allocation: Allocation
    coordinator: CoordinatorAddress
    storage: Storage
    run_id: str
    log_format: logs.LogFormat


def ask(
    spark: SparkSession, missing: DataFrame, conf: config.Config, run: run_state.Run, build_request: RequestBuilder
) -> run_state.Run:
    """Run the tasks that send the requests, and a local model server if needed; return the run at its end.

    The counts of the returned run include those of `run`. `missing` has a row for each request: `key`, `pubid` and the
    columns that `build_request` needs. Answers go to the table of `run.stage`.
    """
    completions = conf.completions
    tasks = max(1, min(session.task_slots(spark), completions.in_flight, run.total - run.answered))
    limits = ClusterLimits(
        completions.in_flight, completions.requests_per_second, completions.tokens_per_minute, _dollars(conf, run)
    )
    driver = Coordinator(limits, run_state.start(run, tasks), conf.price.hourly_price, _seconds(conf, run))
    rates = (limits.requests_per_second, limits.tokens_per_minute, limits.dollars)
    calls, tokens, dollars = (limit / tasks or UNLIMITED for limit in rates)
    static = Allocation(max(1, limits.in_flight // tasks), calls, tokens, dollars)

    def current() -> run_state.Run:
        return run_state.join(run, driver.run())

    storage, key = tables.storage(conf.lake, run.stage), secrets.token_bytes(32)
    with (
        endpoints.serving(conf.teacher) as endpoint,
        worker_errors(),
        progress.stages(spark, f"{run.stage}: ask {completions.endpoint}") as stages,
        coordinator.serve(driver, *session.driver_addresses(spark), key, partial(_running_tasks, stages)) as address,
        session.stop_on_signals(spark, driver.stop),
        run_state.store_periodically(conf.lake, current),
        progress.show_run(current, quota.describe_limits(limits, tasks)),
    ):
        task = AskTask(
            run.stage,
            build_request,
            completions,
            endpoint,
            conf.price,
            static,
            address,
            storage,
            run.id,
            conf.log.format,
        )
        map_in_arrow(missing.repartition(tasks, "key"), partial(_ask_partition, task=task), schemas.FILES).collect()
    finished = run_state.finish(current(), driver.endpoint_error, driver.stop_reason)
    run_state.write(conf.lake, finished)
    return finished


def _running_tasks(stages: Callable[[], list[SparkStageInfo]]) -> int:
    return sum(stage.numActiveTasks for stage in stages())


def _dollars(conf: config.Config, run: run_state.Run) -> float:
    """Return the dollars that the run may still spend, 0 without a limit, MIN_DOLLARS if the limit is reached."""
    max_spend = conf.completions.max_spend
    return max(max_spend - run.most_dollars, MIN_DOLLARS) if max_spend else 0.0


def _seconds(conf: config.Config, run: run_state.Run) -> float:
    """Return the seconds that the run may still take, UNLIMITED without a limit.

    The limit is max_minutes, or the time that max_spend pays for at an endpoint with an hourly price, less the time to
    store the last answers.
    """
    max_spend, hourly = conf.completions.max_spend, conf.price.hourly_price
    paid = UNLIMITED
    if max_spend and hourly:
        paid = (max_spend - run.most_dollars) / hourly * 3600 - conf.completions.flush_seconds
    elapsed = run.series[-1].seconds if run.series else 0.0
    return min((conf.completions.max_minutes * 60 or UNLIMITED) - elapsed, paid)


def _ask_partition(batches: Iterator[pa.RecordBatch], task: AskTask) -> Iterator[pa.RecordBatch]:
    """Send the requests of one partition, except those that a lost attempt has stored; describe each stored file."""
    conf, context = task.conf, TaskContext.get()
    partition, attempt = (context.partitionId(), context.taskAttemptId()) if context else (0, 0)
    name = f"{partition}-{attempt}"
    logs.configure(task.log_format, stage=task.stage, run_id=task.run_id, task=name)
    prefix = answer_store.file_prefix(task.run_id, partition)
    admission = Admission(task.allocation, task.price, conf.timeout_seconds)
    store = answer_store.AnswerStore(task.storage, prefix, conf.flush_seconds, admission.counters)
    limits = executor.RetryLimits(conf.attempts, conf.deadline_seconds)
    with (
        contextlib.closing(endpoints.connect(task.endpoint, conf.in_flight, conf.timeout_seconds)) as client,
        coordinator.report_to_driver(task.coordinator, name, admission),
    ):
        coordinator.wait_for_previous_attempt(admission)
        stored = answer_store.stored_keys(task.storage, prefix)
        rows = (row for batch in batches for row in batch.to_pylist() if row["key"] not in stored)
        requests = ((row["pubid"], task.build_request(row)) for row in rows)
        for inflight in executor.ask_all(requests, client.ask, limits, admission):
            if inflight is not None and not (inflight.reply.completion is None and _is_replaced(admission)):
                store.add(answer_store.answer_row(inflight, task.endpoint.model, task.run_id))
            for file in store.flush_due():
                yield parquet.files_batch([file])
        for file in store.close():
            yield parquet.files_batch([file])
        if _is_replaced(admission):
            raise RuntimeError(coordinator.REPLACED)  # so that Spark does not count its rows as done


def _is_replaced(admission: Admission) -> bool:
    return admission.allocation.stop_reason == coordinator.REPLACED
