"""Measure how well it can be told without reading whether the oracle of a row is missing: python tests/benchmarks/leakage.py

The real rows come from the Parquet file that RAFT_SPARK_REAL_ARTICLES names, if it is set.
"""

import json
import os
import sys
import tempfile

from raft_spark import config
from raft_spark.lake import session
from raft_spark.recipe import leakage
from raft_spark.stages import articles, base

SOURCES = {"built-in": "sample:20000", "real": os.environ.get("RAFT_SPARK_REAL_ARTICLES", "")}
RECIPES = {name: f"base.absent={name}" for name in ("stand_in", "singles", "nothing")}

if __name__ == "__main__":
    for name, source in SOURCES.items():
        for recipe, assignment in RECIPES.items() if source else ():
            with tempfile.TemporaryDirectory() as lake:
                settings = [f"lake.root={lake}", f"articles.source={source}", assignment]
                conf = config.load(assignments=[*settings, 'spark."spark.master"="local[2]"'])
                articles.run(conf)
                found = leakage.measure(session.start(conf), conf.lake, base.run(conf)).tells
                sys.stdout.write(f"{name}, {recipe}: {json.dumps(found)}\n")
