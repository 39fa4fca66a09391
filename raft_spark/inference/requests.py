"""base, stored answers -> the teacher's requests with their keys, and the answer to each: shared by the stages that
ask and those that read answers.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from raft_spark import config
from raft_spark.config import templates
from raft_spark.config.sending import RequestSettings
from raft_spark.endpoints.base import Request, retried_classes
from raft_spark.lake import dataframes, parquet, tables
from raft_spark.lake.tasks import map_in_arrow
from raft_spark.recipe import prompts

REQUESTS_SCHEMA = pa.schema([("key", pa.string()), ("key_of_any_length", pa.string()), ("pubid", pa.int64())])
KEYS_AT_ONCE = 1_000  # requests in the memory of a task
_COLUMNS = ["pubid", "question", "oracle", "distracted"]
ANSWER_COLUMNS = ("completion", "finish_reason", "prompt_tokens", "completion_tokens", "answer_key", "is_batch")


def request_settings(conf: config.Config) -> dict[str, Any]:
    """Return the settings on which the requests depend, the model, and which stored answers can be reused."""
    names = {"style", "decision", "template", "temperature", "top_p", "max_new_tokens", "reuse_truncated"}
    return {
        **conf.completions.model_dump(include=names),
        **sent_otherwise(conf.teacher_requests),
        **words_otherwise(conf.completions, "teacher"),
        "again": conf.completions.retry_temperatures,
        "model": conf.teacher.model,
        "prompt": prompts.VERSIONS[conf.completions.style],
    }


def sent_otherwise(conf: config.Completions) -> dict[str, Any]:
    """Return the settings of what is sent that are not the defaults."""
    sent = conf.model_dump(mode="json", include=set(RequestSettings.model_fields))
    return {name: value for name, value in sent.items() if value and (name, value) != ("system", "system")}


def words_otherwise(conf: config.Completions, who: templates.Reader) -> dict[str, Any]:
    """Return the words of the teacher's or the students' prompts, and how answers are read, unless they are the defaults."""
    marks = conf.passage_marks_of(who)
    if conf.prompts == templates.DEFAULT and marks == "template":
        return {}
    shared = ("marks", "decision", *(["refusal"] if who == "student" else []))
    cited = ["citation"] if conf.cites_passages else []
    words = {f"words_of_{who}": conf.words.model_dump(mode="json", include={who, *shared, *cited})}
    return words if marks == "template" else {**words, f"passage_marks_of_{who}": marks}


def one_row_per_article(base: DataFrame, conf: config.Config) -> DataFrame:
    """Return one row of base for each article, whatever base.variants is; lazy."""
    return base.where("NOT distracted") if conf.base.variants == "both" else base


def keyed_requests(spark: SparkSession, conf: config.Config, base: tables.Version) -> DataFrame:
    """Return a row for each article of base with its request's keys, in REQUESTS_SCHEMA; lazy.

    Tasks read the texts with pyarrow, so none passes through Spark.
    """
    tasks = dataframes.row_group_tasks(spark, conf.lake, base)
    return map_in_arrow(tasks, partial(_keys, conf=conf), REQUESTS_SCHEMA)


def _keys(batches: Iterator[pa.RecordBatch], conf: config.Config) -> Iterator[pa.RecordBatch]:
    settings, model = conf.teacher_requests, conf.teacher.model
    for _, groups in parquet.by_task(batches):
        for group in groups:
            rows = parquet.read_row_group(group, _COLUMNS)
            if conf.base.variants == "both":
                rows = rows.filter(pc.invert(rows["distracted"]))
            for batch in rows.to_batches(max_chunksize=KEYS_AT_ONCE):
                texts = zip(batch["question"].to_pylist(), batch["oracle"].to_pylist(), strict=True)
                made = [prompts.teacher_request(question, oracle, model, settings) for question, oracle in texts]
                keys = [request.key for request in made], [request.key_without_max_tokens for request in made]
                yield pa.record_batch([*keys, batch["pubid"]], schema=REQUESTS_SCHEMA)


def with_texts(keyed: DataFrame, conf: config.Config, base: tables.Version) -> DataFrame:
    """Add to each request the question and the oracle of its article; lazy."""
    rows = one_row_per_article(dataframes.read(keyed.sparkSession, conf.lake, base), conf)
    return keyed.join(rows.select("pubid", "question", "oracle"), "pubid")


def build_request(row: Mapping[str, Any], conf: config.Completions, model: str) -> Request:
    """Return the request to the teacher for a row of base."""
    return prompts.teacher_request(row["question"], row["oracle"], model, conf)


def prompt_characters(conf: config.Completions) -> Column:
    """Return the characters that a row of base puts into the teacher's prompt: its question, its oracle, their layout."""
    passages = F.size(F.split("oracle", prompts.SEPARATOR))
    texts = F.length("question") + F.length("oracle")
    return texts + (passages - 1) * prompts.characters_between_passages(conf)


