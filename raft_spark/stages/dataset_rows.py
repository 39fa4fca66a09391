"""base rows, with or without stored answers -> the rows of each shard, as blobs: the first half of the stage dataset.

Tasks read the texts of base with pyarrow. Only what needs a join, the stored answers, passes through Spark's own operators,
without texts of base.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from raft_spark import config
from raft_spark.formats.formats import FORMATS
from raft_spark.formats.placement import Placement
from raft_spark.inference import acceptance, requests
from raft_spark.lake import blobs, dataframes, parquet, tables
from raft_spark.lake.tasks import map_in_arrow

TEXTS, ANSWERS = 0, 1  # sides of the blobs
GATHERED_ROWS = 65_536  # of answers, that a task packs at once
_COLUMNS = ["pubid", "question", "distracted", "original_answer", "final_decision"]
_DOCUMENTS = "documents.list.element"
_OWN = pa.schema([("pubid", pa.int64()), ("completion", pa.string()), ("finish_reason", pa.string())])
# the distractor that was found by the best rank, else the first one: its article, and its place among the documents
_REJECTED = """array_min(transform(documents, (d, place) ->
  if(d.oracle, NULL, struct(
    d.rank IS NULL AS is_drawn, d.rank AS rank, if(d.rank IS NULL, 0L, d.pubid) AS tie, place AS place, d.pubid AS pubid))))"""


@dataclass(frozen=True)
class RowsTask:
    """What the tasks that read need; `places` has the place of each part, as blobs.pack takes them."""

    conf: config.Config
    placement: Placement
    places: Sequence[int]

    def pack(self, rows: pa.Table, split: str, side: int) -> pa.RecordBatch:
        """Return rows of one split as blobs."""
        return blobs.pack(rows, self.placement.part_of(split, rows["pubid"].to_numpy()), self.places, side)


def texts(tasks: DataFrame, task: RowsTask) -> DataFrame:
    """Return the rows of the row groups of base that `tasks` names, as blobs of the side TEXTS; lazy."""
    return map_in_arrow(tasks, partial(_read, task=task), blobs.BLOBS)


def _read(batches: Iterator[pa.RecordBatch], task: RowsTask) -> Iterator[pa.RecordBatch]:
    columns = _columns(task.conf)
    for _, row_groups in parquet.by_task(batches):
        for group in row_groups:
            rows = _with_passages(parquet.read_row_group(group, columns))
            if "oracle" not in columns:
                rows = rows.append_column("oracle", pa.array([""] * len(rows)))
            if task.conf.dataset.answer == "original":
                rows = _with_own_answers(rows, task.conf.completions)
            yield task.pack(rows, group["split"], TEXTS)


def _columns(conf: config.Config) -> list[str]:
    """Return the columns of base that a check or a format reads; dataset.max_tokens needs to know the oracle's passages."""
    is_shortened = bool(conf.dataset.max_tokens)
    is_checked = is_shortened or conf.completions.style == "cot"
    is_written = any("oracle" in FORMATS[name].schema.names for name in conf.dataset.formats)
    documents = [f"{_DOCUMENTS}.{name}" for name in ("text", *(("oracle", "pubid") if is_shortened else ()))]
    return [*_COLUMNS, *documents, *(["oracle"] if is_checked or is_written else [])]


def _with_passages(rows: pa.Table) -> pa.Table:
    """Replace the documents by their texts as `passages`; for dataset.max_tokens add `is_whole`, see `_is_whole`."""
    documents = pa.concat_arrays(rows["documents"].chunks)
    columns = {"passages": documents.values.field("text")}
    if "oracle" in documents.type.value_type.names:
        columns["is_whole"] = _is_whole(documents)
    for name, values in columns.items():
        rows = rows.append_column(name, pa.ListArray.from_arrays(documents.offsets, values))
    return rows.drop_columns("documents")


def _is_whole(documents: pa.ListArray) -> pa.Array:
    """Say which passages stand in their row with all others of their article: those of the oracle and of a stand-in.

    A stand-in of one passage is not known from a distractor, and need not be.
    """
    row = np.repeat(np.arange(len(documents)), pc.list_value_length(documents).to_numpy())
    pubid, oracle = documents.values.field("pubid").to_numpy(), documents.values.field("oracle")
    _, article, passages = np.unique(np.stack([row, pubid]), axis=1, return_inverse=True, return_counts=True)
    return pc.or_(oracle, pa.array(passages[article.ravel()] > 1))


