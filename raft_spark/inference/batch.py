"""Send requests as batch jobs, in rounds: write input files, submit, wait, store the answers; failed requests
are sent again in the next round.

    ROOT/completions/data/day=YYYY-MM-DD/JOB-cCCCCC-ANSWERED-FAILED.parquet

A run first collects the jobs that earlier runs left pending, so that no request is sent twice. The answers' file
names, including the day, depend on the job alone: if a driver dies while it stores answers, the next one overwrites
the same files.
"""

import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from raft_spark import config, endpoints
from raft_spark.common import ids, logs, wording
from raft_spark.endpoints.base import Request, retried_classes
from raft_spark.endpoints.batch_service import BatchJob
from raft_spark.errors import EndpointError
from raft_spark.inference import answer_store, batch_input, batch_jobs, requests
from raft_spark.inference.admission import (
    MIN_CHARS_PER_TOKEN,
    TEMPLATE_TOKENS,
    InFlightRequest,
    call_cost,
    may_be_billed,
    most_prompt_tokens,
)
from raft_spark.inference.quota import UNLIMITED
from raft_spark.lake import dataframes, lease, parquet, schemas, session, tables
from raft_spark.lake.filesystem import Storage
from raft_spark.lake.tasks import map_in_arrow, worker_errors
from raft_spark.monitoring import progress, run_state
from raft_spark.recipe import prompts

LOG = logging.getLogger(__name__)
ROWS_PER_FILE = 20_000
OUTCOMES_SCHEMA = pa.schema(  # error_class "" is an answer
    [("error_class", pa.string()), ("rows", pa.int64())]
    + [(name, pa.int64()) for name in ("prompt_tokens", "completion_tokens", *run_state.NOT_COUNTED)]
    + [("dollars", pa.float64()), ("possible_dollars", pa.float64())]
)
SUMS = OUTCOMES_SCHEMA.names[2:]
BUDGET_SPENT = "another batch job might pass completions.max_spend"
Group = tuple[str, int, int]  # prefix of its keys, number of requests, characters of their questions and oracles


class BatchProgress:
    """Hold the state of the run. The thread that polls the jobs updates `run`; other threads show and store it."""

    def __init__(self, conf: config.Config, run: run_state.Run, must_stop: Callable[[], str] = str) -> None:
        self._must_stop = must_stop  # returns why the run must stop, "" while it may go on
        self.run = run_state.start(run, 0)
        self.stop_reason = ""
        self.is_short_of_money = False  # max_spend did not pay for all requests of the last round
        self._retried = retried_classes(conf.completions)
        self._end = time.monotonic() + (conf.completions.max_minutes * 60 or UNLIMITED)
        self._logged = ""

    def stop(self, reason: str) -> None:
        """Stop submitting jobs and waiting for them; only the first reason counts."""
        self.stop_reason = self.stop_reason or reason

    def should_continue(self) -> bool:
        """Return whether the run may still submit jobs and wait for them."""
        if problem := self._must_stop():
            self.stop(problem)
        if time.monotonic() > self._end:
            self.stop(
                "the time set by completions.max_minutes is over; the service continues the batch jobs, and the next run "
                "collects their answers"
            )
        return not self.stop_reason

    def start_round(self, missing: int) -> None:
        """Start a round of `missing` requests; failures that are retried in it no longer count as failed."""
        failed = {name: count for name, count in self.run.failed.items() if name not in self._retried}
        done = self.run.answered + sum(failed.values())
        self.run = replace(self.run, failed=failed, total=done + missing, open=0)

    def on_poll(self, jobs: Sequence[BatchJob]) -> None:
        """Count the open records of the jobs; log the jobs' states when they have changed."""
        open_jobs = [job for job in jobs if job.state == "submitted" and not job.ended]
        self.run = replace(self.run, updated_at=ids.now(), open=sum(job.records for job in open_jobs))
        states = Counter(job.status or job.state for job in jobs)
        line = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        if line != self._logged:
            LOG.info("batch jobs: %s", line, extra=logs.fields(jobs=dict(states)))
        self._logged = line

    def add(self, outcomes: Sequence[Row]) -> None:
        """Count rows that were stored; `outcomes` are in OUTCOMES_SCHEMA."""
        failed = Counter({row.error_class: 0 for row in outcomes})
        for row in outcomes:
            failed[row.error_class] += row.rows
        answered, run = failed.pop("", 0), self.run
        sums = {name: round(getattr(run, name) + sum(row[name] for row in outcomes), 6) for name in SUMS}
        self.run = replace(
            run,
            updated_at=ids.now(),
            answered=run.answered + answered,
            failed=dict(Counter(run.failed) + failed),
            calls=run.calls + answered + failed.total(),
            **sums,
        )
        self.run = replace(self.run, series=(*run.series, _point(self.run, run_state.elapsed(self.run, time.time()))))


