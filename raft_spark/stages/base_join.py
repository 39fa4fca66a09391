"""articles -> rows of base with texts that Spark brings, for a corpus that does not fit on a worker's disk.

The same tasks work three times. First a task draws, and requests the passages that it shows from the tasks that have them.
Then it sends the passages of its row groups that others requested. At last it writes its rows. Spark shuffles blobs between
them: a few bytes a passage first, and then its text, once for each row that shows it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession

from raft_spark.common.hashing import Int64Array
from raft_spark.lake import blobs, dataframes, parquet
from raft_spark.lake.tasks import map_in_arrow
from raft_spark.recipe import corpus, sampling
from raft_spark.stages.base_rows import ARTICLE_COLUMNS, BaseTask, Draws, base_table, draw

REQUESTS, ROWS, DOCUMENTS, TEXTS = range(4)  # sides of the blobs
SENT_AT_ONCE = 8_192  # texts that a task packs at once, and numbers in a blob
_DOCUMENTS = pa.schema(  # of sampling.Documents
    [
        ("row", pa.int64()),
        ("number", pa.int64()),
        ("passage", pa.int64()),
        ("oracle", pa.bool_()),
        ("slot", pa.int64()),
        ("method", pa.int8()),
        ("rank", pa.int32()),
        ("score", pa.float32()),
    ]
)


@dataclass(frozen=True)
class JoinTask:
    """What every task of the join needs.

    `task_of` has the task of each row group of articles, and `starts` the position of its first passage, and the end of all.
    `places` has the place of each task, as blobs.pack takes them.
    """

    base: BaseTask
    row_groups: Sequence[Mapping[str, Any]]
    task_of: Int64Array
    starts: Int64Array
    places: Sequence[int]

    @property
    def places_of_groups(self) -> Int64Array:
        """The place of each row group's task."""
        return np.array(self.places)[self.task_of]


def build(
    spark: SparkSession, tasks: Sequence[Sequence[Mapping[str, Any]]], starts: Int64Array, base: BaseTask
) -> list[parquet.DataFile]:
    """Draw and write the rows of the row groups of articles of each of `tasks`; return the files of base.

    `starts` is what corpus.build_index returned for all row groups.
    """
    task_of = np.repeat(np.arange(len(tasks)), [len(groups) for groups in tasks])
    row_groups = [group for groups in tasks for group in groups]
    join = JoinTask(base, row_groups, task_of, starts, dataframes.partition_values(spark, len(tasks)))
    numbers = [
        [{"row_group": number} for number in np.flatnonzero(task_of == task).tolist()] for task in range(len(tasks))
    ]
    requests = map_in_arrow(dataframes.one_task_each(spark, numbers), partial(_request, join=join), blobs.BLOBS)
    texts = blobs.map_parts(requests, len(tasks), partial(_send, join=join))
    return blobs.collect_parts(texts, len(tasks), partial(_write, join=join))


def _request(batches: Iterator[pa.RecordBatch], join: JoinTask) -> Iterator[pa.RecordBatch]:
    """Draw; send the draws to the own task, and what they show of other row groups to the tasks that have it."""
    index = join.base.corpus.index()
    for _, inputs in parquet.by_task(batches):
        for number in (each["row_group"] for each in inputs):
            group = join.row_groups[number]
            split, articles = group["split"], parquet.read_row_group(group, ["number"])["number"].to_numpy()
            draws = draw(articles, index[split], join.base.retriever(split), join.base.conf.base)
            position = draws.shown.position(index[split])
            source = np.searchsorted(join.starts, position, "right") - 1
            away = np.flatnonzero(source != number)
            requests = pa.table({"at": away, "position": position[away]})
            yield _packed(requests, number, join.task_of[source[away]], join.places, REQUESTS)
            for side, drawn in _tables(draws).items():
                yield _packed(drawn, number, np.full(len(drawn), join.task_of[number]), join.places, side)


