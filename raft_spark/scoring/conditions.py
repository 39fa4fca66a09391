"""articles + evaluation.settings -> the passages that students are shown for each article and condition, and each
student's request.

Distractors are drawn as in base, so the test prompts are built like the training prompts. The distractors of a smaller
k are among those of a larger k, in the same order, and `without` shows as many passages as `with`: two conditions
differ only in what they test. `retrieved` draws nothing: it shows the passages that a retriever finds for the question.

A case is one article, asked of one student under one condition: a row of CASES.
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
from raft_spark.config.sending import RequestSettings
from raft_spark.endpoints.base import Request
from raft_spark.errors import InputError
from raft_spark.lake import parquet
from raft_spark.lake.tasks import map_in_arrow
from raft_spark.recipe import corpus, corpus_files, prompts, retrieval, sampling

SPLIT = "test"
RETRIEVED = "retrieved"
COLUMNS = ["pubid", "question", "passages", "long_answer", "final_decision", "number"]
BATCH_ARTICLES = 64  # whose cases are in memory at the same time
CASES = pa.schema(
    [
        ("pubid", pa.int64()),
        ("student", pa.string()),
        ("setting", pa.string()),
        ("distractors", pa.int32()),
        ("question", pa.string()),
        ("passages", pa.list_(pa.struct([("text", pa.string()), ("oracle", pa.bool_())]))),
        ("article_passages", pa.list_(pa.string())),
        ("reference", pa.string()),
        ("final_decision", pa.string()),
        ("key", pa.string()),
        ("key_of_any_length", pa.string()),
    ]
)
Passages = Sequence[Mapping[str, Any]]  # {"text", "oracle"}, in the order shown


@dataclass(frozen=True, slots=True)
class Condition:
    """One of evaluation.settings with its number of distractors: k, or 0 for `alone` and `closed`.

    For `retrieved`, k is the number of passages.
    """

    setting: str
    distractors: int


def comparison_k(conf: config.Config) -> int:
    """Return the k for comparisons: the one in evaluation.distractors that is nearest to base.distractors."""
    return min(conf.evaluation.distractors, key=lambda k: abs(k - conf.base.distractors))


@dataclass(frozen=True)
class ConditionTask:
    """What every Spark task gets: `models` by student, and the hash of the last article that is asked."""

    conf: config.Config
    corpus: corpus_files.CorpusFiles
    models: Mapping[str, str]
    last_hash: int

    def retriever(self) -> retrieval.Retriever | None:
        """Memory-map the retriever of the test split, in a task; None if no setting asks for it."""
        if RETRIEVED not in self.conf.evaluation.settings:
            return None
        return retrieval.map_files(self.corpus, SPLIT, (retrieval.BM25,))


def all_conditions(conf: config.Evaluation) -> list[Condition]:
    """Return the conditions under which every article is asked."""
    swept = ("with", "without", RETRIEVED)
    at_each_k = [Condition(name, k) for name in swept if name in conf.settings for k in conf.distractors]
    return [*at_each_k, *(Condition(name, 0) for name in ("alone", "closed") if name in conf.settings)]


def endpoint_settings(conf: config.Config, student: str) -> config.Config:
    """Return settings that ask the student in place of the teacher, with the evaluation's parameters."""
    sampling_parameters = {"temperature": conf.evaluation.temperature, "max_new_tokens": conf.evaluation.max_new_tokens}
    fixed = {"top_p": 1.0, "mode": "realtime", "template": "chat", "reuse_truncated": False}
    sent = {name: getattr(conf.endpoints[student], name) for name in RequestSettings.model_fields}
    update = {"endpoint": student, **sampling_parameters, **fixed, **sent}
    completions = conf.completions.model_copy(update=update)
    return conf.model_copy(update={"completions": completions})


def article_hashes(pubids: Int64Array) -> hashing.UInt64Array:
    """Return the hashes whose ascending order is the order in which articles are selected, shape of `pubids`."""
    return hashing.hash64(0, Stream.EVALUATE, pubids)


def last_hash(index: corpus.CorpusIndex, rows: int) -> int:
    """Return the hash of the last article that is asked when `rows` articles are (0 = all)."""
    hashes = np.sort(article_hashes(index.pubid[index.count > 0]))
    return int(hashes[min(rows or len(hashes), len(hashes)) - 1])


def is_selected(pubids: Int64Array, last: int) -> NDArray[np.bool_]:
    """Return which articles are asked, given the hash of the last one."""
    return article_hashes(pubids) <= np.uint64(last)


def check_split_size(index: corpus.CorpusIndex, conf: config.Evaluation) -> None:
    """Raise InputError when the test split has too few articles to draw distractors from."""
    available = int((index.count > 0).sum())
    replaced = int(index.count.max(initial=0)) if "without" in conf.settings else 0
    drawn = [condition.distractors for condition in all_conditions(conf) if condition.setting != RETRIEVED]
    need = max(drawn, default=0) + replaced
    if available <= need or not available:
        msg = (
            f"the test split has {available} articles, but a row needs distractors from {need} others; take "
            "more articles, a larger articles.test_share or smaller numbers in evaluation.distractors "
            f"({', '.join(map(str, conf.distractors))})"
        )
        raise InputError(msg)


