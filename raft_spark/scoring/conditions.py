"""(articles, a setting, k) -> the passages that students are shown, and the request of each student.

The draws are those of base, so a student meets in its test what it met in training. k's distractors are among those of a larger k, in
the same order, and `without` shows as many passages as `with`: only what is tested differs.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame

from raft_spark import config
from raft_spark.common import hashing
from raft_spark.common.hashing import Int64Array, Stream
from raft_spark.endpoints.base import Request
from raft_spark.errors import InputError
from raft_spark.lake import parquet
from raft_spark.lake.tasks import map_in_arrow
from raft_spark.recipe import corpus, corpus_files, prompts, sampling

SPLIT = "test"
COLUMNS = ["pubid", "question", "passages", "long_answer", "final_decision", "number"]
ROWS = 64  # articles whose cases are in memory at once
CASES = pa.schema(
    [
        ("pubid", pa.int64()),
        ("student", pa.string()),
        ("setting", pa.string()),
        ("distractors", pa.int32()),
        ("question", pa.string()),
        ("passages", pa.list_(pa.struct([("text", pa.string()), ("oracle", pa.bool_())]))),
        ("own", pa.list_(pa.string())),
        ("reference", pa.string()),
        ("final_decision", pa.string()),
        ("key", pa.string()),
        ("key_of_any_length", pa.string()),
    ]
)
Passages = Sequence[Mapping[str, Any]]  # {"text", "oracle"}, in the order shown


@dataclass(frozen=True, slots=True)
class Condition:
    """What a question is asked with: one of evaluation.settings, and k where the setting has one, else 0."""

    setting: str
    distractors: int


def compared_at(conf: config.Config) -> int:
    """Return the k that settings and places are compared at: that of base, else the nearest one asked with."""
    return min(conf.evaluation.distractors, key=lambda k: abs(k - conf.base.distractors))


@dataclass(frozen=True)
class ConditionTask:
    """What every task gets: settings, the corpus, the students by name with their models, and up to which hash articles are
    asked.
    """

    conf: config.Config
    corpus: corpus_files.CorpusFiles
    models: Mapping[str, str]
    up_to: int


def conditions(conf: config.Evaluation) -> list[Condition]:
    """Return what every article is asked with."""
    swept = [Condition(name, k) for name in ("with", "without") if name in conf.settings for k in conf.distractors]
    return [*swept, *(Condition(name, 0) for name in ("alone", "closed") if name in conf.settings)]


def asking(conf: config.Config, student: str) -> config.Config:
    """Return the settings by which a student is asked: those of completions, with the student in the teacher's place."""
    own = {"temperature": conf.evaluation.temperature, "max_new_tokens": conf.evaluation.max_new_tokens}
    fixed = {"top_p": 1.0, "mode": "realtime", "template": "chat", "reuse_truncated": False}
    completions = conf.completions.model_copy(update={"endpoint": student, **own, **fixed})
    return conf.model_copy(update={"completions": completions})


def hashes(pubids: Int64Array) -> hashing.UInt64Array:
    """Return where each article stands in the order in which articles are taken."""
    return hashing.hash64(0, Stream.EVALUATE, pubids)


def up_to(index: corpus.CorpusIndex, rows: int) -> int:
    """Return the hash of the last article that is asked, of `rows` (0 = all)."""
    found = np.sort(hashes(index.pubid[index.count > 0]))
    return int(found[min(rows or len(found), len(found)) - 1])


def is_taken(pubids: Int64Array, up_to: int) -> NDArray[np.bool_]:
    """Say which articles are asked."""
    return hashes(pubids) <= np.uint64(up_to)


def checked(index: corpus.CorpusIndex, conf: config.Evaluation) -> None:
    """Raise InputError where the test split is too small for its draws."""
    there = int((index.count > 0).sum())
    lost = int(index.count.max(initial=0)) if "without" in conf.settings else 0
    need = max((case.distractors for case in conditions(conf)), default=0) + lost
    if there <= need or not there:
        msg = (
            f"the test split has {there} articles, but a row needs distractors from {need} others; take more articles, a larger "
            f"articles.test_share or smaller numbers in evaluation.distractors ({', '.join(map(str, conf.distractors))})"
        )
        raise InputError(msg)


def build_request(row: Mapping[str, Any], conf: config.Completions, model: str) -> Request:
    """Return what a student is sent for a row of CASES."""
    return prompts.student_request(row["question"], [shown["text"] for shown in row["passages"]], model, conf)


def build(tasks: DataFrame, work: ConditionTask) -> DataFrame:
    """(task, piece) of articles -> a row an article, student and case, in the schema CASES; lazy."""
    return map_in_arrow(tasks, partial(_write, work=work), CASES)


def _write(batches: Iterator[pa.RecordBatch], work: ConditionTask) -> Iterator[pa.RecordBatch]:
    index, texts = work.corpus.index()[SPLIT], work.corpus.texts()
    for _, pieces in parquet.by_task(batches):
        for piece in pieces:
            table = parquet.read_row_group(piece, COLUMNS)
            taken = table.filter(pa.array(is_taken(table["pubid"].to_numpy(), work.up_to)))
            for first in range(0, len(taken), ROWS):
                rows = list(_rows(taken.slice(first, ROWS), index, texts, work))
                yield pa.RecordBatch.from_pylist(rows, CASES)


def _rows(
    articles: pa.Table, index: corpus.CorpusIndex, texts: pa.LargeStringArray, work: ConditionTask
) -> Iterator[Mapping[str, Any]]:
    settled = {name: asking(work.conf, name).completions for name in work.models}
    for case in conditions(work.conf.evaluation):
        shown = passages(articles["number"].to_numpy(), index, texts, case, work.conf.base)
        for article, documents in zip(articles.to_pylist(), shown, strict=True):
            row = {
                "pubid": article["pubid"],
                "setting": case.setting,
                "distractors": case.distractors,
                "question": article["question"],
                "passages": documents,
                "own": article["passages"],
                "reference": article["long_answer"],
                "final_decision": article["final_decision"],
            }
            for name, model in work.models.items():
                sent = build_request(row, settled[name], model)
                yield {**row, "student": name, "key": sent.key, "key_of_any_length": sent.key_without_max_tokens}


def passages(
    numbers: Int64Array, index: corpus.CorpusIndex, texts: pa.LargeStringArray, case: Condition, conf: config.Base
) -> list[Passages]:
    """Return what each of the rows with these numbers is shown."""
    if case.setting == "closed":
        return [[] for _ in numbers]
    keep = np.full(len(numbers), case.setting != "without")
    drawn = conf.model_copy(update={"distractors": case.distractors, "equal_length": True})
    shown = sampling.choose_documents(numbers, keep, index, drawn)
    words = texts.take(pa.array(shown.position(index))).to_pylist()
    marked = [{"text": text, "oracle": bool(oracle)} for text, oracle in zip(words, shown.oracle, strict=True)]
    edges = np.searchsorted(shown.row, np.arange(len(numbers) + 1))
    return [marked[begin:end] for begin, end in itertools.pairwise(edges)]
