"""Students' answers -> what a judge says of them, and two figures made of that, after ragas 0.4.

faithfulness   the share of an answer's statements that can be inferred from the passages that were shown
relevance      how like the question those questions are that the answer would answer, 0..1; 0 where it evades. ragas compares
               them by their embeddings, here chrF does, which needs no second model: lower, and to be compared among students only

An answer that never came is 0. A reply of the judge that is not the JSON asked for says nothing, and is counted.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import pyarrow as pa
from pydantic import BaseModel, Field
from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from raft_spark import config
from raft_spark.endpoints.base import MAY_PASS, Request
from raft_spark.lake.tasks import map_in_arrow
from raft_spark.recipe import answer_checks, prompts
from raft_spark.scoring import conditions, scores
from raft_spark.scoring.scores import FAITHFULNESS, JUDGED

CASE = ["pubid", "student", "setting", "distractors"]  # what names an answer
LEAST_TOKENS = 1024  # of a reply: some twenty statements
TIMES = 2  # a reply repeats the answer as statements, in JSON
UNREADABLE = "unreadable"
WANTED = pa.schema(
    [
        *(conditions.CASES.field(name) for name in CASE),
        ("figure", pa.string()),
        ("question", pa.string()),
        ("said", pa.string()),
        ("texts", pa.list_(pa.string())),
        ("key", pa.string()),
        ("key_of_any_length", pa.string()),
    ]
)
Judged = Mapping[str, Mapping[str, str | None]]  # figure -> {"reply", "error"}


class _Statement(BaseModel):
    supported: bool


class _Statements(BaseModel):
    statements: list[_Statement]


class _Questions(BaseModel):
    questions: Annotated[list[str], Field(min_length=1)]
    noncommittal: bool


def asking(conf: config.Config) -> config.Config:
    """Return the settings by which the judge is asked: in the teacher's place, the likeliest words."""
    own = conditions.asking(conf, conf.evaluation.judge)
    limit = max(LEAST_TOKENS, TIMES * conf.evaluation.max_new_tokens)
    likeliest = {"temperature": 0.0, "max_new_tokens": limit}
    return own.model_copy(update={"completions": own.completions.model_copy(update=likeliest)})


def build(answered: DataFrame, conf: config.Config) -> DataFrame:
    """Answered cases -> a row an answer and figure to ask the judge for, in the schema WANTED; lazy."""
    own = asking(conf)
    texts = F.transform("passages", lambda passage: passage["text"]).alias("texts")
    rows = answered.select(*CASE, "question", F.col("answer.completion").alias("said"), texts)
    keyed = partial(_keyed, conf=own.completions, model=own.teacher.model)
    return map_in_arrow(rows.where("trim(said) != ''"), keyed, WANTED)


def _keyed(batches: Iterator[pa.RecordBatch], conf: config.Completions, model: str) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        rows = [
            {**row, "figure": figure}
            for row in batch.to_pylist()
            for figure in JUDGED
            if _applies(figure, row["texts"])
        ]
        sent = [build_request(row, conf, model) for row in rows]
        keys = ({"key": each.key, "key_of_any_length": each.key_without_max_tokens} for each in sent)
        yield pa.RecordBatch.from_pylist([row | own for row, own in zip(rows, keys, strict=True)], WANTED)


def _applies(figure: str, texts: Sequence[object]) -> bool:
    return figure != FAITHFULNESS or bool(texts)


def build_request(row: Mapping[str, Any], conf: config.Completions, model: str) -> Request:
    """Return what the judge is sent for a row of WANTED; of a chain of thought, the answer alone is to be relevant."""
    said = row["said"] if row["figure"] == FAITHFULNESS else answer_checks.parse(row["said"]).answer or row["said"]
    return prompts.judge_request(row["figure"], row["question"], said, row["texts"], model, conf)


def replies(found: DataFrame) -> DataFrame:
    """Looked-up rows of WANTED -> a row a case: `judged`, a reply or the class of its failure by figure; lazy."""
    told = F.struct(F.col("answer.completion").alias("reply"), F.col("last_error").alias("error"))
    judged = F.map_from_entries(F.collect_list(F.struct("figure", told))).alias("judged")
    return found.groupBy(*CASE).agg(judged)


def scored(question: str, said: str | None, texts: Sequence[object], judged: Judged) -> dict[str, Any]:
    """Return the figures of an answer, None where there is nothing to tell, and why the judge did not tell."""
    if said is None:
        return {figure: 0.0 if _applies(figure, texts) else None for figure in JUDGED} | {"judge_error": None}
    told: dict[str, Any] = dict.fromkeys(JUDGED)
    errors: list[str] = []
    for figure in filter(judged.get, JUDGED):
        each = judged[figure]
        try:
            told[figure] = read(figure, each["reply"], question)
        except ValueError:
            errors.append(UNREADABLE if each["reply"] else each["error"] or "unavailable")
    return told | {"judge_error": min(errors, key=_hopeless, default=None)}


def _hopeless(error: str) -> tuple[bool, bool]:
    """Order the reasons why a judge did not tell: first those that the next run asks again."""
    return error == UNREADABLE, error not in MAY_PASS


def read(figure: str, reply: str | None, question: str) -> float | None:
    """Return the figure that a reply comes to, None of an answer that states nothing. Raises ValueError: it is not as asked for."""
    begin, end = (reply or "").find("{"), (reply or "").rfind("}")
    text = (reply or "")[begin : end + 1]
    if figure == FAITHFULNESS:
        found = [each.supported for each in _Statements.model_validate_json(text).statements]
        return sum(found) / len(found) if found else None
    told = _Questions.model_validate_json(text)
    return (
        0.0 if told.noncommittal else sum(scores.chrf(each, question) for each in told.questions) / len(told.questions)
    )
