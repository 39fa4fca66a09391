"""Answers -> which of them the dataset takes, and which questions are asked again, at another temperature.

An answer that a check of [dataset.gate] rejects may be asked for again (completions.retry = "ungrounded"), once at each of
completions.again_temperatures: another request with a key of its own, so that each is paid for once.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from raft_spark import config
from raft_spark.inference import requests
from raft_spark.lake.tasks import map_in_arrow
from raft_spark.recipe import answer_checks
from raft_spark.recipe.answer_checks import Problem

JUDGING_SETTINGS = {
    "gate",
    "quote_distance",
    "min_words",
    "max_words",
    "language",
}  # of [dataset], that a verdict depends on
JUDGED_SCHEMA = pa.schema(
    [
        ("pubid", pa.int64()),
        ("attempt", pa.int32()),
        ("completion", pa.string()),
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
        ("last_error", pa.string()),
        ("is_taken", pa.bool_()),
    ]
)


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Why a joined row is `rejected`, and what it is `flagged` for though it may stay."""

    rejected: tuple[str, ...] = ()
    flagged: tuple[str, ...] = ()


def judge_answer(row: Mapping[str, Any], conf: config.Dataset, asked: config.Completions) -> Acceptance:
    """Judge an answer by [dataset.gate]; `row` holds it with its oracle and final_decision."""
    completion = row["completion"]
    if completion is None:
        return Acceptance((f"no answer: {row['last_error'] or 'not asked'}",))
    if not completion.strip():
        return Acceptance(("empty answer",))
    found = [Problem("truncated", "truncated")] if row["finish_reason"] == "length" else []
    found += answer_checks.check_answer(completion, row["oracle"], row["final_decision"], asked, conf)
    becomes = {each.reason: getattr(conf.gate, each.check) for each in found}
    rejected, flagged = (tuple(reason for reason, what in becomes.items() if what == as_) for as_ in ("reject", "flag"))
    return Acceptance(rejected, flagged)


def attempt_settings(conf: config.Config) -> list[config.Config]:
    """Return the settings by which a question is asked, first and again."""
    again = conf.completions.asked_again_at if conf.dataset.answer == "completion" else ()
    others = (conf.completions.model_copy(update={"temperature": temperature}) for temperature in again)
    return [conf, *(conf.model_copy(update={"completions": completions}) for completions in others)]


def best_answers(base: DataFrame, stored: DataFrame, conf: config.Config) -> DataFrame:
    """Return the answer to each article's question, the first that is taken, else the first: pubid, the columns of an answer
    and `last_error`; lazy.
    """
    tries = attempt_settings(conf)
    if len(tries) == 1:
        return requests.look_up(requests.keyed_requests(base, conf), stored, conf.completions).select(
            "pubid", "answer.*", "last_error"
        )
    order = F.struct(F.col("completion").isNull(), ~F.col("is_taken"), "attempt")
    found = F.min_by(F.struct(*requests.ANSWER_COLUMNS, "last_error"), order).alias("best")
    return _judged(base, stored, conf, len(tries)).groupBy("pubid").agg(found).select("pubid", "best.*")


def rejected_rows(base: DataFrame, stored: DataFrame, conf: config.Config, count: int) -> DataFrame:
    """Return the rows of base that have an answer, have at most failed for good in the next of the first `count` tries, and
    none of their answers is taken; lazy.
    """
    is_over = F.col("completion").isNotNull() | ((F.col("attempt") > 0) & ~requests.is_retryable(conf.completions))
    is_left = F.bool_and(is_over & ~F.col("is_taken")).alias("is_left")
    left = _judged(base, stored, conf, count).groupBy("pubid").agg(is_left).where("is_left")
    return base.join(left.select("pubid"), "pubid", "left_semi")


def _judged(base: DataFrame, stored: DataFrame, conf: config.Config, count: int) -> DataFrame:
    """Return each article's first `count` answers, in the schema JUDGED; lazy."""
    tries = [
        requests.look_up(requests.keyed_requests(base, each), stored, each.completions).select(
            "pubid", F.lit(attempt).alias("attempt"), "answer.*", "last_error"
        )
        for attempt, each in enumerate(attempt_settings(conf)[:count])
    ]
    texts = requests.one_row_per_article(base, conf).select("pubid", "oracle", "final_decision")
    answered = reduce(DataFrame.unionByName, tries).join(texts, "pubid")
    return map_in_arrow(answered, partial(_judge, conf=conf.dataset, asked=conf.completions), JUDGED_SCHEMA)


def _judge(
    batches: Iterator[pa.RecordBatch], conf: config.Dataset, asked: config.Completions
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        rows = [{**row, "is_taken": not judge_answer(row, conf, asked).rejected} for row in batch.to_pylist()]
        yield pa.RecordBatch.from_pylist(rows, JUDGED_SCHEMA)