def _point(run: run_state.Run, seconds: float) -> run_state.Point:
    tokens = run.prompt_tokens + run.completion_tokens
    return run_state.Point(
        round(seconds, 1), run.answered, sum(run.failed.values()), run.calls, 0, tokens, run.open, run.window
    )


def ask(
    held: lease.Lease,
    spark: SparkSession,
    conf: config.Config,
    run: run_state.Run,
    missing: Callable[[], DataFrame],
) -> run_state.Run:
    """Send requests in batch jobs until fewer than min_records are missing; return the run at its end.

    `missing` looks up the requests that have no answer now: key, pubid, question, oracle. Raises ConfigError, before
    anything starts, if the service could not read the jobs' input.
    """
    folder, batch, error = batch_jobs.run_folder(conf, run.id), BatchProgress(conf, run, held.problem), ""
    limits = conf.batch_limits
    records = f"{limits.min_records:,} to {limits.max_records:,} records"
    line = f"batch jobs of {records}, polled every {limits.poll_seconds:g} s"

    def current() -> run_state.Run:
        return batch.run

    with (
        worker_errors(),
        session.stop_on_signals(spark, batch.stop),
        run_state.store_periodically(conf.lake, current),
        progress.show_run(current, line),
    ):
        try:
            _run_rounds(spark, conf, folder, batch, missing)
        except EndpointError as raised:
            error = f"failed in batch mode: {raised}"
    finished = run_state.finish(batch.run, error, batch.stop_reason)
    run_state.write(conf.lake, finished)
    return finished


def _run_rounds(
    spark: SparkSession, conf: config.Config, folder: Storage, batch: BatchProgress, missing: Callable[[], DataFrame]
) -> None:
    """Collect pending jobs, then run at most `attempts` rounds. Raises EndpointError if a round brings no answer."""
    pending, others = batch_jobs.split_pending(conf)
    if others:
        LOG.warning("batch jobs of other services stay as they are: %s", ", ".join(job.name for job in others))
    batch.start_round(sum(job.records for job in pending))
    _collect(spark, conf, pending, batch)
    for _ in range(conf.completions.attempts):
        if not batch.should_continue():
            return
        answered_before = batch.run.answered
        jobs = _create_jobs(missing(), conf, folder, batch)
        ended = _collect(spark, conf, jobs, batch)
        if not jobs:
            return
        if len(ended) == len(jobs) and batch.run.answered == answered_before:
            last = f"{ended[-1].status} {ended[-1].message}".rstrip()
            msg = f"no record of {len(jobs)} batch jobs was answered; the last job is {last}"
            raise EndpointError(msg)
    if batch.is_short_of_money:
        batch.stop(BUDGET_SPENT)


def _create_jobs(missing: DataFrame, conf: config.Config, folder: Storage, batch: BatchProgress) -> list[BatchJob]:
    """Register jobs for the missing requests that max_spend pays for; none if they are fewer than min_records."""
    missing = missing.persist()
    try:
        count = missing.count()
        batch.start_round(count)
        if count < conf.batch_limits.min_records:
            return []
        affordable = missing.where(_is_affordable(missing, conf, batch.run.most_dollars))
        paid = affordable.count() if conf.completions.max_spend else count
        batch.is_short_of_money = paid < count
        if batch.is_short_of_money:
            LOG.info("completions.max_spend pays for %s of %s records at their maximum cost", f"{paid:,}", f"{count:,}")
        if paid < conf.batch_limits.min_records:
            batch.stop(BUDGET_SPENT)
            return []
        return batch_jobs.register_jobs(conf, folder, batch_input.write_input_files(affordable, conf, folder, paid))
    finally:
        missing.unpersist()


def _is_affordable(missing: DataFrame, conf: config.Config, spent: float) -> str:
    """Return, in SQL, which requests max_spend pays for at their maximum cost: those with the smallest keys.

    A key is a hash, so this is a random choice.
    """
    limit = conf.completions.max_spend
    if not limit:
        return "true"
    characters = F.sum(requests.prompt_characters(conf.completions))
    prefix = F.substring("key", 1, 3).alias("prefix")
    rows = missing.groupBy(prefix).agg(F.count("*"), characters).orderBy("prefix").collect()  # 4,096 at most
    template = prompts.teacher_request("", "", conf.teacher.model, conf.teacher_requests)
    groups = [(row[0], row[1], row[2]) for row in rows]
    first = first_unaffordable_group(limit - spent, groups, template, batch_price(conf.price))
    return f"key < '{first}'" if first else "true"


