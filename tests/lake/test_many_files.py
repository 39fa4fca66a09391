"""A store with hundreds of small files, as a long run leaves it, is opened and read."""

import os
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raft_spark import config
from raft_spark.lake import dataframes, schemas, session, tables
from raft_spark.monitoring import spark_stats

pytestmark = pytest.mark.spark


def test_opening_hundreds_of_files_starts_few_tasks(settled: Callable[..., config.Config]):
    conf = settled()
    storage = tables.storage(conf.lake, schemas.COMPLETIONS)
    row = pa.Table.from_pylist([{"key": "a", "key_of_any_length": "b"}], schemas.SCHEMAS[schemas.COMPLETIONS])
    first = storage.path("data/day=2026-01-01/run-p00000-0-1-0.parquet")
    with storage.atomic_write("data/day=2026-01-01/run-p00000-0-1-0.parquet") as local:
        pq.write_table(row, local)
    for number in range(1, 200):
        os.link(first, first.replace("p00000-0", f"p00000-{number}"))
    spark = session.start(conf)
    before = spark_stats.last_stage(spark)
    answers = dataframes.stored_answers(spark, conf.lake)
    assert spark_stats.measure(spark, before)["tasks"] <= 32
    assert answers.count() == 200
