"""Open a version of a table and read it with pandas, Arrow or Spark."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from raft_spark.common import extras
from raft_spark.config import Lake
from raft_spark.errors import InputError
from raft_spark.formats.formats import FORMATS
from raft_spark.lake import browse, parquet, schemas, tables
from raft_spark.lake.filesystem import Storage

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import DataFrame, SparkSession


@dataclass(frozen=True, slots=True)
class Table:
    """One version of a table. It stays readable, with the same rows, when the table gets newer versions.

    Attributes:
        lake: The `[lake]` section of the settings.
        manifest: The files of the version, and what it was made from.
    """

    lake: Lake
    manifest: tables.Version

    @property
    def name(self) -> str:
        """Return the name of the table."""
        return self.manifest.table

    @property
    def version(self) -> str:
        """Return the id of the version."""
        return self.manifest.id

    @property
    def counts(self) -> Mapping[str, Any]:
        """Return the numbers that the stage counted, such as rows by split, or rejected rows by reason."""
        return self.manifest.counts

    @property
    def path(self) -> str:
        """Return the folder or bucket prefix, as `raft-spark path` prints it."""
        return browse.rows_folder(self.lake, self.manifest)

    def to_arrow(self, form: str = "") -> pa.Table:
        """Read all rows into memory as a pyarrow Table.

        Args:
            form: Only for the table `dataset`: which of its training formats to read. "" reads the first one.

        Returns:
            The rows. The last column is `split`, or `day` for the table `completions`.

        Raises:
            InputError: The dataset was not written in this format.
        """
        parts = list(self._read(form))
        empty = self._schema(form).append(pa.field(self._partition, pa.string())).empty_table()
        return pa.concat_tables([empty, *parts])

    def to_pandas(self, form: str = "") -> "pd.DataFrame":
        """Read all rows into memory as a pandas DataFrame. Arguments, columns and errors are those of `to_arrow`.

        Raises ConfigError if pandas is not installed.
        """
        with extras.required():
            return self.to_arrow(form).to_pandas()

    def to_spark(self, spark: "SparkSession", form: str = "") -> "DataFrame":
        """Return a Spark DataFrame that reads the rows when Spark needs them.

        Args:
            spark: The session that reads.
            form: Only for the table `dataset`: which of its training formats to read. "" reads the first one.

        Returns:
            The rows, with the columns that `to_arrow` returns.

        Raises:
            InputError: The dataset was not written in this format.
        """
        from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention
        from pyspark.sql.pandas.types import from_arrow_schema

        from raft_spark.lake import dataframes

        if self.name != schemas.DATASET:
            return dataframes.read(spark, self.lake, self.manifest)
        schema, at = from_arrow_schema(self._schema(form)), self._storage
        rows = spark.createDataFrame([], schema).withColumn("split", F.lit(""))
        for file in self._files(form):
            kind = "json" if file.path.endswith(".jsonl") else "parquet"
            shard = spark.read.schema(schema).format(kind).load(at.uri(file.path))
            rows = rows.union(shard.withColumn("split", F.lit(_split(file))))
        return rows

    @property
    def _storage(self) -> Storage:
        return tables.files_folder(self.lake, self.manifest)

    @property
    def _partition(self) -> str:
        return "day" if self.name == schemas.COMPLETIONS else "split"

    def _schema(self, form: str) -> pa.Schema:
        return FORMATS[self._format(form)].schema if self.name == schemas.DATASET else schemas.SCHEMAS[self.name]

    def _format(self, form: str) -> str:
        """Return the name of a format of the dataset, the first for "". Raises InputError if the dataset lacks it."""
        formats = list(self.manifest.settings["dataset"]["formats"])
        if form and form not in formats:
            msg = f"dataset {self.version} has no format {form!r}; it has: {', '.join(formats)}"
            raise InputError(msg)
        return form or str(formats[0])

    def _files(self, form: str) -> list[parquet.DataFile]:
        """Return the files with rows. Those of a dataset come in the order train, validation, test."""
        if self.name != schemas.DATASET:
            tables.require_files(self.lake, self.manifest)
            return self.manifest.data()
        folder = f"{self._format(form)}/"
        files = [file for file in self.manifest.files if file.path.startswith(folder) and file.rows]
        return sorted(files, key=lambda file: (schemas.SPLITS.index(_split(file)), file.path))

    def _read(self, form: str) -> Iterator[pa.Table]:
        schema = self._schema(form)
        for file in self._files(form):
            with parquet.damage_named(self._storage, file.path), self._storage.open(file.path) as stream:
                if file.path.endswith(".jsonl"):
                    rows = pa.Table.from_pylist([json.loads(line) for line in stream.read().splitlines()], schema)
                else:
                    rows = parquet.fill_columns(pq.read_table(stream), self.name, schema.names)
            value = file.path.partition("day=")[2].partition("/")[0] if self._partition == "day" else _split(file)
            yield rows.append_column(self._partition, pa.array([value] * len(rows), pa.string()))


def _split(file: parquet.DataFile) -> str:
    """Return the split of a file's rows. The folder names it or, in a dataset, the file: train-00000-of-00001.jsonl."""
    return file.split or file.path.rpartition("/")[2].partition("-")[0]


def open_table(lake: Lake, name: str, version: str = "") -> Table:
    """Open a version of a table; "" is the current one. Raises InputError if there is no such table or version."""
    names = (*schemas.SCHEMAS, schemas.DATASET)
    if name not in names:
        msg = f"there is no table {name!r}; the tables are {', '.join(names)}"
        raise InputError(msg)
    return Table(lake, tables.load(lake, name, version) if version else tables.require(lake, name))
