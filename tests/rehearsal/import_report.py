"""Report from where the driver and each executor import their packages, as one line of JSON.

This is the entry point of a job that runs before the others, with their settings. It reports every module that is loaded
after the import of raft-spark.
"""

import json
import os
import sys

from raft_spark import preflight

preflight.check()

from pyspark.sql import SparkSession  # noqa: E402 - after the check, as in the jobs

TASKS = 4


def report(_: object = None) -> dict[str, object]:
    """Import the package as its tasks do; return the file of each loaded top-level module."""
    import importlib
    import platform

    for name in (
        "raft_spark.stages.completions",
        "raft_spark.stages.dataset",
        "raft_spark.endpoints.aws",
        "boto3",
        "pandas",
        "pyarrow.fs",
    ):
        importlib.import_module(name)
    files = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    return {
        "folder": os.getcwd(),  # noqa: PTH109 - a text to be printed
        "executable": sys.executable,
        "python": platform.python_version(),
        "standard": os.path.dirname(os.__file__),  # noqa: PTH120 - the same
        "modules": {name: file for name, file in sorted(files.items()) if file and "." not in name},
    }


if __name__ == "__main__":
    spark = SparkSession.builder.getOrCreate()
    executors = spark.sparkContext.parallelize(range(TASKS), TASKS).map(report).collect()
    sys.stdout.write(json.dumps({"spark": spark.version, "driver": report(), "executors": executors}) + "\n")
    spark.stop()
