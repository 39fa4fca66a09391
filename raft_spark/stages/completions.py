"""base -> completions: ask the teacher what was never answered, many requests in flight, and store answers as they come.

The table is an append-only store named by the request's key, beside its versions: a run that dies has lost at most
`flush_seconds` of answers, and the next one asks only what is missing. A version lists the store's files at the end of a
run, so that a dataset says exactly which answers it was made from.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from raft_spark import config
from raft_spark.common import ids
from raft_spark.endpoints.base import retried_classes
from raft_spark.errors import EndpointError, InputError, StoppedError
from raft_spark.inference import acceptance, batch, batch_jobs, compaction, realtime, requests
from raft_spark.lake import dataframes, schemas, session, tables
from raft_spark.monitoring import run_state, spark_stats


def run(conf: config.Config) -> tables.Version:
    """Ask what the current base needs and nobody has answered; return the version that is current then.

    Raises EndpointError when the endpoint refuses the job or is dead, or more requests failed than max_failed_share allows,
    and StoppedError when a signal or a limit ended the run early: in each case after every answer is stored.
    """
    base = tables.require(conf.lake, schemas.BASE)
    done = finished(conf, base)
    if done is not None:
        return done
    _refuse_to_pay_twice(conf)
    spark = session.start(conf, "completions: look up answers")
    before = spark_stats.last_stage(spark)
    new = tables.open_draft(conf.lake, schemas.COMPLETIONS, _identity(conf, base))
    told = _told(new.id, conf)
    rows = dataframes.read(spark, conf.lake, base)
    if conf.completions.mode == "batch":
        told = batch.ask(spark, conf, told, lambda: looked_up(spark, conf, rows).where(is_asked(conf.completions)))
    known = looked_up(spark, conf, rows).persist(StorageLevel.DISK_ONLY)  # a million texts would fill the JVM's heap
    told, counts, dead = _counted(known, conf.completions, told)
    if _asks(told, conf.completions):
        own = replace(told, failed=_for_good(told, conf.completions))  # of batch jobs; what may pass is asked now
        told = _ask(spark, known.where(is_asked(conf.completions)), conf, own)
    known.unpersist()
    told, dead = _ask_again(spark, conf, rows, told, dead)
    counts |= {"asked": told.total, "asked_again": told.total - counts["asked"], "whole": told.state == "finished"}
    if told.tasks or told.calls:
        run_state.write(conf.lake, replace(told, spark=spark_stats.measure(spark, before)))
    if told.state == "failed":
        msg = f"endpoint {conf.completions.endpoint!r} {told.reason}; {_stored(told)}"
        raise EndpointError(msg)
    told, paid_twice, failure = _looked_back(spark, conf, told)
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


def _ask(spark: SparkSession, missing: DataFrame, conf: config.Config, told: run_state.Run) -> run_state.Run:
    worded = partial(requests.build_request, conf=conf.completions, model=conf.teacher.model)
    return realtime.ask(spark, missing, conf, told, worded)


def _ask_again(
    spark: SparkSession, conf: config.Config, rows: DataFrame, told: run_state.Run, dead: Counter[str]
) -> tuple[run_state.Run, Counter[str]]:
    """Ask once more, at each further temperature, where every answer so far is one that the dataset rejects; in real time.
    Return the run and the dead letters, with those that other runs met there.
    """
    for count, again in enumerate(acceptance.attempt_settings(conf)[1:], 1):
        if told.state != "finished":
            break
        left = acceptance.rejected_rows(rows, dataframes.stored_answers(spark, conf.lake), conf, count)
        known = looked_up(spark, again, left).persist(StorageLevel.DISK_ONLY)
        groups = {
            row.last_error: row["count"]
            for row in known.where("NOT is_answered").groupBy("last_error").count().collect()
        }
        dead = dead + _dead(groups, conf.completions)
        asked = sum(groups.values()) - _dead(groups, conf.completions).total()
        if asked:
            told = _ask(spark, known.where(is_asked(conf.completions)), again, replace(told, total=told.total + asked))
        known.unpersist()
    return told, dead


def finished(conf: config.Config, base: tables.Version) -> tables.Version | None:
    """Return the current version where it leaves nothing to ask of this base; starts no Spark."""
    found = tables.current(conf.lake, schemas.COMPLETIONS)
    if found is None or found.identity != _identity(conf, base) or _to_ask(found.counts, conf.completions):
        return None
    return found if found.counts.get("whole", True) or not conf.completions.asked_again_at else None


def _identity(conf: config.Config, base: tables.Version) -> str:
    settings = {**requests.request_settings(conf), "answer": conf.dataset.answer}
    if conf.completions.asked_again_at:
        settings |= {"judged": conf.dataset.model_dump(include=acceptance.SETTINGS)}
    return tables.identity(schemas.COMPLETIONS, settings, [base.id])


def _refuse_to_pay_twice(conf: config.Config) -> None:
    """Raise InputError where batch jobs of the same model are on their way, and this run would ask in real time."""
    jobs = [job.name for job in batch_jobs.pending(conf.lake) if job.call["modelId"] == conf.teacher.model]
    if jobs and conf.completions.mode == "realtime":
        msg = (
            f"{len(jobs)} batch jobs of {conf.teacher.model} are on their way ({', '.join(jobs[:3])}), and their answers are "
            "paid for; collect them first: --set completions.mode=batch"
        )
        raise InputError(msg)


def looked_up(spark: SparkSession, conf: config.Config, rows: DataFrame) -> DataFrame:
    """Return each distinct request of rows of base once, with how many `rows` need it, whether it `is_answered`, and the class of
    its `last_error`; none where the dataset takes the articles' own answers.
    """
    wanted = requests.keyed_requests(rows, conf).where(str(conf.dataset.answer == "completion"))
    first = F.min_by(F.struct("key_of_any_length", "pubid", "question", "oracle"), "pubid").alias("first")
    distinct = wanted.groupBy("key").agg(first, F.count("*").alias("rows")).select("key", "first.*", "rows")
    found = requests.look_up(distinct, dataframes.stored_answers(spark, conf.lake), conf.completions)
    return found.select(
        "key", "pubid", "question", "oracle", "rows", F.col("answer").isNotNull().alias("is_answered"), "last_error"
    )


def is_asked(conf: config.Completions) -> Column:
    """Leave out what is answered, and what failed for good."""
    return ~F.col("is_answered") & requests.is_retryable(conf)


def _asks(told: run_state.Run, conf: config.Completions) -> bool:
    """Say whether anything is left to ask in real time; of batch jobs, a rest that is too small for one."""
    left = _missing(told, conf)
    return told.state == "finished" and left > 0 and (conf.mode == "realtime" or left < conf.batch.min_records)


def _counted(
    known: DataFrame, conf: config.Completions, told: run_state.Run
) -> tuple[run_state.Run, dict[str, Any], Counter[str]]:
    """Count rows by what is known of their requests, some ten rows; return the run that has this to ask, the counts, and
    the dead letters of other runs by class. What the run has brought already, in batch jobs, it counts as asked.
    """
    groups = known.groupBy("is_answered", "last_error").agg(F.count("*").alias("requests"), F.sum("rows").alias("rows"))
    found = groups.collect()
    dead = _dead({row.last_error: row.requests for row in found if not row.is_answered}, conf)
    answered = sum(row.requests for row in found if row.is_answered)
    left = sum(row.requests for row in found) - answered - dead.total()
    own = _for_good(told, conf)
    counts = {
        "requests": sum(row.rows for row in found),
        "distinct": sum(row.requests for row in found),
        "known": max(0, answered - told.answered),
        "asked": left + told.answered + own.total(),
    }
    return replace(told, total=counts["asked"], known=counts["known"]), counts, dead - own


def _dead(failed: Mapping[Any, int], conf: config.Completions) -> Counter[str]:
    """Return what is not asked again, by class; None is what was never asked."""
    return Counter({name: count for name, count in failed.items() if name and name not in retried_classes(conf)})


def _to_ask(counts: Mapping[str, Any], conf: config.Completions) -> int:
    """Return how many requests the next run would ask, by a version's counts."""
    named = (int(count) for name, count in counts["dead"].items() if name in retried_classes(conf))
    return int(counts["missing"]) + sum(named)


