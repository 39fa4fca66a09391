"""articles -> base: each article's question with its oracle passages, without, or both, among distractors of its split.

The draw needs only the index, so two strategies give the same bytes: `broadcast` lets tasks take texts from a file that
all workers of a machine map; `join` lets Spark bring them, for a corpus that no worker can hold on its disk.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark import TaskContext
from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from raft_spark import config
from raft_spark.errors import InputError
from raft_spark.lake import dataframes, parquet, schemas, session, tables
from raft_spark.lake.filesystem import Storage
from raft_spark.lake.tasks import map_in_arrow, worker_errors
from raft_spark.monitoring import progress
from raft_spark.recipe import corpus, corpus_files, sampling
from raft_spark.recipe.prompts import SEPARATOR

ROWS = ["pubid", "question", "passages", "long_answer", "final_decision", "number"]
_SCHEMA = schemas.SCHEMAS[schemas.BASE]
_SHOWN = pa.struct([("number", pa.int64()), ("passage", pa.int32()), ("oracle", pa.bool_())])
_DRAWN = pa.schema(
    [("pubid", pa.int64()), ("split", pa.string()), ("distracted", pa.bool_()), ("shown", pa.list_(_SHOWN))]
)


def run(conf: config.Config, tasks: int = 0) -> tables.Version:
    """Draw the base rows of the current articles; return the version that is current then. `tasks`: 0 = by size and cores.

    Raises InputError when a split is too small for its draws, before anything is written.
    """
    articles = tables.require(conf.lake, schemas.ARTICLES)
    settings = conf.base.model_dump(exclude={"strategy", "broadcast_limit_mb"})
    identity = tables.identity(schemas.BASE, settings, [articles.id, conf.lake.row_group_rows])
    made = tables.find_existing(conf.lake, schemas.BASE, identity)
    if made:
        return made
    spark = session.start(conf, schemas.BASE)
    pieces = tables.row_groups(conf.lake, articles)
    strategy = chosen_strategy(conf.base, pieces)
    folder = corpus_files.make_folder(spark)
    with worker_errors():
        corpus.build(pieces, articles.counts["numbers"], folder, with_texts=strategy == "broadcast")
        counts = check_draws(corpus.map_index(f"{folder}/{corpus.INDEX}"), conf.base)
        new = tables.open_draft(conf.lake, schemas.BASE, identity)
        size = sum(file.bytes for file in articles.data())
        handed = dataframes.assign_tasks(spark, pieces, tasks or dataframes.task_count(spark, conf.lake, size))
        work = BaseTask(conf, new.storage, corpus_files.distribute(spark, folder, new.id))
        if strategy == "broadcast":
            built = build(handed, work)
        else:
            built = build_by_join(handed, dataframes.read(spark, conf.lake, articles), work)
        total = handed.rdd.getNumPartitions() if strategy == "broadcast" else 0
        with progress.spark_tasks(spark, "base: draw distractors", total):
            files = dataframes.collect_files(built)
    return tables.publish(new, conf, files, {schemas.ARTICLES: articles}, {**counts, "strategy": strategy})


@dataclass(frozen=True)
class BaseTask:
    """What every task of a run gets: settings, where the new version lies, and its corpus."""

    conf: config.Config
    at: Storage
    corpus: corpus_files.CorpusFiles


def build(tasks: DataFrame, work: BaseTask) -> DataFrame:
    """(task, piece) of articles -> the files of base, in the schema schemas.FILES, texts taken from the map; lazy."""
    return map_in_arrow(tasks, partial(_write, work=work), schemas.FILES)


def build_by_join(tasks: DataFrame, articles: DataFrame, work: BaseTask) -> DataFrame:
    """Build the same table as `build`, texts brought by a join of (split, number, passage); lazy."""
    drawn = map_in_arrow(tasks, partial(_draw, work=work), _DRAWN)
    texts = articles.select(
        "split", "number", F.col("pubid").alias("of"), F.posexplode("passages").alias("passage", "text")
    )
    shown = (
        drawn.select("split", "pubid", "distracted", F.posexplode("shown").alias("position", "document"))
        .select("split", "pubid", "distracted", "position", "document.*")
        .join(texts, ["split", "number", "passage"])
        .groupBy("pubid", "distracted")
        .agg(F.sort_array(F.collect_list(F.struct("position", "of", "passage", "text", "oracle"))).alias("shown"))
    )
    document = "transform(shown, d -> struct(d.of AS pubid, d.passage AS passage, d.text AS text, d.oracle AS oracle))"
    rows = (
        articles.join(drawn.select("pubid", "distracted"), "pubid")
        .join(shown, ["pubid", "distracted"], "left")
        .select(
            "split",
            "pubid",
            "question",
            F.coalesce(F.expr(document), F.array()).alias("documents"),
            F.array_join("passages", SEPARATOR).alias("oracle"),
            "distracted",
            F.col("long_answer").alias("original_answer"),
            "final_decision",
        )
    )
    spread = rows.repartition(tasks.rdd.getNumPartitions(), "pubid").sortWithinPartitions("pubid", "distracted")
    return map_in_arrow(spread, partial(_write_joined, work=work), schemas.FILES)


def chosen_strategy(conf: config.Base, pieces: Sequence[Mapping[str, Any]]) -> str:
    """Settle `auto`: broadcast up to base.broadcast_limit_mb of text, else join."""
    if conf.strategy != "auto":
        return conf.strategy
    return "broadcast" if corpus.text_bytes(pieces) <= conf.broadcast_limit_mb * 1_000_000 else "join"


def check_draws(index: Mapping[str, corpus.CorpusIndex], conf: config.Base) -> dict[str, Any]:
    """Count rows and draws a split. Raises InputError where a row would need more distractors than there are articles."""
    rows, distracted, draws = {}, {}, {}
    for split, found in index.items():
        there = np.flatnonzero(found.count)
        which, keep = sampling.base_rows(found.pubid[there], conf)
        slots = sampling.distractor_counts(found.count[there[which]], keep, conf)
        rows[split], distracted[split], draws[split] = len(which), int((~keep).sum()), int(slots.sum())
        need = int(slots.max(initial=0))
        if need > max(0, len(there) - 1):
            msg = (
                f"split {split} has {len(there)} articles, but a row there needs distractors from {need} others; "
                f"take more articles, lower base.distractors (k = {conf.distractors}), or set articles.{split}_share = 0"
            )
            raise InputError(msg.replace("articles.train_share = 0", "smaller validation and test shares"))
    return {"rows": rows, "distracted": distracted, "distractors": draws}


def _write(batches: Iterator[pa.RecordBatch], work: BaseTask) -> Iterator[pa.RecordBatch]:
    index, texts, rows = work.corpus.index(), work.corpus.texts(), work.conf.lake.row_group_rows
    for task, pieces in parquet.by_task(batches):
        with parquet.PartitionedWriter(work.at, _SCHEMA, task, rows) as written:
            for piece in pieces:
                table = parquet.read_row_group(piece, ROWS)
                written.write(
                    f"data/split={piece['split']}", base_table(table, index[piece["split"]], texts, work.conf.base)
                )
        yield parquet.files_batch(written.files)


def base_table(
    articles: pa.Table, index: corpus.CorpusIndex, texts: pa.LargeStringArray, conf: config.Base
) -> pa.Table:
    """Return the base rows of a row group of articles of one split, in the table's schema."""
    which, keep = sampling.base_rows(articles["pubid"].to_numpy(), conf)
    articles = articles.take(which)
    shown = sampling.choose_documents(articles["number"].to_numpy(), keep, index, conf)
    documents = [
        pa.array(index.pubid[shown.number]),
        pa.array(shown.passage.astype(np.int32)),
        texts.take(pa.array(shown.position(index))).cast(pa.string()),
        pa.array(shown.oracle),
    ]
    struct = pa.StructArray.from_arrays(documents, ["pubid", "passage", "text", "oracle"])
    return pa.table(
        [
            articles["pubid"],
            articles["question"],
            pa.ListArray.from_arrays(pa.array(_offsets(shown, len(which))), struct),
            pc.binary_join(articles["passages"], SEPARATOR),
            pa.array(~keep),
            articles["long_answer"],
            articles["final_decision"],
        ],
        schema=_SCHEMA,
    )


