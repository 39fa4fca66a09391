"""base -> one request an article, named by its key, and what the store knows of it: shared by the stages that ask and that
look the answers up.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from raft_spark import config
from raft_spark.endpoints.base import Request, retried_classes
from raft_spark.lake.tasks import map_in_arrow
from raft_spark.recipe import prompts

REQUESTS = pa.schema(
    [
        ("key", pa.string()),
        ("key_of_any_length", pa.string()),
        ("pubid", pa.int64()),
        ("question", pa.string()),
        ("oracle", pa.string()),
    ]
)
ANSWER = ("completion", "finish_reason", "prompt_tokens", "completion_tokens")


def request_settings(conf: config.Config) -> dict[str, Any]:
    """Return the settings that decide what is asked, of which model, and which answers will do."""
    words = {"style", "decision", "template", "temperature", "top_p", "max_new_tokens", "reuse_truncated"}
    return {
        **conf.completions.model_dump(include=words),
        "again": conf.completions.asked_again_at,
        "model": conf.teacher.model,
        "prompt": prompts.VERSIONS[conf.completions.style],
    }


def one_row_per_article(base: DataFrame, conf: config.Config) -> DataFrame:
    """Return one row of base an article, whatever base.variants says; lazy."""
    return base.where("NOT distracted") if conf.base.variants == "both" else base


def keyed_requests(base: DataFrame, conf: config.Config) -> DataFrame:
    """Return a row an article of base with its request's key, in the schema REQUESTS; lazy."""
    columns = one_row_per_article(base, conf).select("pubid", "question", "oracle")
    return map_in_arrow(columns, partial(_keyed, conf=conf.completions, model=conf.teacher.model), REQUESTS)


def build_request(row: Mapping[str, Any], conf: config.Completions, model: str) -> Request:
    """Return what the teacher is sent for a row of base."""
    return prompts.teacher_request(row["question"], row["oracle"], model, conf)


def look_up(wanted: DataFrame, stored: DataFrame, conf: config.Completions) -> DataFrame:
    """Bring each request its `answer`, null without one, and `last_error`, the class of its last failure; lazy.

    Keys are compared by Spark, never on the driver. Of several answers the one that ended by itself is taken, then the
    longest, then the first.
    """
    order = F.struct(_is_cut(), -F.col("max_tokens"), "created_at", "run_id")
    best = F.min_by(F.struct(*ANSWER), order).alias("answer")
    answers = stored.where(_answers(conf)).groupBy("key_of_any_length").agg(best)
    failures = (
        stored.where("completion IS NULL").groupBy("key").agg(F.max_by("error_class", "created_at").alias("last_error"))
    )
    return wanted.join(answers, "key_of_any_length", "left").join(failures, "key", "left")


def is_asked(conf: config.Completions) -> Column:
    """Leave out of what was looked up what is answered, and what failed for good."""
    return F.col("answer").isNull() & is_retryable(conf)


def is_retryable(conf: config.Completions) -> Column:
    """Leave out what failed for good."""
    return F.col("last_error").isNull() | F.col("last_error").isin(*retried_classes(conf))


def _answers(conf: config.Completions) -> Column:
    """Say whether a stored answer is one under the present limit: as long as it could have been, or cut, if that will do."""
    limit, was = F.lit(conf.max_new_tokens), F.col("max_tokens")
    whole = F.coalesce("completion_tokens", was) <= limit
    cut = (was == limit) | (F.lit(conf.reuse_truncated) & (was < limit))
    return F.col("completion").isNotNull() & F.when(_is_cut(), cut).otherwise(whole)


def _is_cut() -> Column:
    return F.col("finish_reason").eqNullSafe("length")


def _keyed(batches: Iterator[pa.RecordBatch], conf: config.Completions, model: str) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        asked = [build_request(row, conf, model) for row in batch.select(["question", "oracle"]).to_pylist()]
        keys = [pa.array([request.key for request in asked], pa.string())]
        keys.append(pa.array([request.key_without_max_tokens for request in asked], pa.string()))
        columns = [*keys, batch["pubid"], batch["question"], batch["oracle"]]
        yield pa.RecordBatch.from_arrays(columns, schema=REQUESTS)
