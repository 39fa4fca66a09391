"""articles -> what the evaluation stage would ask and cost at most, an endpoint each; counted in Spark, nothing is asked."""

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

CHARS_PER_TOKEN = 3  # a token has more of them in most languages: too many tokens rather than too few
CHARACTERS_SCHEMA = pa.schema([("characters", pa.int64())])
_COUNTED = pa.schema([("characters", pa.int64())])


@dataclass(frozen=True, slots=True)
class CostBound:
    """What an endpoint is asked at most: requests, tokens, dollars. `dollars` is None where no price of tokens is known."""

    endpoint: str
    model: str
    requests: int
    tokens_in: int
    tokens_out: int
    dollars: float | None


def run(conf: config.Config) -> list[CostBound]:
    """Return what each student is still to be asked, and last the judge, where there is one.

    Every answer is taken to be as long as it may be. Raises InputError as `evaluation.run` does.
    """
    articles = tables.require(conf.lake, schemas.ARTICLES)
    spark = session.start(conf, "estimate")
    with worker_errors():
        asked, _ = evaluation.cases(spark, conf, articles, ids.new_id("estimate"))
        missing = evaluation.missing_from_students(spark, conf, asked)
        found = [
            _bound(
                missing.where(F.col("student") == student),
                conditions.endpoint_settings(conf, student),
                conditions.build_request,
            )
            for student in conf.evaluation.students
        ]
        if conf.evaluation.judge:
            said = _as_if_answered(evaluation.with_answers(spark, asked, conf), conf.evaluation.max_new_tokens)
            found.append(
                _bound(
                    evaluation.missing_from_judge(spark, conf, said), judge.endpoint_settings(conf), judge.build_request
                )
            )
    return found


def _as_if_answered(rows: DataFrame, tokens: int) -> DataFrame:
    """Give each case that has no answer one of so many tokens, which no other case has."""
    longest = F.concat_ws(" ", *judge.CASE_KEYS, F.repeat(F.lit("x" * CHARS_PER_TOKEN), tokens))
    return rows.withColumn("answer", F.struct(F.coalesce("answer.completion", longest).alias("completion")))


def _bound(missing: DataFrame, conf: config.Config, worded: Callable[..., Request]) -> CostBound:
    """Sum up what the endpoint in the teacher's place is sent."""
    model = conf.teacher.model
    counted = partial(_counted, worded=partial(worded, conf=conf.completions, model=model))
    sums = F.count("*"), F.coalesce(F.sum("characters"), F.lit(0))
    requests, characters = map_in_arrow(missing, counted, CHARACTERS_SCHEMA).agg(*sums).first() or (0, 0)
    tokens_in, tokens_out = -(-characters // CHARS_PER_TOKEN), requests * conf.completions.max_new_tokens
    use = arithmetic.Usage(arithmetic.Amount(tokens_in), arithmetic.Amount(tokens_out))
    dollars = arithmetic.bill(conf, "realtime", requests, use).on_demand
    return CostBound(
        conf.completions.endpoint, model, requests, tokens_in, tokens_out, dollars.value if dollars else None
    )


def _counted(batches: Iterator[pa.RecordBatch], worded: Callable[..., Request]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield pa.RecordBatch.from_arrays(
            [pa.array(worded(row).characters for row in batch.to_pylist())], schema=_COUNTED
        )
