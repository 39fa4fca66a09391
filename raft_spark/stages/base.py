"""articles -> base: draw the documents of each article's question: oracle passages, or none, among distractors of its split.

The draw needs only the index of the passages, so two strategies give the same rows. With `broadcast`, tasks take the texts
from a file that all workers of a machine memory-map. With `join`, Spark joins the texts to the draws; this is for a corpus
that does not fit on a worker's disk.
"""

from collections.abc import Iterator, Mapping, Sequence
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
from raft_spark.endpoints.base import retried_classes
from raft_spark.errors import InputError
from raft_spark.inference import embeddings, vectors
from raft_spark.lake import dataframes, driver_memory, parquet, schemas, session, tables
from raft_spark.lake.filesystem import Storage
from raft_spark.lake.tasks import map_in_arrow, worker_errors
from raft_spark.monitoring import progress
from raft_spark.recipe import corpus, corpus_files, retrieval, sampling
from raft_spark.recipe.prompts import SEPARATOR

COUNTED_AT_ONCE = 1 << 20  # articles
ARTICLE_COLUMNS = ["pubid", "question", "long_answer", "final_decision", "number"]  # passages are in the corpus
_SCHEMA = schemas.SCHEMAS[schemas.BASE]
_DOCUMENTS = _SCHEMA.field("documents").type.value_type
_DOCUMENT = pa.struct([("number", pa.int64()), *(each for each in _DOCUMENTS if each.name not in {"pubid", "text"})])
_DRAWN = pa.schema(
    [
        ("pubid", pa.int64()),
        ("split", pa.string()),
        ("distracted", pa.bool_()),
        ("shown", pa.list_(_DOCUMENT)),
        ("second_oracles", pa.int32()),
    ]
)


def run(conf: config.Config, tasks: int = 0) -> tables.Version:
    """Draw the base rows of the current articles; return the current version. `tasks` = 0 sets it by size and cores.

    Raises InputError, before anything is written or asked, when a split is too small for its draws. For distractors from
    embeddings it raises ConfigError when `completions.max_spend` is set and the price is unknown, and what `embeddings.ask`
    and `vectors.build` raise.
    """
    conf.check_max_spend(filter(None, [conf.base.embedder]))
    articles = tables.require(conf.lake, schemas.ARTICLES)
    unused = {"endpoint"} if sampling.methods(conf.base) else True  # the model of the endpoint is what counts
    settings = conf.base.model_dump(exclude={"strategy": True, "broadcast_limit_mb": True, "retrieval": unused})
    sources = [articles.id, conf.lake.row_group_rows, *embeddings.request_settings(conf)]
    identity = tables.identity(schemas.BASE, settings, sources)
    existing = tables.find_existing(conf.lake, schemas.BASE, identity)
    if existing and not retried_classes(conf.completions) & existing.counts.get("not_embedded", {}).keys():
        return existing
    spark = session.start(conf, schemas.BASE)
    driver_memory.warn_if_small(spark, conf, sum(articles.counts["numbers"]))
    row_groups = tables.row_groups(conf.lake, articles)
    strategy = choose_strategy(conf.base, row_groups)
    folder = corpus_files.make_folder(spark)
    with worker_errors():
        corpus.build(row_groups, articles.counts["numbers"], folder, with_texts=strategy == "broadcast")
        counts = check_draws(corpus.map_index(f"{folder}/{corpus.INDEX}"), conf.base)
        if methods := sampling.methods(conf.base):
            retrieval.build(row_groups, methods, folder)
        if conf.base.embedder:
            embeddings.ask(spark, conf, articles)
            counts["not_embedded"] = vectors.build(conf, row_groups, articles.counts["numbers"], folder)
        draft = tables.open_draft(conf.lake, schemas.BASE, identity)
        size = sum(file.bytes for file in articles.data())
        drawing = dataframes.assign_tasks(spark, row_groups, tasks or dataframes.task_count(spark, conf.lake, size))
        task = BaseTask(conf, draft.storage, corpus_files.distribute(spark, folder, draft.id))
        if strategy == "broadcast":
            written = build(drawing, task)
        else:
            written = build_by_join(drawing, dataframes.read(spark, conf.lake, articles), task)
        total = drawing.rdd.getNumPartitions() if strategy == "broadcast" else 0
        with progress.spark_tasks(spark, "base: draw distractors", total):
            files = dataframes.collect_files(written)
    return tables.publish(draft, conf, files, {schemas.ARTICLES: articles}, {**counts, "strategy": strategy})


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
    """Build the same table as `build`, with texts that Spark joins by (split, number, passage); lazy."""
    drawn = map_in_arrow(tasks, partial(_draw, task=task), _DRAWN)
    texts = articles.select(
        "split", "number", F.col("pubid").alias("source"), F.posexplode("passages").alias("passage", "text")
    )
    # A row without documents has one null, which is not collected
    fields = [name for name in _DOCUMENTS.names if name != "pubid"]
    document = F.when(F.col("position").isNotNull(), F.struct("position", "source", *fields))
    of_row = ["split", "pubid", "distracted", "second_oracles"]
    shown = (
        drawn.select(*of_row, F.posexplode_outer("shown").alias("position", "document"))
        .select(*of_row, "position", "document.*")
        .join(texts, ["split", "number", "passage"], "left")
        .groupBy("pubid", "distracted", "second_oracles")
        .agg(F.sort_array(F.collect_list(document)).alias("shown"))
    )
    documents = f"transform(shown, d -> struct(d.source AS pubid, {', '.join(f'd.{name}' for name in fields)}))"
    rows = articles.join(shown, "pubid").select(
        "split",
        "pubid",
        "question",
        F.expr(documents).alias("documents"),
        F.array_join("passages", SEPARATOR).alias("oracle"),
        "distracted",
        F.col("long_answer").alias("original_answer"),
        "final_decision",
        "second_oracles",
    )
    sorted_rows = rows.repartition(tasks.rdd.getNumPartitions(), "pubid").sortWithinPartitions("pubid", "distracted")
    return map_in_arrow(sorted_rows, partial(_write_joined, task=task), schemas.FILES)


