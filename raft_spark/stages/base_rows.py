"""articles -> rows of base, in Spark's workers, with the texts of a memory-mapped file."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame

from raft_spark import config
from raft_spark.common.hashing import Int64Array
from raft_spark.config.fields import METHODS
from raft_spark.lake import parquet, schemas
from raft_spark.lake.filesystem import Storage
from raft_spark.lake.tasks import map_in_arrow
from raft_spark.recipe import corpus, corpus_files, retrieval, sampling
from raft_spark.recipe.prompts import SEPARATOR

ARTICLE_COLUMNS = ["pubid", "question", "long_answer", "final_decision", "number"]  # passages are in the corpus
_SCHEMA = schemas.SCHEMAS[schemas.BASE]
_DOCUMENTS = _SCHEMA.field("documents").type.value_type


@dataclass(frozen=True)
class BaseTask:
    """What every Spark task of a run needs: the settings, the folder of the new version, and the corpus."""

    conf: config.Config
    at: Storage
    corpus: corpus_files.CorpusFiles

    def retriever(self, split: str) -> retrieval.Retriever | None:
        """Memory-map the retriever of a split, in a task; None if all distractors are random."""
        methods = tuple(sampling.methods(self.conf.base))
        return retrieval.map_files(self.corpus, split, methods) if methods else None

    def writer(self, task: int) -> parquet.PartitionedWriter:
        """Return the writer of the files of base of a Spark task."""
        return parquet.PartitionedWriter(self.at, _SCHEMA, task, self.conf.lake.row_group_rows)


def build(tasks: DataFrame, task: BaseTask) -> DataFrame:
    """Draw the rows of the row groups of articles that `tasks` names, with texts from the memory-mapped file.

    Return the files of base, in the schema schemas.FILES; lazy.
    """
    return map_in_arrow(tasks, partial(_write, task=task), schemas.FILES)


def _write(batches: Iterator[pa.RecordBatch], task: BaseTask) -> Iterator[pa.RecordBatch]:
    index, texts = task.corpus.index(), task.corpus.texts()
    for task_id, row_groups in parquet.by_task(batches):
        with task.writer(task_id) as writer:
            for group in row_groups:
                split, articles = group["split"], parquet.read_row_group(group, ARTICLE_COLUMNS)
                numbers = articles["number"].to_numpy()
                draws = draw(numbers, index[split], task.retriever(split), task.conf.base)
                own, shown = mapped_texts(numbers, draws, index[split], texts)
                writer.write(f"data/split={split}", base_table(articles, draws, index[split], own, shown))
        yield parquet.files_batch(writer.files)


@dataclass(frozen=True)
class Draws:
    """What is drawn for the rows of a row group of articles.

    `article` is the row's article as an index in the row group; it, `keep` and `second_oracles` have the shape (rows,).
    """

    article: Int64Array
    keep: sampling.BoolArray
    shown: sampling.Documents
    second_oracles: Int64Array

    @property
    def offsets(self) -> pa.Array:
        """Where the documents of each row begin, and where those of the last row end."""
        return pa.array(np.searchsorted(self.shown.row, np.arange(len(self.article) + 1)).astype(np.int32))

    @property
    def found(self) -> list[pa.Array]:
        """How each document was found: method, rank and score; null for the row's own, and rank and score for random ones."""
        method, has_rank = self.shown.method, pa.array(self.shown.rank > 0)
        codes = pa.array(method, mask=method == sampling.OWN)
        names = pa.DictionaryArray.from_arrays(codes, pa.array(METHODS))
        numbers = (pa.array(of) for of in (self.shown.rank, self.shown.score))
        return [names.cast(pa.string()), *(pc.if_else(has_rank, of, None) for of in numbers)]


def draw(
    numbers: Int64Array, index: corpus.CorpusIndex, retriever: retrieval.Retriever | None, conf: config.Base
) -> Draws:
    """Draw the documents of the rows of the articles with these numbers.

    With a retriever, a stand-in is chosen before the distractors, which are then near its question instead of the row's own:
    so they are related to the passages beside them in rows with and without their oracle alike.
    """
    article, keep = sampling.base_rows(index.pubid[numbers], conf)
    own = numbers[article]
    if not retriever:
        return Draws(article, keep, sampling.choose_documents(own, keep, index, conf), np.zeros_like(own))
    found = retrieval.find(numbers, numbers, index, retriever, conf, np.empty(0, np.int64))
    near, second_oracles = {method: of[article] for method, of in found.near.items()}, found.second_oracles[article]
    stand_ins = sampling.choose_stand_ins(own, keep, index, conf, near)
    if (of_stand_in := stand_ins["number"] >= 0).any():
        asked = stand_ins["number"][of_stand_in]
        more = retrieval.find(asked, own[of_stand_in], index, retriever, conf, found.left_out)
        second_oracles[of_stand_in] += more.second_oracles
        for method, passages in more.near.items():
            near[method][of_stand_in] = passages
    return Draws(article, keep, sampling.choose_documents(own, keep, index, conf, near, stand_ins), second_oracles)


def mapped_texts(
    numbers: Int64Array, draws: Draws, index: corpus.CorpusIndex, texts: pa.LargeStringArray
) -> tuple[pa.LargeStringArray, pa.StringArray]:
    """Return the passages of the articles of a row group, and the documents that their rows show, from the mapped texts.

    In the corpus the passages of a row group stand one after the other.
    """
    own = texts.slice(index.first[numbers[0]], index.count[numbers].sum())
    return own, texts.take(pa.array(draws.shown.position(index))).cast(pa.string())


def base_table(
    articles: pa.Table,
    draws: Draws,
    index: corpus.CorpusIndex,
    own: pa.StringArray | pa.LargeStringArray,
    shown: pa.StringArray,
) -> pa.Table:
    """Return the base rows of a row group of articles of one split, in the table's schema.

    `own` are the passages of all these articles, and `shown` the texts of `draws.shown`.
    """
    articles = articles.append_column("oracle", _joined(own, index.count[articles["number"].to_numpy()]))
    if len(draws.article) > len(articles):
        articles = articles.take(draws.article)
    documents = [
        pa.array(index.pubid[draws.shown.number]),
        pa.array(draws.shown.passage.astype(np.int32)),
        shown,
        pa.array(draws.shown.oracle),
        *draws.found,
    ]
    struct = pa.StructArray.from_arrays(documents, fields=list(_DOCUMENTS))
    return pa.table(
        [
            articles["pubid"],
            articles["question"],
            pa.ListArray.from_arrays(draws.offsets, struct),
            articles["oracle"],
            pa.array(~draws.keep),
            articles["long_answer"],
            articles["final_decision"],
            pa.array(draws.second_oracles.astype(np.int32)),
        ],
        schema=_SCHEMA,
    )


def _joined(passages: pa.StringArray | pa.LargeStringArray, counts: Int64Array) -> pa.StringArray:
    """Join so many passages at a time, for each article."""
    lists = pa.ListArray.from_arrays(pa.array(np.append(0, np.cumsum(counts)).astype(np.int32)), passages)
    return pc.binary_join(lists, pa.scalar(SEPARATOR, passages.type)).cast(pa.string())
