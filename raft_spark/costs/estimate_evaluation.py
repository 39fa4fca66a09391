"""Compute what the evaluation stage would cost at most, for each endpoint, from the articles; send no request."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from raft_spark import config
from raft_spark.common import ids
from raft_spark.costs import arithmetic
from raft_spark.endpoints.base import Request
from raft_spark.lake import schemas, session, tables
from raft_spark.lake.tasks import map_in_arrow, worker_errors
from raft_spark.scoring import conditions, judge
from raft_spark.stages import evaluation

CHARS_PER_TOKEN = 3  # fewer than in most languages, so that tokens are overestimated
CHARACTERS_SCHEMA = pa.schema([("characters", pa.int64())])


@dataclass(frozen=True, slots=True)
class CostBound:
    """Upper bounds of an endpoint's requests, tokens and dollars; `dollars` is None without a price of tokens."""

    endpoint: str
    model: str
    requests: int
    tokens_in: int
    tokens_out: int
    dollars: float | None


def run(conf: config.Config) -> list[CostBound]:
    """Return the bounds of the requests without an answer for each student, and last for the judge if there is one.

    Every answer counts with the most tokens that the settings allow. Raises InputError as `evaluation.run` does.
    """
    articles = tables.require(conf.lake, schemas.ARTICLES)
    spark = session.start(conf, "estimate")
    with worker_errors():
        cases, _ = evaluation.cases(spark, conf, articles, ids.new_id("estimate"))
        missing = evaluation.missing_from_students(spark, conf, cases)
        bounds = [
            _bound(
                missing.where(F.col("student") == student),
                conditions.endpoint_settings(conf, student),
                conditions.build_request,
            )
            for student in conf.evaluation.students
        ]
        if conf.evaluation.judge:
            answered = evaluation.with_answers(spark, cases, conf)
            longest = _add_longest_answers(answered, conf.evaluation.max_new_tokens)
            bounds.append(
                _bound(
                    evaluation.missing_from_judge(spark, conf, longest),
                    judge.endpoint_settings(conf),
                    judge.build_request,
                )
            )
    return bounds


def _add_longest_answers(cases: DataFrame, tokens: int) -> DataFrame:
    """Give each case without an answer a text of that many tokens, different for each case."""
    longest = F.concat_ws(" ", *judge.CASE_KEYS, F.repeat(F.lit("x" * CHARS_PER_TOKEN), tokens))
    return cases.withColumn("answer", F.struct(F.coalesce("answer.completion", longest).alias("completion")))


def _bound(missing: DataFrame, conf: config.Config, build_request: Callable[..., Request]) -> CostBound:
    """Sum up the requests to one endpoint, which `conf` names as the teacher."""
    model = conf.teacher.model
    count = partial(_count_characters, build_request=partial(build_request, conf=conf.completions, model=model))
    sums = F.count("*"), F.coalesce(F.sum("characters"), F.lit(0))
    requests, characters = map_in_arrow(missing, count, CHARACTERS_SCHEMA).agg(*sums).first() or (0, 0)
    tokens_in, tokens_out = -(-characters // CHARS_PER_TOKEN), requests * conf.completions.max_new_tokens
    usage = arithmetic.Usage(arithmetic.Amount(tokens_in), arithmetic.Amount(tokens_out))
    dollars = arithmetic.bill(conf, "realtime", requests, usage).on_demand
    return CostBound(
        conf.completions.endpoint, model, requests, tokens_in, tokens_out, dollars.value if dollars else None
    )


def _count_characters(
    batches: Iterator[pa.RecordBatch], build_request: Callable[..., Request]
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        characters = [build_request(row).characters for row in batch.to_pylist()]
        yield pa.RecordBatch.from_arrays([pa.array(characters, pa.int64())], schema=CHARACTERS_SCHEMA)