def look_up(wanted: DataFrame, stored: DataFrame, conf: config.Completions) -> DataFrame:
    """Add to each request its `answer`, null if there is none, and `last_error`, the class of its last failure; lazy.

    Spark joins by key; no key reaches the driver. Of several answers it takes one that is not truncated, then the one
    with the largest max_tokens, then the oldest. An answer of a batch job has no latency.
    """
    order = F.struct(_is_truncated(), -F.col("max_tokens"), "created_at", "run_id")
    best = F.min_by(F.struct(*ANSWER_COLUMNS), order).alias("answer")
    named = stored.withColumns({"answer_key": F.col("key"), "is_batch": F.col("latency_ms").isNull()})
    answers = named.where(_is_usable(conf)).groupBy("key_of_any_length").agg(best)
    return wanted.join(answers, "key_of_any_length", "left").join(_last_errors(stored), "key", "left")


def mark_answered(wanted: DataFrame, stored: DataFrame, conf: config.Completions) -> DataFrame:
    """Add to each request whether it `is_answered`, and `last_error` as `look_up` does, without moving an answer; lazy."""
    keys = stored.where(_is_usable(conf)).select("key_of_any_length").distinct()
    answered = keys.withColumn("is_answered", F.expr("true"))
    marked = wanted.join(answered, "key_of_any_length", "left").join(_last_errors(stored), "key", "left")
    return marked.withColumn("is_answered", F.col("is_answered").isNotNull())


def _last_errors(stored: DataFrame) -> DataFrame:
    failures = stored.where("completion IS NULL")
    return failures.groupBy("key").agg(F.max_by("error_class", "created_at").alias("last_error"))


def is_missing(conf: config.Completions) -> Column:
    """Return whether a request that was marked has no answer, and no failure that is not retried."""
    return ~F.col("is_answered") & is_retryable(conf)


def is_retryable(conf: config.Completions) -> Column:
    """Return whether a request has no failure, or one that is retried."""
    return F.col("last_error").isNull() | F.col("last_error").isin(*retried_classes(conf))


def _is_usable(conf: config.Completions) -> Column:
    """Return whether a stored answer also answers a request with the present max_new_tokens.

    A complete answer does if it fits. A truncated one does if it was truncated at the same limit, or at a lower one and
    completions.reuse_truncated allows it.
    """
    limit, max_tokens = F.lit(conf.max_new_tokens), F.col("max_tokens")
    has_none = max_tokens == 0  # nor has the present request, since its key is the same
    fits = has_none | (F.coalesce("completion_tokens", max_tokens) <= limit)
    truncated_at_limit = has_none | (max_tokens == limit) | (F.lit(conf.reuse_truncated) & (max_tokens < limit))
    return F.col("completion").isNotNull() & F.when(_is_truncated(), truncated_at_limit).otherwise(fits)


def _is_truncated() -> Column:
    return F.col("finish_reason").eqNullSafe("length")
