"""Bring a lake and its catalog up to date, and say what is there: python walk_catalog.py [CONF.toml ...] [--set ...]

A lake that is new is walked stage by stage, another is refreshed. The last line is JSON: the catalog's columns, and how many
versions it holds by name, each compared with the lake's.
"""

import json
import sys

from raft_spark import config
from raft_spark.lake import dataframes, schemas, session, tables
from raft_spark.stages import refresh, registry, runner


def held(conf: config.Config, table: str) -> int:
    """Count the versions that the catalog gives as the lake does, in the columns that they had; `main` is the current one."""
    spark, name = session.start(conf), f"{conf.lake.catalog}.{conf.lake.namespace}.{table}"
    found = tables.history(conf.lake, table)
    for version in found:
        rows = spark.sql(f"SELECT * FROM {name} VERSION AS OF '{version.id}'")  # noqa: S608 - names of our own
        read = dataframes.read(spark, conf.lake, version).select(rows.columns)
        assert sorted(map(str, rows.collect())) == sorted(map(str, read.collect()))
    current = dataframes.read(spark, conf.lake, tables.require(conf.lake, table))
    main = spark.table(name).select(current.columns)
    assert sorted(map(str, main.collect())) == sorted(map(str, current.collect()))
    return len(found)


if __name__ == "__main__":
    conf = config.from_argv(sys.argv[1:])
    if tables.current(conf.lake, schemas.DATASET):
        refresh.run(conf)
    else:
        for stage in registry.PIPELINE:
            runner.run(stage, conf)
    name = f"{conf.lake.catalog}.{conf.lake.namespace}"
    columns = {table: len(session.start(conf).table(f"{name}.{table}").columns) for table in schemas.KEYS}
    versions = {table: held(conf, table) for table in schemas.KEYS}
    sys.stdout.write(json.dumps({"columns": columns, "versions": versions}) + "\n")
    session.stop()