def _packed(rows: pa.Table, number: int, tasks: Int64Array, places: Sequence[int], side: int) -> pa.RecordBatch:
    """Return rows about one row group as blobs for the tasks."""
    rows = rows.append_column("group", pa.array(np.full(len(rows), number)))
    return blobs.pack(rows, tasks, places, side, SENT_AT_ONCE)


def _tables(draws: Draws) -> dict[int, pa.Table]:
    """Return draws as tables of rows and of documents; `_draws` reads them."""
    of_rows = {"article": draws.article, "keep": draws.keep, "second_oracles": draws.second_oracles}
    of_documents = [getattr(draws.shown, name) for name in _DOCUMENTS.names]
    return {ROWS: pa.table(of_rows), DOCUMENTS: pa.table([*map(pa.array, of_documents)], schema=_DOCUMENTS)}


def _draws(sides: Mapping[int, pa.Table]) -> Draws:
    read = sides[ROWS], sides.get(DOCUMENTS, _DOCUMENTS.empty_table())  # there is no blob of no rows
    rows, documents = ({name: table[name].to_numpy() for name in table.column_names} for table in read)
    return Draws(shown=sampling.Documents(**documents), **rows)


def _send(parts: blobs.Parts, join: JoinTask) -> Iterator[pa.RecordBatch]:
    """Send the passages of this task's row groups to the row groups whose rows show them, and the draws along."""
    for task, sides in parts:
        for side in sides.keys() & {ROWS, DOCUMENTS}:
            yield _forwarded(sides[side], join, side, SENT_AT_ONCE)
        if REQUESTS in sides:
            requests = sides[REQUESTS].sort_by("position")
            edges = np.searchsorted(requests["position"].to_numpy(), join.starts)
            for number in np.flatnonzero(join.task_of == task).tolist():
                passages, _ = corpus.flatten(parquet.read_row_group(join.row_groups[number], ["passages"])["passages"])
                at_once = max(1, min(SENT_AT_ONCE, parquet.ROW_GROUP_BYTES * len(passages) // max(1, passages.nbytes)))
                of_group = requests.slice(edges[number], edges[number + 1] - edges[number]).sort_by("group")
                for at in range(0, len(of_group), at_once):
                    sent = of_group.slice(at, at_once)
                    texts = passages.take(pa.array(sent["position"].to_numpy() - join.starts[number]))
                    yield _forwarded(sent.drop_columns("position").append_column("text", texts), join, TEXTS)


def _forwarded(rows: pa.Table, join: JoinTask, side: int, blob_rows: int = blobs.BLOB_ROWS) -> pa.RecordBatch:
    """Return rows as blobs for the row groups in their column `group`."""
    groups = rows["group"].to_numpy()
    return blobs.pack(rows.drop_columns("group"), groups, join.places_of_groups, side, blob_rows)


def _write(parts: blobs.Parts, join: JoinTask) -> Iterator[parquet.DataFile]:
    """Write the rows of this task's row groups; yield its files."""
    index = join.base.corpus.index()
    for task, of_task in groupby(parts, lambda part: int(join.task_of[part[0]])):
        with join.base.writer(task) as writer:
            for number, sides in of_task:
                group = join.row_groups[number]
                split = group["split"]
                articles = parquet.read_row_group(group, [*ARTICLE_COLUMNS, "passages"])
                own, _ = corpus.flatten(articles["passages"])
                draws = _draws(sides)
                place, texts = draws.shown.position(index[split]) - join.starts[number], own
                if TEXTS in sides:
                    received = sides[TEXTS]
                    place[received["at"].to_numpy()] = len(own) + np.arange(len(received))
                    texts = pa.concat_arrays([own, *received["text"].chunks])
                shown = texts.take(pa.array(place))
                writer.write(f"data/split={split}", base_table(articles, draws, index[split], own, shown))
        yield from writer.files