def first_unaffordable_group(dollars: float, groups: Sequence[Group], template: Request, price: config.Price) -> str:
    """Return the key prefix of the first group that `dollars` might not pay for, all before it paid; "" without one.

    `template` is a request with an empty question and an empty oracle.
    """
    for prefix, count, characters in groups:
        prompt = (characters + count * template.characters) / MIN_CHARS_PER_TOKEN + count * TEMPLATE_TOKENS
        dollars -= price.dollars(prompt, count * template.max_tokens)
        if dollars < 0:
            return prefix
    return ""


def batch_price(price: config.Price) -> config.Price:
    """Return a price whose token prices are those of batch jobs; on-demand prices where those are unknown."""
    known = {"input_price": price.batch_input_price, "output_price": price.batch_output_price}
    return price.model_copy(update={name: dollars for name, dollars in known.items() if dollars is not None})


def _collect(
    spark: SparkSession, conf: config.Config, jobs: Sequence[BatchJob], batch: BatchProgress
) -> list[BatchJob]:
    """Wait for the jobs and store the answers of each that ends, one Spark task a job; return the jobs that ended.

    A job is marked as collected only after all its answers are stored.
    """
    collected: list[BatchJob] = []
    for ended in batch_jobs.submit_and_poll(conf, jobs, batch.on_poll, batch.should_continue):
        rows = [{"job": asdict(job), "rows": job.records} for job in ended]
        outcomes = map_in_arrow(
            dataframes.assign_tasks(spark, rows, len(rows)),
            partial(_store_answers, conf=conf, run_id=batch.run.id),
            OUTCOMES_SCHEMA,
        )
        batch.add(outcomes.collect())  # some ten rows a job
        for job in ended:
            batch_jobs.mark_collected(conf.lake, job)
        collected += ended
    return collected


def _store_answers(batches: Iterator[pa.RecordBatch], conf: config.Config, run_id: str) -> Iterator[pa.RecordBatch]:
    """Store all answers of each job; yield their outcomes."""
    logs.configure(conf.log.format, stage=schemas.COMPLETIONS, run_id=run_id)
    storage, price = tables.storage(conf.lake, schemas.COMPLETIONS), batch_price(conf.price)
    service = endpoints.batch_service_of(conf.teacher, conf.completions)
    for _, rows in parquet.by_task(batches):
        for job in (BatchJob(**row["job"]) for row in rows):
            ignored: Counter[str] = Counter()
            replies = batch_jobs.replies(job, replace(storage, root=job.folder), service, ignored)
            for number in itertools.count():
                chunk = list(itertools.islice(replies, ROWS_PER_FILE))
                if not chunk:
                    break
                rows_of_chunk = [_answer_row(answer, job, run_id) for answer in chunk]
                with answer_store.store_errors(storage):
                    answer_store.write_answers(storage, job.day, f"{job.name}-c{number:05d}", rows_of_chunk)
                yield _outcomes(chunk, price)
            if ignored:
                LOG.warning("output of batch job %s: ignored lines: %s", job.name, wording.counts(ignored))


def _answer_row(answer: batch_jobs.BatchAnswer, job: BatchJob, run_id: str) -> dict[str, Any]:
    """Return the row to store. The keys are known without the request, and nobody knows how long the answer took."""
    key, info, reply = answer
    model = job.model
    request = Request("", model, {"max_tokens": info.max_tokens})
    row = answer_store.answer_row(InFlightRequest(info.pubid, request, attempts=1, reply=reply), model, run_id)
    return {**row, "key": key, "key_of_any_length": info.key_of_any_length, "latency_ms": None}


def _outcomes(answers: Sequence[batch_jobs.BatchAnswer], price: config.Price) -> pa.RecordBatch:
    """Return rows, tokens and dollars by error class, in OUTCOMES_SCHEMA."""
    sums: dict[str, list[float]] = {}
    for _, info, reply in answers:
        totals = sums.setdefault(reply.error_class or "", [0] * (1 + len(SUMS)))
        has_answer = reply.completion is not None
        counts = (
            1,
            reply.prompt_tokens or 0,
            reply.completion_tokens or 0,
            has_answer and reply.prompt_tokens is None,
            has_answer and reply.completion_tokens is None,
            may_be_billed(reply),
            *call_cost(price, reply, (most_prompt_tokens(info.characters), info.max_tokens)),
        )
        for index, count in enumerate(counts):
            totals[index] += count
    return pa.RecordBatch.from_pylist(
        [dict(zip(OUTCOMES_SCHEMA.names, (name, *totals), strict=True)) for name, totals in sums.items()],
        OUTCOMES_SCHEMA,
    )
