"""Students' answers -> requests to a judge, and its replies -> two metrics, defined as in ragas 0.4.

faithfulness   the share of the answer's statements that can be inferred from the passages shown, 0..1
relevance      the similarity of the question to the questions that the answer would answer, 0..1; 0 if evasive

ragas measures that similarity with embeddings. Here chrF does, which needs no second model. Its values are lower, so
compare them between students only. A failed request of a student scores 0. A reply of the judge that is not the
requested JSON gives no score, and is counted.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import pyarrow as pa
from pydantic import BaseModel, Field
from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from raft_spark import config
from raft_spark.endpoints import answer_text
from raft_spark.endpoints.base import MAY_PASS, Request
from raft_spark.lake.tasks import map_in_arrow
from raft_spark.recipe import answer_checks, citations, prompts
from raft_spark.scoring import conditions
from raft_spark.scoring.scores import FAITHFULNESS, JUDGE_METRICS, chrf

CASE_KEYS = ["pubid", "student", "setting", "distractors"]  # the key of an answer
MIN_TOKENS = 1024  # of a reply: enough for about twenty statements
ANSWER_MULTIPLE = 2  # a reply repeats the answer, split into statements, as JSON
UNREADABLE = "unreadable"
JUDGE_REQUESTS = pa.schema(
    [
        *(conditions.CASES.field(name) for name in CASE_KEYS),
        ("metric", pa.string()),
        ("question", pa.string()),
        ("text", pa.string()),
        ("passages", pa.list_(pa.string())),
        ("key", pa.string()),
        ("key_of_any_length", pa.string()),
    ]
)
Replies = Mapping[str, Mapping[str, str | None]]  # metric -> {"reply", "error"}


class _Statement(BaseModel):
    supported: bool


class _Statements(BaseModel):
    statements: list[_Statement]


class _Questions(BaseModel):
    questions: Annotated[list[str], Field(min_length=1)]
    noncommittal: bool


def endpoint_settings(conf: config.Config) -> config.Config:
    """Return settings whose completions section asks the judge in place of the teacher, at temperature 0."""
    settings = conditions.endpoint_settings(conf, conf.evaluation.judge)
    limit = max(MIN_TOKENS, ANSWER_MULTIPLE * conf.evaluation.max_new_tokens)
    fixed = {"temperature": 0.0, "max_new_tokens": limit}
    return settings.model_copy(update={"completions": settings.completions.model_copy(update=fixed)})


def build(answered: DataFrame, conf: config.Config) -> DataFrame:
    """Return a row per answer and metric to ask the judge for, in the schema JUDGE_REQUESTS, from answered cases; lazy."""
    settings = endpoint_settings(conf)
    passages = F.transform("passages", lambda passage: passage["text"]).alias("passages")
    rows = answered.select(*CASE_KEYS, "question", F.col("answer.completion").alias("text"), passages)
    write = partial(_write_requests, conf=settings.completions, model=settings.teacher.model)
    return map_in_arrow(rows.where("trim(text) != ''"), write, JUDGE_REQUESTS)


def _write_requests(
    batches: Iterator[pa.RecordBatch], conf: config.Completions, model: str
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        rows = [
            {**row, "metric": metric}
            for row in batch.to_pylist()
            for metric in JUDGE_METRICS
            if _applies(metric, row["passages"])
        ]
        requests = [build_request(row, conf, model) for row in rows]
        keys = ({"key": request.key, "key_of_any_length": request.key_without_max_tokens} for request in requests)
        yield pa.RecordBatch.from_pylist([row | key for row, key in zip(rows, keys, strict=True)], JUDGE_REQUESTS)


def _applies(metric: str, passages: Sequence[object]) -> bool:
    """Return whether an answer has this metric: without passages there is no faithfulness."""
    return metric != FAITHFULNESS or bool(passages)


def build_request(row: Mapping[str, Any], conf: config.Completions, model: str) -> Request:
    """Return the request for a row of JUDGE_REQUESTS; for relevance it has the answer line only."""
    text, metric = answer_text.clean(row["text"]).text, row["metric"]
    text = citations.remove(text, conf.words.marks) if conf.cites_passages else text
    judged = text if metric == FAITHFULNESS else answer_checks.parse(text, conf.words.marks).answer or text
    return prompts.judge_request(metric, row["question"], judged, row["passages"], model, conf)


def collect_replies(looked_up: DataFrame) -> DataFrame:
    """Return a row per case; its column `judged` maps metrics to the reply or the error class; lazy."""
    reply = F.struct(F.col("answer.completion").alias("reply"), F.col("last_error").alias("error"))
    judged = F.map_from_entries(F.collect_list(F.struct("metric", reply))).alias("judged")
    return looked_up.groupBy(*CASE_KEYS).agg(judged)


def score(question: str, answer: str | None, passages: Sequence[object], replies: Replies) -> dict[str, Any]:
    """Return the metrics of an answer, None if not applicable or not judged, and the `judge_error`."""
    if answer is None:
        return {metric: 0.0 if _applies(metric, passages) else None for metric in JUDGE_METRICS} | {"judge_error": None}
    scores: dict[str, Any] = dict.fromkeys(JUDGE_METRICS)
    errors: list[str] = []
    for metric in filter(replies.get, JUDGE_METRICS):
        reply, error = replies[metric]["reply"], replies[metric]["error"]
        try:
            scores[metric] = parse_reply(metric, reply, question)
        except ValueError:
            errors.append(UNREADABLE if reply else error or "unavailable")
    return scores | {"judge_error": min(errors, key=_finality, default=None)}


def _finality(error: str) -> tuple[bool, bool]:
    """Return the sort key of a judge's error: errors that the next run retries come first."""
    return error == UNREADABLE, error not in MAY_PASS


def parse_reply(metric: str, reply: str | None, question: str) -> float | None:
    """Return the metric of a reply, None for an answer without statements. Raises ValueError on other JSON."""
    begin, end = (reply or "").find("{"), (reply or "").rfind("}")
    text = (reply or "")[begin : end + 1]
    if metric == FAITHFULNESS:
        supported = [statement.supported for statement in _Statements.model_validate_json(text).statements]
        return sum(supported) / len(supported) if supported else None
    parsed = _Questions.model_validate_json(text)
    if parsed.noncommittal:
        return 0.0
    return sum(chrf(guess, question) for guess in parsed.questions) / len(parsed.questions)
