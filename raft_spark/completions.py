"""base -> completions: ask the teacher what was never answered, many requests in flight, and store answers as they come.

The table is an append-only store named by the request's key, beside its versions: a run that dies has lost at most
`flush_seconds` of answers, and the next one asks only what is missing. A version lists the store's files at the end of a
run, so that a dataset says exactly which answers it was made from.
"""

import contextlib
import datetime as dt
import itertools
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from raft_spark import config, endpoints, parts, progress, prompts, requests, schemas, session, tables, window
from raft_spark.errors import EndpointError
from raft_spark.files import Place

OUTCOME = pa.schema(
    [*schemas.FILES, ("answered", pa.int64()), ("failed", pa.int64()), ("error", pa.string()), ("refused", pa.bool_())]
)
_SCHEMA = schemas.SCHEMAS[schemas.COMPLETIONS]


@dataclass(frozen=True)
class Work:
    """What every task of a run gets. `in_flight` is this task's share of completions.in_flight."""

    conf: config.Completions
    endpoint: config.Endpoint
    in_flight: int
    at: Place
    run_id: str


def run(conf: config.Config) -> tables.Version:
    """Ask what the current base needs and nobody has answered; return the version that is current then.

    Raises EndpointError when the endpoint refuses the job, or more requests failed than max_failed_share allows: in both
    cases after every answer is stored.
    """
    base = tables.needed(conf.lake, schemas.BASE)
    identity = tables.identity(schemas.COMPLETIONS, requests.settings(conf), [base.id])
    previous = tables.current(conf.lake, schemas.COMPLETIONS)
    if previous and previous.identity == identity and not previous.counts["missing"]:
        return previous
    spark = session.start(conf)
    new = tables.draft(conf.lake, schemas.COMPLETIONS, identity)
    store = tables.place(conf.lake, schemas.COMPLETIONS)
    wanted = requests.build(tables.read(spark, conf.lake, base), conf).persist()
    missing = unanswered(wanted, tables.stored(spark, conf.lake)).persist()
    counts = {"requests": wanted.count(), "asked": missing.count()}
    outcomes = _ask(spark, missing, conf, store, new.id, counts["asked"]) if counts["asked"] else []
    counts |= {name: sum(row[name] for row in outcomes) for name in ("answered", "failed")}
    counts["missing"] = counts["asked"] - counts["answered"]
    wanted.unpersist()
    missing.unpersist()
    stored = f"{counts['answered']} answers are stored, and a rerun asks only the others"
    refused = next((row.error for row in outcomes if row.refused), None)
    if refused:
        msg = f"endpoint {conf.completions.endpoint!r} refuses: {refused}; {stored}"
        raise EndpointError(msg)
    known = [*(previous.files if previous else ()), *map(parts.as_file, outcomes)]
    version = tables.publish(new, conf, tables.appended(conf.lake, known), {schemas.BASE: base}, counts)
    if counts["failed"] > conf.completions.max_failed_share * counts["asked"]:
        msg = (
            f"{counts['failed']} of {counts['asked']} requests failed, more than completions.max_failed_share = "
            f"{conf.completions.max_failed_share}; {stored}. One reason: {next(row.error for row in outcomes if row.error)}"
        )
        raise EndpointError(msg)
    return version


def unanswered(wanted: DataFrame, stored: DataFrame) -> DataFrame:
    """Return the requests without a stored answer, identical ones once; Spark compares the keys, never the driver."""
    answered = stored.where("completion IS NOT NULL").select("key")
    return wanted.join(answered, "key", "left_anti").dropDuplicates(["key"])


def _ask(
    spark: SparkSession, missing: DataFrame, conf: config.Config, store: Place, run_id: str, count: int
) -> list[Any]:
    """Run the tasks that ask, a server of our own beside them where the endpoint needs one: a row a stored file."""
    slots = spark.sparkContext.defaultParallelism
    tasks = max(1, min(slots, conf.completions.in_flight, count))
    share = max(1, conf.completions.in_flight // tasks)
    with endpoints.serving(conf.teacher) as endpoint, session.translated():
        work = Work(conf.completions, endpoint, share, store, run_id)
        asked = missing.repartition(tasks).mapInArrow(partial(_ask_all, work=work), from_arrow_schema(OUTCOME))
        with progress.shown("asking", count, partial(answered_by, store, run_id)):
            return asked.collect()


def answered_by(store: Place, run_id: str) -> int:
    """Count what a run has stored so far, from the names of its files alone, so that any process can watch."""
    names = (file.path.rpartition("/")[2] for file in store.at("data").list())
    counts = (name.removesuffix(".parquet").split("-")[-2:] for name in names if name.startswith(run_id))
    return sum(int(answered) + int(failed) for answered, failed in counts)


def _ask_all(batches: Iterator[pa.RecordBatch], work: Work) -> Iterator[pa.RecordBatch]:
    """Ask all rows of one partition; yield a description of each stored file."""
    conf, model = work.conf, work.endpoint.model
    refused: list[str] = []
    rows = (row for batch in batches for row in batch.to_pylist())
    asking = ((row["pubid"], prompts.request(row["question"], row["oracle"], model, conf)) for row in rows)
    going = itertools.takewhile(lambda _: not refused, asking)
    limits = window.Limits(work.in_flight, conf.attempts, conf.deadline_seconds)
    waiting: list[dict[str, Any]] = []
    oldest = 0.0
    with contextlib.closing(endpoints.connect(work.endpoint, work.in_flight, conf.timeout_seconds)) as client:
        for asked in window.answers(going, client.ask, limits):
            if asked is not None:
                oldest = oldest if waiting else time.monotonic()
                waiting.append(_row(asked, work))
                refused += [str(asked.reply.error)] if asked.reply.error_class == "refused" else []
            if waiting and time.monotonic() - oldest >= conf.flush_seconds:
                yield _stored(waiting, work)
                waiting = []
        if waiting:
            yield _stored(waiting, work)


def _row(asked: window.Asked, work: Work) -> dict[str, Any]:
    reply = asked.reply
    return {
        "key": asked.request.key,
        "pubid": asked.pubid,
        "completion": reply.completion,
        "error_class": reply.error_class,
        "error": reply.error,
        "attempts": asked.attempts,
        "model": work.endpoint.model,
        "finish_reason": reply.finish_reason,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "latency_ms": round(asked.latency * 1000),
        "created_at": dt.datetime.now(dt.UTC),
        "run_id": work.run_id,
    }


def _stored(rows: list[dict[str, Any]], work: Work) -> pa.RecordBatch:
    """Store answers as one whole object under a unique name, which counts them for whoever watches; describe it."""
    answered = sum(row["completion"] is not None for row in rows)
    failed = len(rows) - answered
    day = rows[0]["created_at"].date().isoformat()
    path = f"data/day={day}/{work.run_id}-{uuid.uuid4().hex}-{answered}-{failed}.parquet"
    file = parts.write_file(work.at, path, pa.Table.from_pylist(rows, _SCHEMA))
    errors = [row for row in rows if row["error"]]
    refusals = [row for row in errors if row["error_class"] == "refused"]
    why = next((row["error"] for row in refusals + errors), None)
    described = parts.as_batch([file]).to_pylist()[0]
    outcome = {**described, "answered": answered, "failed": failed, "error": why, "refused": bool(refusals)}
    return pa.RecordBatch.from_pylist([outcome], OUTCOME)
