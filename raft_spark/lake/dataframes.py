"""Read versions of tables as Spark DataFrames, and assign row groups and other inputs to Spark tasks."""

import json
from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import groupby
from typing import Any

from pyspark.sql import DataFrame, DataFrameReader, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StringType, StructField

from raft_spark.config import Lake
from raft_spark.lake.parquet import DataFile, file_from_row
from raft_spark.lake.schemas import COMPLETIONS, FILES, SCHEMAS
from raft_spark.lake.tables import Version, answer_files, files_folder, require_files, row_groups, storage
from raft_spark.lake.tasks import repeat_broken


def read(spark: SparkSession, lake: Lake, version: Version) -> DataFrame:
    """Return the rows of a version with the partition column last: `split`, for completions `day`; lazy.

    Raises DamageError when a file is missing or has another size.
    """
    schema = from_arrow_schema(SCHEMAS[version.table])
    day = version.table == COMPLETIONS
    schema.add(StructField("day" if day else "split", StringType()))
    require_files(lake, version)
    folder = files_folder(lake, version)
    parts = [
        _parquet(
            spark.read.schema(schema).option("basePath", folder.uri(name)), [folder.uri(file.path) for file in files]
        )
        for name, files in groupby(version.data(), lambda file: file.path.partition("/")[0])
    ]
    return reduce(DataFrame.union, parts) if parts else spark.createDataFrame([], schema)


def stored_answers(spark: SparkSession, lake: Lake, stage: str = COMPLETIONS) -> DataFrame:
    """Return every answer in the store of a stage, including answers of runs that ended before they published; lazy."""
    folder = storage(lake, stage)
    schema = from_arrow_schema(SCHEMAS[COMPLETIONS])
    paths = [folder.uri(path) for path in answer_files(lake, stage)]
    return _parquet(spark.read.schema(schema), paths) if paths else spark.createDataFrame([], schema)


def _parquet(reader: DataFrameReader, paths: Sequence[str]) -> DataFrame:
    """Open files, each of which Spark lists."""
    return repeat_broken(lambda: reader.parquet(*paths))


def assign_tasks(spark: SparkSession, inputs: Sequence[Mapping[str, Any]], count: int) -> DataFrame:
    """Return (task, input as JSON) with one Spark partition a task, for at most `count` tasks.

    `parquet.by_task` reads the rows in a task.
    """
    return one_task_each(spark, group_inputs(inputs, count))


def group_inputs(inputs: Sequence[Mapping[str, Any]], count: int) -> list[list[Mapping[str, Any]]]:
    """Return the inputs of each of at most `count` tasks: consecutive ones, with about the same sum of `rows`."""
    total = sum(each["rows"] for each in inputs)
    count = max(1, min(count, len(inputs)))
    groups: list[list[Mapping[str, Any]]] = [[] for _ in range(count)]
    rows_before = 0
    for each in inputs:
        groups[min(count - 1, (rows_before + each["rows"] // 2) * count // max(1, total))].append(each)
        rows_before += each["rows"]
    return groups


def row_group_tasks(spark: SparkSession, lake: Lake, version: Version) -> DataFrame:
    """Assign the row groups of a version to tasks of about lake.file_mb each."""
    size = sum(file.bytes for file in version.data())
    return assign_tasks(spark, row_groups(lake, version), task_count(spark, lake, size))


def one_task_each(spark: SparkSession, groups: Sequence[Sequence[Mapping[str, Any]]], first: int = 0) -> DataFrame:
    """Return (task, input as JSON) with one Spark partition for each group of inputs; the tasks are numbered from `first`.

    Spark gets the inputs as one literal: an RDD of them would take a second Python worker beside each task.
    """
    group, texts = F.col("id").cast("int"), [list(map(json.dumps, group)) for group in groups]
    of_group = F.from_json(F.lit(json.dumps(texts)), "array<array<string>>")[group]
    task = (group + first).alias("task")
    return spark.range(0, len(groups), 1, len(groups)).select(task, F.explode(of_group).alias("input"))


def partition_values(spark: SparkSession, count: int) -> list[int]:
    """Return for each of `count` partitions a value that `repartition(count, column)` sends there.

    Spark places rows by a hash, so a few values of one's own may meet in the same partition.
    """
    tries = spark.range(64 * count).select(F.col("id").cast("int").alias("value"))
    partition = F.pmod(F.hash("value"), F.lit(count)).alias("partition")
    first = tries.groupBy(partition).agg(F.min("value")).orderBy("partition").collect()
    return [value for _, value in first]


def task_count(spark: SparkSession, lake: Lake, size: int) -> int:
    """Return the number of tasks for `size` bytes: one for each lake.file_mb or more, as many for each core."""
    cores, files = spark.sparkContext.defaultParallelism, -(-size // (lake.file_mb * 1_000_000))
    return cores * max(1, -(-files // cores))


def collect_files(described_files: DataFrame) -> list[DataFile]:
    """Run the tasks and collect the descriptions of the files they wrote: one row a file, some thousands at most."""
    return [file_from_row(row) for row in described_files.select(*FILES.names).collect()]
