"""base -> completions: ask the teacher every question that has no stored answer yet, and store each answer as it arrives.

The answers live in one append-only store outside the table's versions, each under the key of its request. A run that
crashes loses at most `completions.flush_seconds` of answers, and the next run asks only what is missing. A version lists
the files that the store held at the end of a run, so that a dataset names exactly the answers it was made from.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from raft_spark import config
from raft_spark.common import ids, wording
from raft_spark.endpoints import answer_text
from raft_spark.endpoints.base import retried_classes
from raft_spark.errors import EndpointError, InputError, StoppedError
from raft_spark.inference import acceptance, batch, batch_jobs, compaction, realtime, remedies, requests, unstored
from raft_spark.lake import dataframes, lease, schemas, session, tables
from raft_spark.monitoring import run_state, spark_stats

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AskResult:
    """What is known about the requests of a base table, and what this run did about them.

    `rows` rows of base need `distinct` requests. `known` of those had an answer before the run. `first_asked` are the
    requests at the first temperature; `run.total` includes the further temperatures. `dead` counts, by error class, the
    requests that failed for good in earlier runs.
    """

    run: run_state.Run
    rows: int
    distinct: int
    known: int
    first_asked: int
    dead: Counter[str]


def run(conf: config.Config) -> tables.Version:
    """Ask what the current base needs and the store lacks; return the current version.

    Raises ConfigError when `completions.max_spend` is set and nobody knows the teacher's price.
    Raises EndpointError when the endpoint refuses the job or stops answering, or when more requests failed than
    `completions.max_failed_share` allows. Raises StoppedError when a signal, a limit or another run that asks ended the
    run early. In each case all answers that arrived are stored.
    """
    conf.check_max_spend()
    base = tables.require(conf.lake, schemas.BASE)
    complete = complete_version(conf, base)
    if complete is not None:
        _require_an_answer(complete.counts)
        return complete
    with lease.hold(conf.lake, schemas.COMPLETIONS) as held:
        return _run(conf, held)


def _run(conf: config.Config, held: lease.Lease) -> tables.Version:
    base = tables.require(conf.lake, schemas.BASE)
    complete = complete_version(conf, base)  # another run may have asked while this one waited
    if complete is not None:
        _require_an_answer(complete.counts)
        return complete
    _refuse_to_pay_twice(conf)
    unstored.restore(tables.storage(conf.lake, schemas.COMPLETIONS))
    spark = session.start(conf, "completions: look up answers")
    last_stage = spark_stats.last_stage(spark)
    draft = tables.open_draft(conf.lake, schemas.COMPLETIONS, _identity(conf, base))
    result = _ask(held, spark, conf, base, _new_run(draft.id, conf))
    held.require()
    if result.run.tasks or result.run.calls:
        run_state.write(conf.lake, replace(result.run, spark=spark_stats.measure(spark, last_stage)))
    if result.run.state == "failed":
        raise EndpointError(remedies.failure(conf, result.run))
    return _publish(spark, conf, draft, base, result)


def complete_version(conf: config.Config, base: tables.Version) -> tables.Version | None:
    """Return the current version if it leaves nothing to ask for this base, else None. Starts no Spark session."""
    version = tables.current(conf.lake, schemas.COMPLETIONS)
    if version is None or version.identity != _identity(conf, base) or _to_ask(version.counts, conf.completions):
        return None
    return version if version.counts.get("whole", True) or not conf.completions.retry_temperatures else None


def _identity(conf: config.Config, base: tables.Version) -> str:
    settings = {**requests.request_settings(conf), "answer": conf.dataset.answer}
    if conf.completions.retry_temperatures:
        settings |= {"judged": conf.dataset.model_dump(include=acceptance.JUDGING_SETTINGS)}
    return tables.identity(schemas.COMPLETIONS, settings, [base.id])


def _to_ask(counts: Mapping[str, Any], conf: config.Completions) -> int:
    """Return how many requests the next run would ask, from the counts of a version."""
    retried = (int(count) for name, count in counts["dead"].items() if name in retried_classes(conf))
    return int(counts["missing"]) + sum(retried)


def _refuse_to_pay_twice(conf: config.Config) -> None:
    """Raise InputError if batch jobs of the same model are pending and this run would ask in another way."""
    can_collect, others = batch_jobs.split_pending(conf)
    jobs = [job for job in [*others, *can_collect] if job.model == conf.teacher.model]
    if jobs and (conf.completions.mode == "realtime" or jobs[0] in others):
        msg = (
            f"{len(jobs)} batch jobs of {conf.teacher.model} at {jobs[0].service} are not collected yet "
            f"({', '.join(job.name for job in jobs[:3])}), and their answers are paid for; collect them first, with their "
            "endpoint as completions.endpoint: --set completions.mode=batch"
        )
        raise InputError(msg)


def _new_run(run_id: str, conf: config.Config) -> run_state.Run:
    now, model = ids.now(), conf.teacher.model
    return run_state.Run(run_id, conf.completions.endpoint, model, now, now, total=0, state="finished")


def _ask(
    held: lease.Lease, spark: SparkSession, conf: config.Config, base: tables.Version, run: run_state.Run
) -> AskResult:
    """Ask all missing requests of the rows of base: in batch jobs if so set, then in real time, then at further temperatures."""
    keyed = requests.keyed_requests(spark, conf, base)
    if conf.completions.mode == "batch":
        run = batch.ask(held, spark, conf, run, lambda: _missing_requests(distinct_requests(keyed, conf), conf, base))
    looked_up = distinct_requests(keyed, conf).persist(StorageLevel.DISK_ONLY)
    result = _plan(looked_up, conf.completions, run)
    if _is_asked_in_real_time(result.run, conf):
        # of the failures of batch jobs, only the permanent ones count: the others are asked again here
        begun = replace(result.run, failed=_permanent_failures(result.run, conf.completions))
        missing = _missing_requests(looked_up, conf, base)
        result = replace(result, run=_ask_in_real_time(held, missing, conf, begun))
    looked_up.unpersist()
    return _ask_again(held, spark, conf, base, result)


def distinct_requests(keyed: DataFrame, conf: config.Config) -> DataFrame:
    """Return each distinct request of the articles once, by its key and the first article that needs it; lazy.

    Its columns say how many `rows` need it, whether it `is_answered`, and the class of its `last_error`. There are none if
    the dataset takes the articles' own answers.
    """
    needed = keyed.where(str(conf.dataset.answer == "completion"))
    placed = needed.repartition("key_of_any_length")  # as the join needs them, so that the rows move once
    distinct = placed.groupBy("key", "key_of_any_length").agg(F.min("pubid").alias("pubid"), F.count("*").alias("rows"))
    stored = dataframes.stored_answers(keyed.sparkSession, conf.lake)
    marked = requests.mark_answered(distinct, stored, conf.completions)
    return marked.select("key", "pubid", "rows", "is_answered", "last_error")


def _missing_requests(looked_up: DataFrame, conf: config.Config, base: tables.Version) -> DataFrame:
    """Return the requests to ask now, with what `requests.build_request` needs; lazy."""
    missing = looked_up.where(requests.is_missing(conf.completions)).select("key", "pubid")
    return requests.with_texts(missing, conf, base)


def _plan(looked_up: DataFrame, conf: config.Completions, run: run_state.Run) -> AskResult:
    """Count the requests by what the store knows about them; about ten rows reach the driver.

    What the batch jobs of this run have already answered or failed counts as asked.
    """
    groups = looked_up.groupBy("is_answered", "last_error").agg(
        F.count("*").alias("requests"), F.sum("rows").alias("rows")
    )
    counted = groups.collect()
    dead = _dead_letters({row.last_error: row.requests for row in counted if not row.is_answered}, conf)
    distinct = sum(row.requests for row in counted)
    answered = sum(row.requests for row in counted if row.is_answered)
    failed = _permanent_failures(run, conf)
    known = max(0, answered - run.answered)
    asked = distinct - answered - dead.total() + run.answered + failed.total()
    return AskResult(
        run=replace(run, total=asked, known=known),
        rows=sum(row.rows for row in counted),
        distinct=distinct,
        known=known,
        first_asked=asked,
        dead=dead - failed,
    )


def _is_asked_in_real_time(run: run_state.Run, conf: config.Config) -> bool:
    """Say whether requests are left to ask in real time. In batch mode these are the ones too few for another batch job."""
    left = _missing(run, conf.completions)
    is_small = left < conf.batch_limits.min_records
    return run.state == "finished" and left > 0 and (conf.completions.mode == "realtime" or is_small)


def _ask_in_real_time(held: lease.Lease, missing: DataFrame, conf: config.Config, run: run_state.Run) -> run_state.Run:
    build_request = partial(requests.build_request, conf=conf.teacher_requests, model=conf.teacher.model)
    return realtime.ask(held, missing, conf, run, build_request)


def _ask_again(
    held: lease.Lease, spark: SparkSession, conf: config.Config, base: tables.Version, result: AskResult
) -> AskResult:
    """Ask again, at each further temperature, where the dataset rejects every answer so far. This is always in real time."""
    for count, settings in enumerate(acceptance.attempt_settings(conf)[1:], 1):
        if result.run.state != "finished":
            break
        rejected = acceptance.rejected_articles(base, dataframes.stored_answers(spark, conf.lake), conf, count)
        keyed = requests.keyed_requests(spark, settings, base).join(rejected, "pubid", "left_semi")
        looked_up = distinct_requests(keyed, settings).persist(StorageLevel.DISK_ONLY)
        unanswered = looked_up.where("NOT is_answered").groupBy("last_error").count().collect()
        by_class = {row.last_error: row["count"] for row in unanswered}
        dead = _dead_letters(by_class, conf.completions)
        result = replace(result, dead=result.dead + dead)
        missing = sum(by_class.values()) - dead.total()
        if missing:
            begun = replace(result.run, total=result.run.total + missing)
            ended = _ask_in_real_time(held, _missing_requests(looked_up, settings, base), settings, begun)
            result = replace(result, run=ended)
        looked_up.unpersist()
    return result


def _publish(
    spark: SparkSession, conf: config.Config, draft: tables.Draft, base: tables.Version, result: AskResult
) -> tables.Version:
    """Publish the stored answers as a version. Raises StoppedError or EndpointError, as `run` does, after that."""
    run, from_store, error = _compare_with_store(spark, conf, result.run)
    if unsure := from_store["without_finish_reason"]:
        LOG.warning("%d answers came without a finish_reason: the endpoint does not say whether they are whole", unsure)
    counts = {**_counts(replace(result, run=run), conf.completions), **from_store, **_bill(run, conf)}
    version = compaction.publish(spark, draft, conf, {schemas.BASE: base}, counts)
    if run.state == "stopped":
        msg = f"{run.reason}; {remedies.stored(run)}"
        raise StoppedError(msg)
    if counts["failed"] > conf.completions.max_failed_share * counts["asked"]:
        msg = (
            f"{counts['failed']} of {counts['asked']} requests failed ({run.failures}), more than "
            f"completions.max_failed_share = {conf.completions.max_failed_share}; {remedies.stored(run)}. One reason: {error}"
            f"{_asked_again_by(_permanent_failures(run, conf.completions))}"
        )
        raise EndpointError(msg)
    _require_an_answer(counts)
    return version


def _require_an_answer(counts: Mapping[str, Any]) -> None:
    """Raise EndpointError if every request of a version has failed for good, so that no run would ask one again."""
    dead = Counter({name: int(count) for name, count in counts["dead"].items()})
    if dead and not (counts["known"] or counts["answered"] or counts["missing"]):
        reason = f"all {dead.total()} requests failed for good ({wording.counts(dead)}) and none is answered"
        msg = f"{reason}{_asked_again_by(dead)}"
        raise EndpointError(msg)


def _asked_again_by(dead: Mapping[str, int]) -> str:
    """Return the end of a message: how to ask again for requests that failed for good."""
    return (
        f". When the reason is mended, ask them again: --set completions.retry={','.join(sorted(dead))}" if dead else ""
    )


def _compare_with_store(
    spark: SparkSession, conf: config.Config, run: run_state.Run
) -> tuple[run_state.Run, dict[str, Any], str | None]:
    """Return the run corrected by the store, counts that only the store knows, and the message of one failure.

    The store also has the answers of a machine that was lost before it could report them. The counts say how many answers
    were `paid_twice`, from how many texts something was `removed`, by what it was: see answer_text, and how many answers
    came `without_finish_reason`, so that nobody knows whether they are whole.
    """
    if not run.done:
        return run, {"paid_twice": 0, "removed": {}, "without_finish_reason": 0}, None
    of_run = dataframes.stored_answers(spark, conf.lake).where(F.col("run_id") == run.id)
    answered = F.when(F.col("completion").isNotNull(), F.col("key"))
    kinds = (F.count_if(F.col("removed").contains(kind)) for kind in answer_text.REMOVED)
    unsure = F.count_if(F.col("completion").isNotNull() & F.col("finish_reason").isNull())
    found = of_run.agg(F.count(answered), F.countDistinct(answered), F.max("error"), unsure, *kinds).collect()[0]
    stored, distinct, error, without_finish_reason, *numbers = found
    removed = {kind: count for kind, count in zip(answer_text.REMOVED, numbers, strict=True) if count}
    paid_twice = stored - distinct
    corrected = replace(run, answered=max(run.answered - paid_twice, distinct))
    counts = {"paid_twice": paid_twice, "removed": removed, "without_finish_reason": without_finish_reason}
    return corrected, counts, error


def _counts(result: AskResult, conf: config.Completions) -> dict[str, Any]:
    """Return the counts of the version. A request that failed for good is a dead letter; any other without answer is missing."""
    run, failed = result.run, Counter(result.run.failed)
    return {
        "requests": result.rows,
        "distinct": result.distinct,
        "known": result.known,
        "asked": run.total,
        "asked_again": run.total - result.first_asked,
        "whole": run.state == "finished",
        "answered": run.answered,
        "failed": failed.total(),
        "failed_by_class": dict(failed),
        "dead": dict(result.dead + _permanent_failures(run, conf)),
        "missing": _missing(run, conf),
        "calls": run.calls,
        "throttled": run.throttled,
    }


def _bill(run: run_state.Run, conf: config.Config) -> dict[str, Any]:
    """Return tokens and dollars of this run, as `Run` describes them; None is not known."""
    not_counted = {"prompt": run.prompts_not_counted, "completion": run.completions_not_counted}
    tokens = {"prompt": run.prompt_tokens, "completion": run.completion_tokens}
    return {
        "tokens": run_state.known_tokens(tokens, not_counted),
        "not_counted": not_counted,
        "possibly_billed": run.possibly_billed,
        "dollars": run.dollars if conf.is_price_known else None,
        "possible_dollars": run.possible_dollars if conf.is_price_known else None,
    }


def _missing(run: run_state.Run, conf: config.Completions) -> int:
    """Return how many requests this run was to ask and the next run would ask again."""
    return run.total - run.answered - _permanent_failures(run, conf).total()


def _permanent_failures(run: run_state.Run, conf: config.Completions) -> Counter[str]:
    """Return the failures of this run that are not asked again, by error class."""
    return _dead_letters(run.failed, conf)


def _dead_letters(failed: Mapping[Any, int], conf: config.Completions) -> Counter[str]:
    """Return the failures that are not asked again, by error class. The class None, never asked, is not a failure."""
    return Counter({name: count for name, count in failed.items() if name and name not in retried_classes(conf)})
