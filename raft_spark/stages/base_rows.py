"""articles -> rows of base, in Spark's workers, with the texts of a memory-mapped file or with texts that Spark joins."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark import TaskContext
from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

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
_OF_DOCUMENT = [name for name in _DOCUMENTS.names if name not in {"pubid", "text"}]
_DRAWN = pa.schema(
    [
        ("pubid", pa.int64()),
        ("split", pa.string()),
        ("place", pa.int32()),  # of a row: 0, or 1 << _ROW_BITS without its oracle; its documents follow it
        ("key", pa.int64()),
        ("source", pa.int64()),
        *(_DOCUMENTS.field(name) for name in _OF_DOCUMENT),
        ("second_oracles", pa.int32()),
    ]
)
_SPLIT_AT, _NUMBER_AT = 60, 20  # bits of the key of a passage in all splits: Spark sorts one number by radix
_ROW_BITS = 20  # a row shows less than a million documents
_ARTICLE, _NO_PASSAGE = -1, -1  # the place of an article, and what a row joins no text by


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


def build(tasks: DataFrame, task: BaseTask) -> DataFrame:
    """Draw the rows of the row groups of articles that `tasks` names, with texts from the memory-mapped file.

    Return the files of base, in the schema schemas.FILES; lazy.
    """
    return map_in_arrow(tasks, partial(_write, task=task), schemas.FILES)


def build_by_join(tasks: DataFrame, articles: DataFrame, task: BaseTask) -> DataFrame:
    """Build the same table as `build`, with texts that Spark joins by (split, number, passage); lazy.

    Articles, rows and documents are records of one DataFrame, sorted by (pubid, place) in the partition of their pubid: so a
    text is shuffled and sorted once as a passage, and once for each row that shows it. A worker puts them together.
    """
    drawn = map_in_arrow(tasks, partial(_draw, task=task), _DRAWN)
    splits = ", ".join(f"'{split}'" for split in schemas.SPLITS)
    key = F.expr(f"shiftleft(array_position(array({splits}), split), {_SPLIT_AT}) + shiftleft(number, {_NUMBER_AT})")
    texts = articles.select(key.alias("key"), F.posexplode("passages").alias("passage", "text"))
    texts = texts.select((F.col("key") + F.col("passage")).alias("key"), "text")
    documents = drawn.join(texts.hint("merge"), "key", "left").drop("key")  # else Spark may take the texts for small
    own = articles.select(
        "pubid",
        "split",
        F.lit(_ARTICLE).alias("place"),
        "question",
        F.array_join("passages", SEPARATOR).alias("oracle_text"),
        "long_answer",
        "final_decision",
    )
    records = own.unionByName(documents, allowMissingColumns=True).repartition(tasks.rdd.getNumPartitions(), "pubid")
    return map_in_arrow(
        records.sortWithinPartitions("pubid", "place"), partial(_write_joined, task=task), schemas.FILES
    )


def _write(batches: Iterator[pa.RecordBatch], task: BaseTask) -> Iterator[pa.RecordBatch]:
    index, texts, rows = task.corpus.index(), task.corpus.texts(), task.conf.lake.row_group_rows
    for task_id, row_groups in parquet.by_task(batches):
        with parquet.PartitionedWriter(task.at, _SCHEMA, task_id, rows) as writer:
            for group in row_groups:
                split, articles = group["split"], parquet.read_row_group(group, ARTICLE_COLUMNS)
                draws = draw(articles["number"].to_numpy(), index[split], task.retriever(split), task.conf.base)
                writer.write(f"data/split={split}", base_table(articles, draws, index[split], texts))
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


def base_table(articles: pa.Table, draws: Draws, index: corpus.CorpusIndex, texts: pa.LargeStringArray) -> pa.Table:
    """Return the base rows of a row group of articles of one split, in the table's schema."""
    articles = articles.append_column("oracle", _oracles(articles["number"].to_numpy(), index, texts))
    if len(draws.article) > len(articles):
        articles = articles.take(draws.article)
    documents = [
        pa.array(index.pubid[draws.shown.number]),
        pa.array(draws.shown.passage.astype(np.int32)),
        texts.take(pa.array(draws.shown.position(index))).cast(pa.string()),
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


def _oracles(numbers: Int64Array, index: corpus.CorpusIndex, texts: pa.LargeStringArray) -> pa.StringArray:
    """Join the passages of each article of a row group; in the corpus they stand one after the other."""
    ends = np.cumsum(index.count[numbers], dtype=np.int32)
    passages = texts.slice(index.first[numbers[0]], ends[-1])
    lists = pa.ListArray.from_arrays(pa.array(np.append(np.int32(0), ends)), passages)
    return pc.binary_join(lists, pa.scalar(SEPARATOR, pa.large_string())).cast(pa.string())


def _draw(batches: Iterator[pa.RecordBatch], task: BaseTask) -> Iterator[pa.RecordBatch]:
    """Draw the documents of each row, without their texts: a record for each row and for each document, as in _DRAWN."""
    index = task.corpus.index()
    for _, row_groups in parquet.by_task(batches):
        for group in row_groups:
            split, numbers = group["split"], parquet.read_row_group(group, ["number"])["number"].to_numpy()
            draws = draw(numbers, index[split], task.retriever(split), task.conf.base)
            own = numbers[draws.article]
            pubid, begin = index[split].pubid[own], (~draws.keep).astype(np.int32) << _ROW_BITS
            row, number, passage = draws.shown.row, draws.shown.number, draws.shown.passage
            ordinal = np.arange(len(row)) - np.searchsorted(row, row)
            keys = schemas.SPLITS.index(split) + 1 << _SPLIT_AT
            of_row = {"pubid": pubid, "place": begin, "key": keys + (own << _NUMBER_AT) + _NO_PASSAGE}
            yield _drawn(split, of_row | {"second_oracles": draws.second_oracles})
            place = {"pubid": pubid[row], "place": begin[row] + 1 + ordinal, "passage": passage}
            place["key"] = keys + (number << _NUMBER_AT) + passage
            found = dict(zip(("method", "rank", "score"), draws.found, strict=True))
            yield _drawn(split, place | found | {"source": index[split].pubid[number], "oracle": draws.shown.oracle})


def _drawn(split: str, columns: Mapping[str, Any]) -> pa.RecordBatch:
    """Return records of one split; columns that are not given are null."""
    count = len(columns["pubid"])
    known = {"split": [split] * count, **columns}
    filled = (
        pa.array(known[field.name]).cast(field.type) if field.name in known else pa.nulls(count, field.type)
        for field in _DRAWN
    )
    return pa.RecordBatch.from_arrays([*filled], schema=_DRAWN)


def _write_joined(batches: Iterator[pa.RecordBatch], task: BaseTask) -> Iterator[pa.RecordBatch]:
    """Write the rows of the articles of one partition, whose records follow each other; the last one may go on in the next batch."""
    context = TaskContext.get()
    task_id = context.partitionId() if context else 0
    with parquet.PartitionedWriter(task.at, _SCHEMA, task_id, task.conf.lake.row_group_rows) as writer:
        waiting: list[pa.Table] = []
        for batch in batches:
            records = pa.concat_tables([*waiting, pa.table(batch)])
            last = int(np.flatnonzero(records["place"].to_numpy() == _ARTICLE)[-1])
            _write_records(writer, records.slice(0, last))
            waiting = [records.slice(last)]
        for records in waiting:
            _write_records(writer, records)
    yield parquet.files_batch(writer.files)


def _write_records(writer: parquet.PartitionedWriter, records: pa.Table) -> None:
    """Write the rows of articles whose records are all here."""
    place = records["place"].to_numpy()
    in_row = place & (1 << _ROW_BITS) - 1
    article_at, row_at, document_at = (
        np.flatnonzero(kind) for kind in (place == _ARTICLE, (place >= 0) & (in_row == 0), (place >= 0) & (in_row > 0))
    )
    articles = records.take(article_at[np.searchsorted(article_at, row_at) - 1])
    rows, documents = records.take(row_at), records.take(document_at).combine_chunks()
    offsets = np.append(np.searchsorted(document_at, row_at), len(document_at)).astype(np.int32)
    names = {"pubid": "source"}
    shown = [documents[names.get(field.name, field.name)].combine_chunks() for field in _DOCUMENTS]
    table = pa.table(
        [
            rows["pubid"],
            articles["question"],
            pa.ListArray.from_arrays(pa.array(offsets), pa.StructArray.from_arrays(shown, fields=list(_DOCUMENTS))),
            articles["oracle_text"],
            pc.greater(rows["place"], 0),
            articles["long_answer"],
            articles["final_decision"],
            rows["second_oracles"],
        ],
        schema=_SCHEMA,
    )
    for split in schemas.SPLITS:
        writer.write(f"data/split={split}", table.filter(pc.equal(rows["split"], split)))
