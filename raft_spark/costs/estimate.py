"""base -> what the completions stage would cost: counted in Spark, from stored answers, else from a few that are asked now.

What is asked here is stored as the stage stores it, so that the stage does not ask, and nobody pays, twice.
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

from pyspark.sql import Column
from pyspark.sql import functions as F  # noqa: N812 - Spark's own name

from raft_spark import config, endpoints
from raft_spark.common import ids
from raft_spark.costs import arithmetic
from raft_spark.endpoints.base import Client, Reply, Request
from raft_spark.errors import EndpointError
from raft_spark.inference import answer_store
from raft_spark.inference.admission import InFlightRequest
from raft_spark.lake import dataframes, schemas, session, tables
from raft_spark.recipe import prompts
from raft_spark.stages import completions

ENOUGH_ANSWERS = 30  # stored answers that tell without asking
MAX_ANSWERS = 500  # answers, at most, that reach the driver
USAGE = ("prompt_tokens", "completion_tokens", "latency_ms")
HAS_USAGE = " AND ".join(f"{name} IS NOT NULL" for name in ("completion", *USAGE))
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SampleCall:
    """One request that was asked now, and what came back."""

    pubid: int
    characters: int
    request: Request
    reply: Reply
    seconds: float

    def answered(self) -> arithmetic.AnsweredRequest:
        """Return what it took; a server that counts no tokens took none."""
        told = self.reply
        return arithmetic.AnsweredRequest(
            self.characters, told.prompt_tokens or 0, told.completion_tokens or 0, self.seconds
        )


def run(conf: config.Config, ask: int) -> arithmetic.Estimate:
    """Say what the current base would cost; ask until `ask` answers are stored, where there are fewer. ENOUGH need no more.

    Raises EndpointError when requests were asked and none was answered.
    """
    base = tables.require(conf.lake, schemas.BASE)
    done = completions.complete_version(conf, base)
    if done is not None:
        return arithmetic.estimate(conf, arithmetic.Remaining(done.counts["requests"], 0, 0), [])
    left, seen, following = _look(conf, base, ask)
    more = following[: max(0, ask - len(seen))]
    if not more or len(seen) >= ENOUGH_ANSWERS:
        return arithmetic.estimate(conf, left, seen)
    asked = _ask(conf, more)
    rest = arithmetic.Remaining(
        left.requests, left.rows - len(asked), left.characters - sum(one.characters for one in asked)
    )
    told = [one.answered() for one in asked if one.reply.prompt_tokens and one.reply.completion_tokens]
    return arithmetic.estimate(conf, rest, [*seen, *told], len(asked))


def _look(
    conf: config.Config, base: tables.Version, ask: int
) -> tuple[arithmetic.Remaining, list[arithmetic.AnsweredRequest], list[Row]]:
    """Return what is to ask, at most SAMPLE answers of the same requests and settings, and the first rows to ask. A key is a
    hash, so that its order is as good as chance.
    """
    spark = session.start(conf, "estimate")
    characters = _characters(conf)
    wanted = (
        completions.distinct_requests(spark, conf, dataframes.read(spark, conf.lake, base))
        .withColumn("characters", characters)
        .persist()
    )
    stored = dataframes.stored_answers(spark, conf.lake)
    missing = wanted.where(completions.is_missing(conf.completions))
    rows, total = missing.agg(F.count("*"), F.coalesce(F.sum("characters"), F.lit(0))).first() or (0, 0)
    answered = (
        wanted.join(stored.where(HAS_USAGE).select("key", *USAGE), "key")
        .dropDuplicates(["key"])
        .orderBy("key")
        .limit(MAX_ANSWERS)
    )
    seen = [
        arithmetic.AnsweredRequest(row.characters, row.prompt_tokens, row.completion_tokens, row.latency_ms / 1000)
        for row in answered.collect()
    ]
    following: list[Row] = [row.asDict() for row in missing.orderBy("key").limit(ask).collect()]
    left = arithmetic.Remaining(wanted.count(), rows, total)
    wanted.unpersist()
    return left, seen, following


def _characters(conf: config.Config) -> Column:
    """Return the characters of a request: those of its question and oracle, and the words around them."""
    around = prompts.teacher_request("", "", conf.teacher.model, conf.completions)
    return (F.length("question") + F.length("oracle") + around.characters).cast("bigint")


def _ask(conf: config.Config, rows: Sequence[Row]) -> list[SampleCall]:
    """Ask a few requests once, and store the answers; what fails is left to the stage."""
    threads = min(len(rows), conf.completions.in_flight)
    with (
        endpoints.serving(conf.teacher) as endpoint,
        closing(endpoints.connect(endpoint, threads, conf.completions.timeout_seconds)) as client,
        ThreadPoolExecutor(threads) as pool,
    ):
        sent = list(pool.map(partial(_sent, conf=conf, client=client), rows))
    answered = [one for one in sent if one.reply.completion is not None]
    if not answered:
        why = sent[0].reply
        msg = f"endpoint {conf.completions.endpoint!r} answered none of {len(rows)} requests ({why.error_class}): {why.error}"
        raise EndpointError(msg)
    _store(conf, answered)
    return answered


def _sent(row: Row, conf: config.Config, client: Client) -> SampleCall:
    request = prompts.teacher_request(row["question"], row["oracle"], conf.teacher.model, conf.completions)
    begin = time.monotonic()
    reply = client.ask(request)
    return SampleCall(row["pubid"], row["characters"], request, reply, time.monotonic() - begin)


def _store(conf: config.Config, answered: Sequence[SampleCall]) -> None:
    """Store answers as one file of the completions store, under a name that counts them, as a run's."""
    run_id = ids.new_id("estimate")
    rows = [
        answer_store.answer_row(
            InFlightRequest(one.pubid, one.request, attempts=1, latency=one.seconds, reply=one.reply),
            one.request.model,
            run_id,
        )
        for one in answered
    ]
    at = tables.storage(conf.lake, schemas.COMPLETIONS)
    answer_store.write_answers(at, dt.datetime.now(dt.UTC).date().isoformat(), f"{run_id}-{uuid.uuid4().hex}", rows)
