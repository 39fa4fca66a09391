"""The start of a local Spark is quiet on both Spark lines; what is wrong is still said."""

import os
import subprocess
import sys

import pytest

from conftest import ROOT
from raft_spark.lake import spark_output

STARTED = """
from raft_spark import config
from raft_spark.lake import session
for _ in range(2):  # the second session takes the Java of the first
    spark = session.start(config.load())
    spark.range(10).count()
    session.stop()
print(spark.version)
"""
FAILS = """
from raft_spark import config
from raft_spark.lake import session
spark = session.start(config.load())
spark.sparkContext.parallelize([1], 1).map(lambda number: number / 0).collect()
"""


def python(code: str, spark: str = "4.1.1", **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{ROOT}:{ROOT / 'build/spark-3.5.8'}" if spark == "3.5.8" else str(ROOT)
    environment = {**os.environ, "PYTHONPATH": path, **environment}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)


@pytest.mark.row
def test_notices_are_left_out_and_all_else_comes_in_order(capsys: pytest.CaptureFixture[str]):
    error = "26/11/28 15:36:11 ERROR Executor: Exception in task 0.0\n"
    warning = "26/11/28 15:36:11 WARN Utils: Your hostname resolves to a loopback address\n"
    notices = [
        "WARNING: Using incubator modules: jdk.incubator.vector\n",
        "Using Spark's default log4j profile: org/apache/spark/log4j2-defaults.properties\n",
        'Setting default log level to "WARN".\n',
        "To adjust logging level use sc.setLogLevel(newLevel). For SparkR, use setLogLevel(newLevel).\n",
        "26/11/28 15:06:28 WARN NativeCodeLoader: Unable to load native-hadoop library for your platform...\n",
    ]
    spark_output.write_lines([notices[0], error, *notices[1:], warning, "no end of line"])
    assert capsys.readouterr().err == f"{error}{warning}no end of line"


@pytest.mark.spark
@pytest.mark.parametrize("spark", ["4.1.1", "3.5.8"])
def test_a_start_writes_nothing_to_standard_error(spark: str):
    done = python(STARTED, spark=spark)
    assert done.stdout.strip() == spark
    assert done.stderr == ""


@pytest.mark.spark
@pytest.mark.parametrize("spark", ["4.1.1", "3.5.8"])
def test_a_local_java_has_one_garbage_collector_that_the_environment_may_choose(spark: str):
    code = """
from raft_spark import config
from raft_spark.lake import session
java = session.start(config.load())._jvm.java.lang.management.ManagementFactory
print(*java.getRuntimeMXBean().getInputArguments())
print(*(each.getName() for each in java.getGarbageCollectorMXBeans()))
"""
    ours = python(code, spark=spark, SPARK_SUBMIT_OPTS="")
    assert "-XX:TieredStopAtLevel=1" in ours.stdout
    assert ours.stdout.splitlines()[1] == "Copy MarkSweepCompact"
    theirs = python(code, spark=spark, SPARK_SUBMIT_OPTS="-XX:+UseParallelGC")
    assert "-XX:TieredStopAtLevel=1" not in theirs.stdout
    assert theirs.stdout.splitlines()[1] == "PS MarkSweep PS Scavenge"


@pytest.mark.spark
def test_a_java_that_does_not_start_says_why():
    done = python(STARTED, PYSPARK_SUBMIT_ARGS="--no-such-option pyspark-shell")
    assert done.returncode != 0
    assert "Unrecognized option: --no-such-option" in done.stderr


@pytest.mark.spark
def test_a_task_that_fails_is_told_by_spark_too():
    done = python(FAILS)
    assert done.returncode != 0
    assert "ERROR Executor: Exception in task" in done.stderr
