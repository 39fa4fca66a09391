"""stored answers -> those that the dataset accepts, and the questions to ask again: apply [dataset.gate].

A question whose answer a check of [dataset.gate] rejects may be asked again (completions.retry = "ungrounded"), once
at each temperature of completions.again_temperatures. Each of these requests has its own key, and is
paid for once.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from raft_spark import config
from raft_spark.endpoints import answer_text
from raft_spark.inference import requests
from raft_spark.lake import dataframes, tables
from raft_spark.lake.tasks import map_in_arrow
from raft_spark.recipe import answer_checks
from raft_spark.recipe.answer_checks import Problem

JUDGING_SETTINGS = {
    "gate",
    "quote_distance",
    "min_words",
    "max_words",
    "language",
}  # of [dataset], used by judge_answer
JUDGED_SCHEMA = pa.schema(
    [
        ("pubid", pa.int64()),
        ("attempt", pa.int32()),
        ("completion", pa.string()),
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
        ("answer_key", pa.string()),
        ("is_batch", pa.bool_()),
        ("last_error", pa.string()),
        ("is_accepted", pa.bool_()),
    ]
)


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Reasons why an answer is `rejected`, and reasons why it is only `flagged`; without the former it is accepted.

    `answer` is the answer without what an earlier version may have stored: thoughts and tokens of the chat template.
    """

    rejected: tuple[str, ...] = ()
    flagged: tuple[str, ...] = ()
    answer: answer_text.CleanText = field(default=answer_text.CleanText(""), compare=False)


def judge_answer(row: Mapping[str, Any], conf: config.Dataset, completions: config.Completions) -> Acceptance:
    """Check an answer by [dataset.gate]; `row` holds the columns of the answer, its oracle and its final_decision."""
    if row["completion"] is None:
        return Acceptance((f"no answer: {row['last_error'] or 'not asked'}",))
    clean = answer_text.clean(row["completion"])
    if not clean.text.strip():
        return Acceptance(("truncated" if clean.is_open else "empty answer",))
    is_truncated = clean.is_open or row["finish_reason"] == "length"
    problems = [Problem("truncated", "truncated")] if is_truncated else []
    problems += answer_checks.check_answer(clean.text, row["oracle"], row["final_decision"], completions, conf)
    if not problems:
        return Acceptance(answer=clean)
    actions = {problem.reason: getattr(conf.gate, problem.check) for problem in problems}
    rejected, flagged = (tuple(reason for reason in actions if actions[reason] == name) for name in ("reject", "flag"))
    return Acceptance(rejected, flagged, clean)


def attempt_settings(conf: config.Config) -> list[config.Config]:
    """Return the settings of each attempt at a question: the first, then one for each further temperature."""
    temperatures = conf.completions.retry_temperatures if conf.dataset.answer == "completion" else ()
    others = (conf.completions.model_copy(update={"temperature": temperature}) for temperature in temperatures)
    return [conf, *(conf.model_copy(update={"completions": completions}) for completions in others)]


def best_answers(base: tables.Version, stored: DataFrame, conf: config.Config) -> DataFrame:
    """Return the answer to each article's question: the first accepted one, or the first if none is accepted; lazy.

    The columns are pubid, those of an answer, and `last_error`.
    """
    attempts = attempt_settings(conf)
    if len(attempts) == 1:
        return _answers(base, stored, conf)
    order = F.struct(F.col("completion").isNull(), ~F.col("is_accepted"), "attempt")
    best = F.min_by(F.struct(*requests.ANSWER_COLUMNS, "last_error"), order).alias("best")
    return _judge_answers(base, stored, conf, len(attempts)).groupBy("pubid").agg(best).select("pubid", "best.*")


def rejected_articles(base: tables.Version, stored: DataFrame, conf: config.Config, count: int) -> DataFrame:
    """Return the pubids to ask again after `count` attempts, because every answer so far was rejected; lazy.

    The first attempt must have an answer. A later attempt may also have failed with an error that is not retried.
    """
    has_failed = (F.col("attempt") > 0) & ~requests.is_retryable(conf.completions)
    is_over = F.col("completion").isNotNull() | has_failed
    is_rejected = F.bool_and(is_over & ~F.col("is_accepted")).alias("is_rejected")
    judged = _judge_answers(base, stored, conf, count)
    return judged.groupBy("pubid").agg(is_rejected).where("is_rejected").select("pubid")


def _judge_answers(base: tables.Version, stored: DataFrame, conf: config.Config, count: int) -> DataFrame:
    """Return the answers to each article's first `count` attempts, in JUDGED_SCHEMA; lazy."""
    attempts = [
        _answers(base, stored, each).withColumn("attempt", F.lit(attempt))
        for attempt, each in enumerate(attempt_settings(conf)[:count])
    ]
    rows = requests.one_row_per_article(dataframes.read(stored.sparkSession, conf.lake, base), conf)
    answers = reduce(DataFrame.unionByName, attempts).join(rows.select("pubid", "oracle", "final_decision"), "pubid")
    return map_in_arrow(answers, partial(_judge, conf=conf.dataset, completions=conf.completions), JUDGED_SCHEMA)


def _answers(base: tables.Version, stored: DataFrame, conf: config.Config) -> DataFrame:
    keyed = requests.keyed_requests(stored.sparkSession, conf, base)
    return requests.look_up(keyed, stored, conf.completions).select("pubid", "answer.*", "last_error")


def _judge(
    batches: Iterator[pa.RecordBatch], conf: config.Dataset, completions: config.Completions
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        rows = [{**row, "is_accepted": not judge_answer(row, conf, completions).rejected} for row in batch.to_pylist()]
        yield pa.RecordBatch.from_pylist(rows, JUDGED_SCHEMA)