def build_request(row: Mapping[str, Any], conf: config.Completions, model: str) -> Request:
    """Return the request to a student for a row of CASES."""
    return prompts.student_request(row["question"], [passage["text"] for passage in row["passages"]], model, conf)


def build(tasks: DataFrame, task: ConditionTask) -> DataFrame:
    """Return a row per article, student and condition, in the schema CASES, from the row groups of articles; lazy."""
    return map_in_arrow(tasks, partial(_write, task=task), CASES)


def _write(batches: Iterator[pa.RecordBatch], task: ConditionTask) -> Iterator[pa.RecordBatch]:
    index, texts = task.corpus.index()[SPLIT], task.corpus.texts()
    for _, row_groups in parquet.by_task(batches):
        for row_group in row_groups:
            table = parquet.read_row_group(row_group, COLUMNS)
            selected = table.filter(pa.array(is_selected(table["pubid"].to_numpy(), task.last_hash)))
            for first in range(0, len(selected), BATCH_ARTICLES):
                rows = list(_rows(selected.slice(first, BATCH_ARTICLES), index, texts, task))
                yield pa.RecordBatch.from_pylist(rows, CASES)


def _rows(
    articles: pa.Table, index: corpus.CorpusIndex, texts: pa.LargeStringArray, task: ConditionTask
) -> Iterator[Mapping[str, Any]]:
    completions = {name: endpoint_settings(task.conf, name).completions for name in task.models}
    for condition, shown in _shown(articles, index, texts, task):
        for article, documents in zip(articles.to_pylist(), shown, strict=True):
            row = {
                "pubid": article["pubid"],
                "setting": condition.setting,
                "distractors": condition.distractors,
                "question": article["question"],
                "passages": documents,
                "article_passages": article["passages"],
                "reference": article["long_answer"],
                "final_decision": article["final_decision"],
            }
            for name, model in task.models.items():
                request = build_request(row, completions[name], model)
                yield {**row, "student": name, "key": request.key, "key_of_any_length": request.key_without_max_tokens}


def _shown(
    articles: pa.Table, index: corpus.CorpusIndex, texts: pa.LargeStringArray, task: ConditionTask
) -> Iterator[tuple[Condition, list[Passages]]]:
    """Yield each condition with the passages that it shows for each article."""
    conf, retriever = task.conf, task.retriever()
    best = best_passages(articles, index, texts, retriever, max(conf.evaluation.distractors)) if retriever else []
    for condition in all_conditions(conf.evaluation):
        if condition.setting == RETRIEVED:
            yield condition, [found[: condition.distractors] for found in best]
        else:
            yield condition, passages(articles["number"].to_numpy(), index, texts, condition, conf)


def best_passages(
    articles: pa.Table,
    index: corpus.CorpusIndex,
    texts: pa.LargeStringArray,
    retriever: retrieval.Retriever,
    count: int,
) -> list[Passages]:
    """Return the `count` passages of the whole split that fit the question of each article best, the best one first.

    They are fewer where fewer passages share a word with the question. `articles` has the columns pubid, number and question.
    """
    numbers = articles["number"].to_numpy()
    hits = retrieval.search(articles["question"], articles["pubid"].to_numpy(), retriever, count)
    is_oracle = hits.number == numbers[hits.row]
    return _by_article(hits.row, texts.take(pa.array(index.first[hits.number] + hits.passage)), is_oracle, len(numbers))


def passages(
    numbers: Int64Array,
    index: corpus.CorpusIndex,
    texts: pa.LargeStringArray,
    condition: Condition,
    conf: config.Config,
) -> list[Passages]:
    """Return the passages shown for each article of `numbers`, in the order shown.

    All of the largest k are drawn, so that what stands in for the oracle does not depend on the condition's k.
    """
    if condition.setting == "closed":
        return [[] for _ in numbers]
    keep = np.full(len(numbers), condition.setting != "without")
    most = max(*conf.evaluation.distractors, condition.distractors) if condition.distractors else 0
    absent = "singles" if conf.base.absent == "nothing" else conf.base.absent
    base = conf.base.model_copy(update={"distractors": condition.distractors, "absent": absent})
    drawn = sampling.choose_documents(numbers, keep, index, base.model_copy(update={"distractors": most}))
    wanted = sampling.distractor_counts(index.count[numbers], keep, base)
    shown = drawn.select(drawn.slot < wanted[drawn.row])
    return _by_article(shown.row, texts.take(pa.array(shown.position(index))), shown.oracle, len(numbers))


def _by_article(
    row: Int64Array, texts: pa.LargeStringArray, is_oracle: NDArray[np.bool_], articles: int
) -> list[Passages]:
    """Return the passages of each of so many articles, from those of all in the order of `row`."""
    pairs = zip(texts.to_pylist(), is_oracle.tolist(), strict=True)
    marked = [{"text": text, "oracle": oracle} for text, oracle in pairs]
    edges = np.searchsorted(row, np.arange(articles + 1))
    return [marked[begin:end] for begin, end in itertools.pairwise(edges)]