def _offsets(shown: sampling.Documents, rows: int) -> NDArray[np.int32]:
    """Where each row's documents begin, and where the last one's end."""
    return np.searchsorted(shown.row, np.arange(rows + 1)).astype(np.int32)


def _draw(batches: Iterator[pa.RecordBatch], work: BaseTask) -> Iterator[pa.RecordBatch]:
    index = work.corpus.index()
    for _, pieces in parquet.by_task(batches):
        for piece in pieces:
            own, split = index[piece["split"]], piece["split"]
            numbers = parquet.read_row_group(piece, ["number"])["number"].to_numpy()
            which, keep = sampling.base_rows(own.pubid[numbers], work.conf.base)
            numbers = numbers[which]
            shown = sampling.choose_documents(numbers, keep, own, work.conf.base)
            fields = [pa.array(shown.number), pa.array(shown.passage.astype(np.int32)), pa.array(shown.oracle)]
            struct = pa.StructArray.from_arrays(fields, ["number", "passage", "oracle"])
            columns = [
                pa.array(own.pubid[numbers]),
                pa.array([split] * len(numbers)),
                pa.array(~keep),
                pa.ListArray.from_arrays(pa.array(_offsets(shown, len(numbers))), struct),
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=_DRAWN)


def _write_joined(batches: Iterator[pa.RecordBatch], work: BaseTask) -> Iterator[pa.RecordBatch]:
    context = TaskContext.get()
    task = context.partitionId() if context else 0
    with parquet.PartitionedWriter(work.at, _SCHEMA, task, work.conf.lake.row_group_rows) as written:
        for batch in batches:
            table = pa.table(batch)
            for split in schemas.SPLITS:
                own = table.filter(pc.equal(table["split"], split)).select(_SCHEMA.names)
                written.write(f"data/split={split}", own.cast(_SCHEMA))
    yield parquet.files_batch(written.files)