def choose_strategy(conf: config.Base, row_groups: Sequence[Mapping[str, Any]]) -> str:
    """Return the strategy; `auto` is broadcast for up to base.broadcast_limit_mb of text, else join."""
    if conf.strategy != "auto":
        return conf.strategy
    return "broadcast" if corpus.text_bytes(row_groups) <= conf.broadcast_limit_mb * 1_000_000 else "join"


def check_draws(index: Mapping[str, corpus.CorpusIndex], conf: config.Base) -> dict[str, Any]:
    """Count the rows of each split. Raises InputError if a row needs more distractors than there are other articles."""
    rows, distracted, singles = {}, {}, {}
    for split, split_index in index.items():
        rows[split], distracted[split], singles[split], need = 0, 0, 0, 0
        for start in range(0, split_index.size, COUNTED_AT_ONCE):
            pubids, count = (of[start : start + COUNTED_AT_ONCE] for of in (split_index.pubid, split_index.count))
            pubids, count = pubids[count > 0], count[count > 0]
            of_row, keep = sampling.base_rows(pubids, conf)
            rows[split] += len(of_row)
            distracted[split] += int((~keep).sum())
            singles[split] += int(sampling.distractor_counts(count[of_row], keep, conf).sum())
            need = max(need, int(sampling.articles_needed(count[of_row], keep, conf).max(initial=0)))
        available = int((split_index.count > 0).sum())
        if need > max(0, available - 1):
            msg = (
                f"split {split} has {available} articles, but a row there needs distractors from {need} others; "
                f"take more articles, lower base.distractors (k = {conf.distractors}), or set articles.{split}_share = 0"
            )
            raise InputError(msg.replace("articles.train_share = 0", "smaller validation and test shares"))
    return {"rows": rows, "distracted": distracted, "distractors": singles}


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
    """Draw the documents of each row, without their texts, in the schema _DRAWN."""
    index = task.corpus.index()
    for _, row_groups in parquet.by_task(batches):
        for group in row_groups:
            split = group["split"]
            articles = parquet.read_row_group(group, ["number"])
            draws = draw(articles["number"].to_numpy(), index[split], task.retriever(split), task.conf.base)
            numbers = articles["number"].to_numpy()[draws.article]
            shown = [pa.array(draws.shown.number), pa.array(draws.shown.passage.astype(np.int32))]
            struct = pa.StructArray.from_arrays(
                [*shown, pa.array(draws.shown.oracle), *draws.found], fields=list(_DOCUMENT)
            )
            columns = [
                pa.array(index[split].pubid[numbers]),
                pa.array([split] * len(numbers)),
                pa.array(~draws.keep),
                pa.ListArray.from_arrays(draws.offsets, struct),
                pa.array(draws.second_oracles.astype(np.int32)),
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=_DRAWN)


def _write_joined(batches: Iterator[pa.RecordBatch], task: BaseTask) -> Iterator[pa.RecordBatch]:
    context = TaskContext.get()
    task_id = context.partitionId() if context else 0
    with parquet.PartitionedWriter(task.at, _SCHEMA, task_id, task.conf.lake.row_group_rows) as writer:
        for batch in batches:
            table = pa.table(batch)
            for split in schemas.SPLITS:
                rows = table.filter(pc.equal(table["split"], split)).select(_SCHEMA.names)
                writer.write(f"data/split={split}", rows.cast(_SCHEMA))
    yield parquet.files_batch(writer.files)
