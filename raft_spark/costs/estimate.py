"""Estimate what the completions stage would cost, from stored answers or from a few requests that are sent now.

The answers to these requests are stored like those of the stage, which therefore does not pay for them again.
"""

import datetime as dt
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812 - Spark's own name

from raft_spark import config, endpoints
from raft_spark.common import ids
from raft_spark.costs import arithmetic
from raft_spark.endpoints.base import Client, Reply, Request
from raft_spark.errors import EndpointError
from raft_spark.inference import answer_store, requests
from raft_spark.inference.admission import InFlightRequest
from raft_spark.lake import dataframes, lease, schemas, session, tables
from raft_spark.lake.tasks import worker_errors
from raft_spark.recipe import prompts
from raft_spark.stages import completions

ENOUGH_ANSWERS = 30  # stored answers, from which no request is sent
MAX_ANSWERS = 500  # stored answers that reach the driver
USAGE = ("prompt_tokens", "completion_tokens", "latency_ms")
HAS_USAGE = "completion IS NOT NULL AND prompt_tokens > 0 AND completion_tokens > 0 AND latency_ms IS NOT NULL"
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SampleCall:
    """A request that was sent for this estimate, and its reply."""

    pubid: int
    characters: int
    request: Request
    reply: Reply
    seconds: float

    def usage(self) -> arithmetic.AnsweredRequest:
        """Return its usage; 0 tokens if the server does not count them."""
        tokens = (self.reply.prompt_tokens or 0, self.reply.completion_tokens or 0)
        return arithmetic.AnsweredRequest(self.characters, *tokens, self.seconds)


def run(conf: config.Config, ask: int) -> arithmetic.Estimate:
    """Estimate the cost of the requests of the current base that have no answer.

    If fewer than `ask` answers are stored, and fewer than ENOUGH_ANSWERS, requests are sent until there are `ask`.
    Raises EndpointError if requests were sent and none was answered, StoppedError if a run asks at the same time, and
    InputError if the answers cannot be stored. An asynchronous endpoint gets no request, since it takes none in real time.
    """
    ask = 0 if conf.is_asynchronous else ask
    base = tables.require(conf.lake, schemas.BASE)
    finished = completions.complete_version(conf, base)
    if finished is not None:
        return arithmetic.estimate(conf, arithmetic.Remaining(finished.counts["requests"], 0, 0), [])
    remaining, answered, rows = _look_up(conf, base, ask)
    if not rows:
        return arithmetic.estimate(conf, remaining, answered)
    with lease.hold(conf.lake, schemas.COMPLETIONS):
        remaining, answered, rows = _look_up(conf, base, ask)  # a run may have asked until now
        calls = _ask(conf, rows) if rows else []
    characters = remaining.characters - sum(call.characters for call in calls)
    remaining = arithmetic.Remaining(remaining.requests, remaining.rows - len(calls), characters)
    usage = [call.usage() for call in calls if call.reply.prompt_tokens and call.reply.completion_tokens]
    return arithmetic.estimate(conf, remaining, [*answered, *usage], len(calls))


def _look_up(
    conf: config.Config, base: tables.Version, ask: int
) -> tuple[arithmetic.Remaining, list[arithmetic.AnsweredRequest], list[Row]]:
    """Return the requests that remain, at most MAX_ANSWERS answers to the others, and the rows to ask.

    These are the first rows by key, so that there are `ask` answers. A key is a hash, so this is a random sample.
    """
    spark = session.start(conf, "estimate")
    with worker_errors():
        looked_up = completions.distinct_requests(requests.keyed_requests(spark, conf, base), conf).persist()
        missing = looked_up.where(requests.is_missing(conf.completions))
        sums = F.count("*"), F.coalesce(F.sum("characters"), F.lit(0))
        rows, total = _with_texts(missing, conf, base).agg(*sums).first() or (0, 0)
        usage = dataframes.stored_answers(spark, conf.lake).where(HAS_USAGE).select("key", *USAGE)
        answered = [
            arithmetic.AnsweredRequest(row.characters, row.prompt_tokens, row.completion_tokens, row.latency_ms / 1000)
            for row in _with_texts(_first(looked_up.join(usage, "key"), MAX_ANSWERS), conf, base).collect()
        ]
        first_missing: list[Row] = [row.asDict() for row in _with_texts(_first(missing, ask), conf, base).collect()]
        remaining = arithmetic.Remaining(looked_up.count(), rows, total)
    looked_up.unpersist()
    count = 0 if len(answered) >= ENOUGH_ANSWERS else max(0, ask - len(answered))
    return remaining, answered, first_missing[:count]


def _first(rows: DataFrame, count: int) -> DataFrame:
    """Return the first rows by key, at most `count`, each key once; lazy."""
    return rows.dropDuplicates(["key"]).orderBy("key").limit(count)


def _with_texts(rows: DataFrame, conf: config.Config, base: tables.Version) -> DataFrame:
    """Add question, oracle and the `characters` of the request: those of both and of the prompt's template; by key, lazy."""
    template = prompts.teacher_request("", "", conf.teacher.model, conf.teacher_requests)
    characters = (requests.prompt_characters(conf.completions) + template.characters).cast("bigint")
    return requests.with_texts(rows, conf, base).withColumn("characters", characters).orderBy("key")


def _ask(conf: config.Config, rows: Sequence[Row]) -> list[SampleCall]:
    """Send one request a row, without retries; store and return the answered ones. The stage sends the others."""
    threads = min(len(rows), conf.completions.in_flight)
    with (
        endpoints.serving(conf.teacher) as endpoint,
        closing(endpoints.connect(endpoint, threads, conf.completions.timeout_seconds)) as client,
        ThreadPoolExecutor(threads) as pool,
    ):
        calls = list(pool.map(partial(_call, conf=conf, client=client), rows))
    answered = [call for call in calls if call.reply.completion is not None]
    if not answered:
        first = calls[0].reply
        reason = f"({first.error_class}): {first.error}"
        msg = f"endpoint {conf.completions.endpoint!r} answered none of {len(rows)} requests {reason}"
        raise EndpointError(msg)
    _store(conf, answered)
    return answered


def _call(row: Row, conf: config.Config, client: Client) -> SampleCall:
    request = prompts.teacher_request(row["question"], row["oracle"], conf.teacher.model, conf.teacher_requests)
    begin = time.monotonic()
    reply = client.ask(request)
    return SampleCall(row["pubid"], row["characters"], request, reply, time.monotonic() - begin)


def _store(conf: config.Config, calls: Sequence[SampleCall]) -> None:
    """Write answers as one file of the answer store, named like those of a run."""
    run_id = ids.new_id("estimate")
    rows = [
        answer_store.answer_row(
            InFlightRequest(call.pubid, call.request, attempts=1, latency=call.seconds, reply=call.reply),
            call.request.model,
            run_id,
        )
        for call in calls
    ]
    storage = tables.storage(conf.lake, schemas.COMPLETIONS)
    day = dt.datetime.now(dt.UTC).date().isoformat()
    with answer_store.store_errors(storage):
        answer_store.write_answers(storage, day, f"{run_id}-{uuid.uuid4().hex}", rows)
