"""Send many requests at once, one call each, and store their answers: the Spark tasks and the driver's part.

The limits of the settings hold for the whole cluster. An answer is stored at most `flush_seconds` after its reply.
"""

import contextlib
import dataclasses
import json
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NoReturn

import pyarrow as pa
from pyspark import SparkStageInfo, TaskContext
from pyspark.sql import DataFrame

from raft_spark import config, endpoints
from raft_spark.common import logs
from raft_spark.common.background import in_background
from raft_spark.endpoints.base import Request
from raft_spark.errors import InputError
from raft_spark.inference import answer_store, coordinator, executor, quota, unstored
from raft_spark.inference.admission import Admission, Patience, TaskCounters
from raft_spark.inference.answer_store import AnswerFile
from raft_spark.inference.coordinator import Coordinator, CoordinatorAddress
from raft_spark.inference.quota import UNLIMITED, Allocation, ClusterLimits
from raft_spark.lake import lease, session, tables
from raft_spark.lake.filesystem import Storage
from raft_spark.lake.tasks import map_in_arrow, worker_errors
from raft_spark.monitoring import progress, run_state

LOOK_EVERY = 5.0  # seconds between two looks at the lease, of a task that cannot ask the driver
MIN_DOLLARS = 1e-9  # the limit of a run whose max_spend is used up: it pays for no call, while 0 would mean no limit
REPORT = pa.schema(  # of a task at its end; `unstored` is the content of the file `path`, which could not be written
    [(name, pa.string()) for name in ("task", "counters", "stop_reason", "path")] + [("unstored", pa.binary())]
)
RequestBuilder = Callable[[Mapping[str, Any]], Request]  # a row -> its request; it is sent to the tasks


@dataclass(frozen=True)
class AskTask:
    """The arguments of every Spark task of a run. Answers go to `storage`, the folder of `stage`'s table.

    `allocation` holds for a task that cannot reach the driver at `coordinator`, while `lease` is the store's.
    """

    stage: str
    build_request: RequestBuilder
    conf: config.Completions
    endpoint: config.Endpoint
    price: config.Price
    allocation: Allocation
    coordinator: CoordinatorAddress
    storage: Storage
    lease: str
    run_id: str
    log_format: logs.LogFormat


def ask(
    held: lease.Lease, missing: DataFrame, conf: config.Config, run: run_state.Run, build_request: RequestBuilder
) -> run_state.Run:
    """Run the tasks that send the requests, and a local model server if needed; return the run at its end.

    The counts of the returned run include those of `run`. `missing` has a row for each request: `key`, `pubid` and the
    columns that `build_request` needs. Answers go to the table of `run.stage`, whose lease is `held`; when it is lost, the
    run stops. Raises InputError when answers cannot be stored.
    """
    completions, spark = conf.completions, missing.sparkSession
    tasks = max(1, min(session.task_slots(spark), completions.in_flight, run.total - run.answered))
    limits = ClusterLimits(
        completions.in_flight, completions.requests_per_second, completions.tokens_per_minute, _dollars(conf, run)
    )
    driver = Coordinator(limits, run_state.start(run, tasks), conf.price.hourly_price, _seconds(conf, run))
    driver.must_stop = held.problem
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
            held.token,
            run.id,
            conf.log.format,
        )
        reports = map_in_arrow(missing.repartition(tasks, "key"), partial(_ask_partition, task=task), REPORT).collect()
        for report in reports:
            driver.settle(report.task, TaskCounters(**json.loads(report.counters)), report.stop_reason)
    finished = run_state.finish(current(), driver.endpoint_error or driver.store_error, driver.stop_reason)
    if driver.store_error:
        files = [AnswerFile(report.path, bytes(report.unstored)) for report in reports if report.path]
        _fail(conf.lake, finished, driver.store_error, unstored.rescue(storage, files))
    run_state.write(conf.lake, finished)
    return finished


def _fail(lake: config.Lake, run: run_state.Run, error: str, rescued: unstored.Rescued) -> NoReturn:
    """Raise InputError that says what became of the answers that were not stored."""
    storage = tables.storage(lake, run.stage)
    failed = sum((file.failed for file in rescued.stored), Counter(run.failed))
    answered = run.answered + sum(file.answered for file in rescued.stored)
    lost = run.series[-1].answered - answered - rescued.kept
    if lease.is_present(storage):
        run_state.try_write(lake, replace(run, answered=answered, failed=dict(failed)))
    parts = [f"{answered} answers are stored"]
    if rescued.kept:
        parts.append(f"{rescued.kept} are kept in {unstored.folder(storage).root}, and the next run here stores them")
    if lost > 0:
        parts.append(f"{lost} are lost")
    msg = f"{error}; nothing more was sent. {'; '.join(parts)}. Make room or restore the access; a rerun asks only the others"
    raise InputError(msg)


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
    """Send the requests of one partition, except those that a lost attempt has stored; report the counters at the end."""
    conf, context = task.conf, TaskContext.get()
    partition, attempt = (context.partitionId(), context.taskAttemptId()) if context else (0, 0)
    name = f"{partition}-{attempt}"
    logs.configure(task.log_format, stage=task.stage, run_id=task.run_id, task=name)
    prefix = answer_store.file_prefix(task.run_id, partition)
    patience = Patience(conf.timeout_seconds, conf.min_timeout_seconds, conf.silent_seconds, conf.deadline_seconds)
    admission = Admission(task.allocation, task.price, patience)
    is_present = partial(lease.is_present, task.storage)
    store = answer_store.AnswerStore(task.storage, prefix, conf.flush_seconds, admission.counters, is_present)
    limits = executor.RetryLimits(conf.attempts, conf.deadline_seconds)
    with (
        contextlib.closing(endpoints.connect(task.endpoint, conf.in_flight, conf.timeout_seconds)) as client,
        coordinator.report_to_driver(task.coordinator, name, admission),
        in_background(partial(_watch_lease, task, admission)),
    ):
        coordinator.wait_for_previous_attempt(admission)
        with answer_store.store_errors(task.storage):
            stored = answer_store.stored_keys(task.storage, prefix)
        rows = (row for batch in batches for row in batch.to_pylist() if row["key"] not in stored)
        requests = ((row["pubid"], task.build_request(row)) for row in rows)
        for inflight in executor.ask_all(requests, client.ask, limits, admission):
            if inflight is not None and not (inflight.reply.completion is None and _is_replaced(admission)):
                store.add(answer_store.answer_row(inflight, task.endpoint.model, task.run_id))
            list(store.flush_due())
        list(store.close())
        if _is_replaced(admission):
            raise RuntimeError(coordinator.REPLACED)  # so that Spark does not count its rows as done
    counters = json.dumps(dataclasses.asdict(admission.snapshot()))
    report = {"task": name, "counters": counters, "stop_reason": admission.allocation.stop_reason}
    rest = store.unstored()
    unstored_file = {"path": rest.path, "unstored": rest.data} if rest else {}
    yield pa.RecordBatch.from_pylist([report | unstored_file], REPORT)


def _watch_lease(task: AskTask, admission: Admission, over: threading.Event) -> None:
    """Stop a task that cannot reach the driver when the run has lost its lease."""
    while admission.allocation is task.allocation and not over.wait(LOOK_EVERY):
        with contextlib.suppress(*lease.STORE_ERRORS):
            if not lease.is_held(task.storage, task.lease):
                admission.allocation = replace(task.allocation, stop_reason="the run has lost its lease")


def _is_replaced(admission: Admission) -> bool:
    return admission.allocation.stop_reason == coordinator.REPLACED
