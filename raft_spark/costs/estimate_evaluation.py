"""Compute what the evaluation stage would cost at most, for each endpoint, from the articles; send no request."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from raft_spark import config
from raft_spark.common import ids
from raft_spark.costs.bounds import CHARS_PER_TOKEN, CostBound, bound
from raft_spark.lake import schemas, session, tables
from raft_spark.lake.tasks import worker_errors
from raft_spark.scoring import conditions, judge
from raft_spark.stages import evaluation


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
            bound(
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
                bound(
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
