"""The corpus files -> every machine of the cluster, where the workers map them: for the stages that draw passages."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyspark import SparkFiles
from pyspark.sql import SparkSession

from raft_spark.recipe import corpus


@dataclass(frozen=True)
class CorpusFiles:
    """The name that a run's corpus files bear."""

    name: str

    def index(self) -> Mapping[str, corpus.CorpusIndex]:
        """Map the index, in a task."""
        return corpus.map_index(SparkFiles.get(f"{self.name}-{corpus.INDEX}"))

    def texts(self) -> pa.LargeStringArray:
        """Map the texts, in a task."""
        return corpus.map_texts(*(SparkFiles.get(f"{self.name}-{name}") for name in (corpus.TEXTS, corpus.INDEX)))


def make_folder(spark: SparkSession) -> Path:
    """Make a folder for corpus files. It stays as long as the session does: an executor that comes later, in another stage,
    fetches all that was ever added.
    """
    return Path(tempfile.mkdtemp(dir=spark.sparkContext._temp_dir))  # noqa: SLF001 - Spark deletes it at its end


def distribute(spark: SparkSession, folder: Path, name: str) -> CorpusFiles:
    """Bring the corpus files to every machine, once, under names of this run."""
    for part in (corpus.INDEX, corpus.TEXTS):
        spark.sparkContext.addFile(str((folder / part).rename(folder / f"{name}-{part}")))
    return CorpusFiles(name)