def _with_own_answers(rows: pa.Table, conf: config.Completions) -> pa.Table:
    """Add the article's own answer as the columns of a stored answer that nobody pays for."""
    constants = {
        "finish_reason": "stop",
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "last_error": "the article has none",
        "is_first_use": False,
    }
    rows = rows.append_column("completion", own_answers(rows, conf))
    for name, value in constants.items():
        rows = rows.append_column(name, pa.repeat(value, len(rows)))
    return rows


def own_answers(rows: pa.Table | pa.RecordBatch, conf: config.Completions) -> pa.Array:
    """Return the articles' own answers, null where there is none. With completions.decision the decision comes first."""
    answers = rows["original_answer"]
    if not conf.decision:
        return answers
    decision = pc.utf8_capitalize(rows["final_decision"])
    decided = pc.binary_join_element_wise(decision, answers, ". ", null_handling="skip")
    return pc.if_else(pc.is_valid(answers), decided, pa.scalar(None, pa.string()))


def answers(base: tables.Version, stored: DataFrame, task: RowsTask) -> DataFrame | None:
    """Return what Spark joins to the rows of base, as blobs of the side ANSWERS, None if nothing is to be joined; lazy."""
    if task.conf.dataset.answer == "original" and "preference" not in task.conf.dataset.formats:
        return None
    joined = join_answers(base, stored, task.conf)
    return map_in_arrow(joined, partial(_pack_answers, task=task), blobs.BLOBS)


def _pack_answers(batches: Iterator[pa.RecordBatch], task: RowsTask) -> Iterator[pa.RecordBatch]:
    for rows in _gathered(batches):
        for split in pc.unique(rows["split"]).to_pylist():
            yield task.pack(rows.filter(pc.equal(rows["split"], split)).drop_columns("split"), split, ANSWERS)


def _gathered(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yield the rows of several batches as one table, so that a blob has many rows."""
    gathered: list[pa.RecordBatch] = []
    for batch in batches:
        gathered.append(batch)
        if sum(map(len, gathered)) >= GATHERED_ROWS:
            yield pa.Table.from_batches(gathered)
            gathered = []
    if gathered:
        yield pa.Table.from_batches(gathered)


def join_answers(base: tables.Version, stored: DataFrame, conf: config.Config) -> DataFrame:
    """Return for each row of base its answer, or the class of its last error, by split, pubid and distracted; lazy.

    `is_first_use` is true for one row of those that share a stored answer, which is paid for once.
    The format `preference` also needs the column `rejected_answer`: the answer to the question of the article that gave the
    distractor of the best rank, or else the first distractor; and `rejected_place`, where that distractor is among the documents.
    """
    read = dataframes.read(stored.sparkSession, conf.lake, base)
    rows = read.select("split", "pubid", "distracted", F.expr(_REJECTED).alias("distractor"))
    rows = rows.withColumns({"rejected_place": F.col("distractor.place"), "distractor": F.col("distractor.pubid")})
    if conf.dataset.answer == "original":
        articles = requests.one_row_per_article(read, conf).select("pubid", "original_answer", "final_decision")
        chosen = map_in_arrow(articles, partial(_own_answers, conf=conf.completions), _OWN)
    else:
        chosen = _mark_first_use(acceptance.best_answers(base, stored, conf))
        is_one_of_pair = ~F.col("distracted") if conf.base.variants == "both" else F.expr("true")
        rows = rows.join(chosen, "pubid").withColumn("is_first_use", F.col("is_first_use") & is_one_of_pair)
    if "preference" in conf.dataset.formats:
        complete = F.when(~F.col("finish_reason").eqNullSafe("length"), F.col("completion"))
        others = chosen.select(F.col("pubid").alias("distractor"), complete.alias("rejected_answer"))
        return rows.join(others, "distractor", "left").drop("distractor", "answer_key")
    return rows.drop("distractor", "answer_key", "rejected_place")


def _own_answers(batches: Iterator[pa.RecordBatch], conf: config.Completions) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        columns = [batch["pubid"], own_answers(batch, conf), pa.repeat("stop", batch.num_rows)]
        yield pa.RecordBatch.from_arrays(columns, schema=_OWN)


def _mark_first_use(chosen: DataFrame) -> DataFrame:
    """Add `is_first_use`, true for the article with the smallest pubid of those that share a stored answer; lazy."""
    of_answer = Window.partitionBy(F.coalesce("answer_key", F.col("pubid").cast("string"))).orderBy("pubid")
    is_first = (F.row_number().over(of_answer) == 1) & F.col("answer_key").isNotNull()
    return chosen.withColumn("is_first_use", is_first)
