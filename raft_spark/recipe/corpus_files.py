"""Write the corpus files, and distribute them to every machine of the cluster, where the workers memory-map them."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark import SparkFiles
from pyspark.sql import SparkSession

from raft_spark.common.hashing import Int64Array
from raft_spark.lake import dataframes, parquet, shared_disk
from raft_spark.lake.tasks import collect_objects
from raft_spark.recipe import corpus


@dataclass(frozen=True)
class CorpusFiles:
    """The corpus files of a run, found by `name` on every machine."""

    name: str

    def path(self, part: str) -> str:
        """Return where a file is on this machine, in a task."""
        return SparkFiles.get(f"{self.name}-{part}")

    def index(self) -> Mapping[str, corpus.CorpusIndex]:
        """Memory-map the index, in a task."""
        return corpus.map_index(self.path(corpus.INDEX))

    def texts(self) -> pa.LargeStringArray:
        """Memory-map the texts, in a task."""
        return corpus.map_texts(self.path(corpus.TEXTS), self.path(corpus.INDEX))


def make_folder(spark: SparkSession) -> Path:
    """Make a folder for corpus files that exists as long as the session.

    An executor that starts later, even in another stage, fetches all files that were ever added to the session.
    """
    return Path(tempfile.mkdtemp(dir=spark.sparkContext._temp_dir))  # noqa: SLF001 - Spark deletes it when the session ends


def write_texts(spark: SparkSession, row_groups: Sequence[Mapping[str, Any]], starts: Int64Array, folder: Path) -> None:
    """Write the texts to `folder`: in Spark tasks where they share its disk, else by the driver; see corpus.write_texts."""
    if not shared_disk.is_one_machine(spark):
        corpus.write_texts(row_groups, starts, folder)
        return
    pieces = corpus.text_pieces(row_groups, starts, folder)
    tasks = dataframes.assign_tasks(spark, pieces, spark.sparkContext.defaultParallelism)
    collect_objects(tasks, partial(_write_texts, folder=folder))


def _write_texts(batches: Iterator[pa.RecordBatch], folder: Path) -> Iterator[None]:
    for _, pieces in parquet.by_task(batches):
        for piece in pieces:
            corpus.write_piece(folder, piece)
    yield from ()


def distribute(spark: SparkSession, folder: Path, name: str) -> CorpusFiles:
    """Copy all files of the folder to every machine, once, under names that start with `name`.

    Workers of a local master read the driver's folder of files, so there they are only moved.
    """
    for path in sorted(folder.iterdir()):
        named = f"{name}-{path.name}"
        if shared_disk.is_one_machine(spark):
            path.rename(SparkFiles.get(named))
        else:
            spark.sparkContext.addFile(str(path.rename(folder / named)))
    return CorpusFiles(name)


def delete(spark: SparkSession, files: CorpusFiles) -> None:
    """Delete the files where only this machine has them: later stages need the room, and executors that start later do not ask."""
    if shared_disk.is_one_machine(spark):
        for path in Path(SparkFiles.getRootDirectory()).glob(f"{files.name}-*"):
            path.unlink()
