"""A lake with an Iceberg catalog in a folder, and what that catalog holds."""

import itertools
from pathlib import Path

from pyspark.sql import DataFrame

from conftest import ROOT, Settle
from raft_spark import config
from raft_spark.lake import dataframes, schemas, session, spark_catalog, tables

JARS = ROOT / "build/jars/iceberg"
SPARK = {
    "spark.jars": f"{JARS}/{'-'.join(spark_catalog.package().split(':')[1:])}.jar,{JARS}/iceberg-aws-bundle-1.11.0.jar",
    "spark.sql.extensions": spark_catalog.EXTENSIONS,
}
NAMES = (f"catalog_{number}" for number in itertools.count())  # Spark keeps a catalog as long as the session


def with_iceberg() -> list[str]:
    return [f'spark."{key}"="{value}"' for key, value in SPARK.items()]


def iceberg_config(settled: Settle, source: Path, fake: config.Endpoint) -> config.Config:
    """Return the settings of a lake whose Iceberg catalog is a folder."""
    return settled(
        *with_iceberg(),
        f"articles.source={source}",
        "lake.format=iceberg",
        f"lake.catalog={next(NAMES)}",
        "completions.endpoint=mine",
        'endpoints.mine.kind="openai"',
        f'endpoints.mine.url="{fake.url}"',
        'endpoints.mine.model="fake"',
    )


def name(conf: config.Config, table: str) -> str:
    return f"{conf.lake.catalog}.{conf.lake.namespace}.{table}"


def in_catalog(conf: config.Config, table: str, version: str = "") -> DataFrame:
    at = f" VERSION AS OF '{version}'" if version else ""
    return session.start(conf).sql(f"FROM {name(conf, table)}{at} SELECT *")


def listed(rows: DataFrame) -> list[str]:
    """Return all rows as sorted texts, independent of the order of rows and columns."""
    return sorted(str(row) for row in rows.select(sorted(rows.columns)).collect())


def holds(conf: config.Config) -> bool:
    """Return whether each table of the catalog has the rows of the lake's current version, now and under its tag."""
    spark, found = session.start(conf), []
    for version in filter(None, (tables.current(conf.lake, table) for table in schemas.KEYS)):
        rows = listed(dataframes.read(spark, conf.lake, version))
        found += [rows == listed(in_catalog(conf, version.table, at)) for at in ("", version.id)]
    return bool(found) and all(found)
