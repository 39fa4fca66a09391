"""Requests -> answers in the store by Bedrock's batch jobs, in rounds: cut, submit, watch, collect; what failed is cut again.

    ROOT/completions/data/day=YYYY-MM-DD/JOB-cCCCCC-ANSWERED-FAILED.parquet

What any run has left pending is collected before anything is cut, so that nothing is submitted twice. The names of the
files, their day as well, are those of the job: a driver that died while it collected collects again into the same files.
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

from raft_spark import config
from raft_spark.common import ids, logs
from raft_spark.endpoints.base import Request, retried_classes
from raft_spark.errors import EndpointError
from raft_spark.inference import answer_store, batch_input, batch_jobs
from raft_spark.inference.admission import MIN_CHARS_PER_TOKEN, TEMPLATE_TOKENS, InFlightRequest
from raft_spark.inference.quota import UNLIMITED
from raft_spark.lake import dataframes, parquet, schemas, session, tables
from raft_spark.lake.filesystem import Storage
from raft_spark.lake.tasks import map_in_arrow, worker_errors
from raft_spark.monitoring import progress, run_state
from raft_spark.recipe import prompts

LOG = logging.getLogger(__name__)
ROWS_PER_FILE = 20_000
OUTCOMES_SCHEMA = pa.schema(  # error_class "" is an answer
    [("error_class", pa.string())] + [(name, pa.int64()) for name in ("rows", "prompt_tokens", "completion_tokens")]
)
BUDGET_SPENT = "another batch job might pass completions.max_spend"
Group = tuple[str, int, int]  # how its keys begin, how many they are, the characters of their questions and oracles


class BatchProgress:
    """The run as it goes: told by the thread that watches the jobs, read by those that show and store it."""

    def __init__(self, conf: config.Config, told: run_state.Run) -> None:
        self.run = run_state.start(told, 0)
        self.stop_reason = ""
        self.is_short = False  # of money: the last round left out what is missing
        self._retried = retried_classes(conf.completions)
        self._price = batch_price(conf.price)
        self._over = time.monotonic() + (conf.completions.max_minutes * 60 or UNLIMITED)
        self._said = ""

    def told(self) -> run_state.Run:
        """Return the run as it stands."""
        return self.run

    def stop(self, reason: str) -> None:
        """Let nothing more be submitted or waited for; the first reason stays."""
        self.stop_reason = self.stop_reason or reason

    def goes_on(self) -> bool:
        """Say whether jobs may still be waited for."""
        if time.monotonic() > self._over:
            self.stop("the time set by completions.max_minutes is over; jobs go on, and the next run collects them")
        return not self.stop_reason

    def begins(self, missing: int) -> None:
        """Begin a round: what failed before, and is to be asked again, counts as not asked."""
        failed = {name: count for name, count in self.run.failed.items() if name not in self._retried}
        done = self.run.answered + sum(failed.values())
        self.run = replace(self.run, failed=failed, total=done + missing, open=0)

    def looked(self, jobs: Sequence[batch_jobs.BatchJob]) -> None:
        """Take what the service says of the jobs; say it where it has changed."""
        going = [job for job in jobs if job.state == "submitted" and not job.ended]
        self.run = replace(self.run, updated_at=ids.now(), open=sum(job.records for job in going))
        known = Counter(job.status or job.state for job in jobs)
        said = ", ".join(f"{count} {status}" for status, count in sorted(known.items()))
        if said != self._said:
            LOG.info("batch jobs: %s", said, extra=logs.fields(jobs=dict(known)))
        self._said = said

    def collected(self, outcomes: Sequence[Row]) -> None:
        """Count what was stored."""
        rows = Counter({row.error_class: 0 for row in outcomes})
        for row in outcomes:
            rows[row.error_class] += row.rows
        answered, run = rows.pop("", 0), self.run
        tokens_in, tokens_out = (sum(row[name] for row in outcomes) for name in OUTCOMES_SCHEMA.names[2:])
        paid = self._price.dollars(tokens_in, tokens_out)
        self.run = replace(
            run,
            updated_at=ids.now(),
            answered=run.answered + answered,
            failed=dict(Counter(run.failed) + rows),
            calls=run.calls + answered + rows.total(),
            prompt_tokens=run.prompt_tokens + tokens_in,
            completion_tokens=run.completion_tokens + tokens_out,
            dollars=round(run.dollars + paid, 6),
        )
        self.run = replace(self.run, series=(*run.series, _point(self.run, run_state.elapsed(self.run, time.time()))))


def _point(run: run_state.Run, seconds: float) -> run_state.Point:
    tokens = run.prompt_tokens + run.completion_tokens
    return run_state.Point(
        round(seconds, 1), run.answered, sum(run.failed.values()), run.calls, 0, tokens, run.open, run.window
    )


def ask(
    spark: SparkSession, conf: config.Config, told: run_state.Run, missing: Callable[[], DataFrame]
) -> run_state.Run:
    """Ask in batch jobs until fewer than min_records are missing; return the run as it ended. `missing` looks up the
    requests that are to be asked now: key, pubid, question, oracle.

    Raises ConfigError, before anything starts, when the jobs could not read their input.
    """
    at, watch, trouble = batch_jobs.run_folder(conf, told.id), BatchProgress(conf, told), ""
    watched = conf.completions.batch
    said = f"batch jobs of {watched.min_records:,} to {watched.max_records:,} records, looked at every {watched.poll_seconds:g} s"
    with (
        worker_errors(),
        session.stop_on_signals(spark, watch.stop),
        run_state.store_periodically(conf.lake, watch.told),
        progress.show_run(watch.told, said),
    ):
        try:
            _rounds(spark, conf, at, watch, missing)
        except EndpointError as error:
            trouble = f"fails at batch jobs: {error}"
    ended = run_state.finish(watch.run, trouble, watch.stop_reason)
    run_state.write(conf.lake, ended)
    return ended


def _rounds(
    spark: SparkSession, conf: config.Config, at: Storage, watch: BatchProgress, missing: Callable[[], DataFrame]
) -> None:
    """Collect what is pending, then go round after round, at most `attempts`."""
    pending = batch_jobs.pending(conf.lake)
    watch.begins(sum(job.records for job in pending))
    _collect(spark, conf, pending, watch)
    for _ in range(conf.completions.attempts):
        if not watch.goes_on():
            return
        before = watch.run.answered
        jobs = _cut(missing(), conf, at, watch)
        ended = _collect(spark, conf, jobs, watch)
        if not jobs:
            return
        if len(ended) == len(jobs) and watch.run.answered == before:
            msg = f"none of their records was answered; the last job is {ended[-1].status} {ended[-1].message}".rstrip()
            raise EndpointError(msg)
    if watch.is_short:
        watch.stop(BUDGET_SPENT)


def _cut(missing: DataFrame, conf: config.Config, at: Storage, watch: BatchProgress) -> list[batch_jobs.BatchJob]:
    """Begin jobs for what is missing and can be paid; none when too little is left for a job."""
    missing = missing.persist()
    try:
        count = missing.count()
        watch.begins(count)
        if count < conf.completions.batch.min_records:
            return []
        chosen = missing.where(_is_payable(missing, conf, watch.run.dollars))
        paid = chosen.count() if conf.completions.max_spend else count
        watch.is_short = paid < count
        if watch.is_short:
            LOG.info("completions.max_spend pays for %s of %s records at their dearest", f"{paid:,}", f"{count:,}")
        if paid < conf.completions.batch.min_records:
            watch.stop(BUDGET_SPENT)
            return []
        return batch_jobs.register_jobs(conf, at, batch_input.write_input_files(chosen, conf, at, paid))
    finally:
        missing.unpersist()


def _is_payable(missing: DataFrame, conf: config.Config, spent: float) -> str:
    """Return, in SQL, which requests max_spend pays for at their dearest. A key is a hash: how it begins is as good as chance."""
    limit = conf.completions.max_spend
    if not limit:
        return "true"
    characters = F.sum(F.length("question") + F.length("oracle"))
    begin = F.substring("key", 1, 3).alias("begin")
    found = missing.groupBy(begin).agg(F.count("*"), characters).orderBy("begin").collect()  # 4,096 at most
    around = prompts.teacher_request("", "", conf.teacher.model, conf.completions)
    groups = [(row[0], row[1], row[2]) for row in found]
    beyond = first_unaffordable_group(limit - spent, groups, around, batch_price(conf.price))
    return f"key < '{beyond}'" if beyond else "true"


def first_unaffordable_group(dollars: float, groups: Sequence[Group], around: Request, price: config.Price) -> str:
    """Return the first group that `dollars` might not pay for, after those before it; "" when all are paid. `around` is a
    request without question and oracle.
    """
    for begin, count, characters in groups:
        prompt = (characters + count * around.characters) / MIN_CHARS_PER_TOKEN + count * TEMPLATE_TOKENS
        dollars -= price.dollars(prompt, count * around.max_tokens)
        if dollars < 0:
            return begin
    return ""


def batch_price(price: config.Price) -> config.Price:
    """Return what tokens cost in batch jobs, in place of what they cost on demand; the latter where nobody knows."""
    known = {"input_price": price.batch_input_price, "output_price": price.batch_output_price}
    return price.model_copy(update={name: dollars for name, dollars in known.items() if dollars is not None})


def _collect(
    spark: SparkSession, conf: config.Config, jobs: Sequence[batch_jobs.BatchJob], watch: BatchProgress
) -> list[batch_jobs.BatchJob]:
    """Watch jobs; store the answers of those that end, a task each; only then are they collected. Return those."""
    done: list[batch_jobs.BatchJob] = []
    for ended in batch_jobs.submit_and_poll(conf, jobs, watch.looked, watch.goes_on):
        pieces = [{"job": asdict(job), "rows": job.records} for job in ended]
        stored = map_in_arrow(
            dataframes.assign_tasks(spark, pieces, len(pieces)),
            partial(_stored, lake=conf.lake, run_id=watch.run.id, form=conf.log.format),
            OUTCOMES_SCHEMA,
        )
        watch.collected(stored.collect())  # some ten rows a job
        for job in ended:
            batch_jobs.mark_collected(conf.lake, job)
        done += ended
    return done


def _stored(
    batches: Iterator[pa.RecordBatch], lake: config.Lake, run_id: str, form: logs.LogFormat
) -> Iterator[pa.RecordBatch]:
    """Store all answers of each job; yield what they come to."""
    logs.configure(form, stage=schemas.COMPLETIONS, run_id=run_id)
    for _, pieces in parquet.by_task(batches):
        for job in (batch_jobs.BatchJob(**piece["job"]) for piece in pieces):
            ignored: Counter[str] = Counter()
            rows = (
                _row(answer, job, run_id) for answer in batch_jobs.replies(job, Storage.of(lake, job.folder), ignored)
            )
            for chunk in itertools.count():
                some = list(itertools.islice(rows, ROWS_PER_FILE))
                if not some:
                    break
                answer_store.write_answers(
                    tables.storage(lake, schemas.COMPLETIONS), job.day, f"{job.name}-c{chunk:05d}", some
                )
                yield _outcomes(some)
            if ignored:
                LOG.warning("output of job %s: %s lines are no answers", job.name, dict(ignored))


def _row(answer: batch_jobs.BatchAnswer, job: batch_jobs.BatchJob, run_id: str) -> dict[str, Any]:
    """Return a row as the stage stores it: the request is known by its names, and nobody knows how long it took."""
    key, named, reply = answer
    model = str(job.call["modelId"])
    asked = InFlightRequest(named.pubid, Request("", model, {"max_tokens": named.max_tokens}), attempts=1, reply=reply)
    own = {"key": key, "key_of_any_length": named.key_of_any_length, "latency_ms": None}
    return {**answer_store.answer_row(asked, model, run_id), **own}


def _outcomes(rows: Sequence[dict[str, Any]]) -> pa.RecordBatch:
    sums: dict[str, list[int]] = {}
    for row in rows:
        told = sums.setdefault(row["error_class"] or "", [0, 0, 0])
        for place, more in enumerate((1, row["prompt_tokens"] or 0, row["completion_tokens"] or 0)):
            told[place] += more
    return pa.RecordBatch.from_pylist(
        [dict(zip(OUTCOMES_SCHEMA.names, (name, *told), strict=True)) for name, told in sums.items()], OUTCOMES_SCHEMA
    )