def _told(run_id: str, conf: config.Config) -> run_state.Run:
    now, model = ids.now(), conf.teacher.model
    return run_state.Run(run_id, conf.completions.endpoint, model, now, now, total=0, state="finished")


def _for_good(told: run_state.Run, conf: config.Completions) -> Counter[str]:
    """Return what failed in this run and is not asked again, by class."""
    return _dead(told.failed, conf)


def _missing(told: run_state.Run, conf: config.Completions) -> int:
    """Return what the run was to ask and the next one would ask."""
    return told.total - told.answered - _for_good(told, conf).total()


def _sums(told: run_state.Run, dead: Counter[str], conf: config.Completions) -> dict[str, Any]:
    """Return what a run adds to the counts: rows that failed for good are dead letters, all others are missing."""
    failed = Counter(told.failed)
    return {
        "answered": told.answered,
        "failed": failed.total(),
        "failed_by_class": dict(failed),
        "dead": dict(dead + _for_good(told, conf)),
        "missing": _missing(told, conf),
        "calls": told.calls,
        "throttled": told.throttled,
        "tokens": {"prompt": told.prompt_tokens, "completion": told.completion_tokens},
        "dollars": told.dollars,
    }


def _looked_back(
    spark: SparkSession, conf: config.Config, told: run_state.Run
) -> tuple[run_state.Run, int, str | None]:
    """Count the answers of this run beyond the first to the same request, and find one reason of a failure; return the run
    with all it has stored, also what a lost machine had no time to tell.
    """
    if not told.done:
        return told, 0, None
    own = dataframes.stored_answers(spark, conf.lake).where(F.col("run_id") == told.id)
    answered = F.when(F.col("completion").isNotNull(), F.col("key"))
    stored, distinct, failure = own.agg(F.count(answered), F.countDistinct(answered), F.max("error")).collect()[0]
    paid_twice = stored - distinct
    return replace(told, answered=max(told.answered - paid_twice, distinct)), paid_twice, failure


def _stored(told: run_state.Run) -> str:
    return f"{told.answered} answers are stored, and a rerun asks only the others"
