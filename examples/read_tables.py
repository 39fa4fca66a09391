"""Read a table with pandas, Polars, DuckDB and Spark. Run examples/laptop.py first, with the same settings.

python examples/read_tables.py [more settings.toml ...]
"""

import sys

import duckdb
import pandas as pd
import polars as pl
from pyspark.sql import SparkSession

import raft_spark as rs

conf = rs.load_config("local.toml", *sys.argv[1:])
table = rs.open_table(conf, "base")

# `path` is a folder of Parquet files, with the column `split` in the names of its folders.
print("pandas", pd.read_parquet(table.path).groupby("split", observed=True).size().to_dict())
print("Polars", dict(pl.scan_parquet(table.path).group_by("split").len().collect().iter_rows()))
query = "SELECT split, count(*) FROM read_parquet(?, hive_partitioning = true) GROUP BY split"
print("DuckDB", dict(duckdb.execute(query, [f"{table.path}/**/*.parquet"]).fetchall()))
spark = SparkSession.builder.getOrCreate()
print(
    "Spark", {row["split"]: row["count"] for row in spark.read.parquet(table.path).groupBy("split").count().collect()}
)

# raft-spark reads every table too: with fixed column types, also from a bucket, and the dataset in each of its formats.
print("raft-spark", table.to_pandas().groupby("split").size().to_dict(), table.to_spark(spark).count())
print(rs.open_table(conf, "dataset").to_arrow().slice(0, 1).to_pylist())
