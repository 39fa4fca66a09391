"""Start and stop the Spark session. A stage starts it when it has work, so a run with nothing to do starts no JVM."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from pyspark import SparkConf, SparkContext
from pyspark.java_gateway import ensure_callback_server_started
from pyspark.sql import SparkSession

from raft_spark.common import logs
from raft_spark.common.java import java_home
from raft_spark.config import Config
from raft_spark.lake import shared_disk, spark_catalog, spark_output

LOG = logging.getLogger(__name__)
DEFAULTS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.sql.parquet.enableVectorizedReader": "true",
    "spark.sql.sources.parallelPartitionDiscovery.parallelism": "32",  # tasks that look at small files, else one for each
    "spark.sql.inMemoryColumnarStorage.batchSize": "1000",  # rows of text that a task gathers before Spark can spill them
    "spark.speculation": "false",
    "spark.task.maxFailures": "10",  # a task that calls the model runs for hours, and lost machines count
}
LOCAL = {
    "spark.master": "local[*]",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.sql.shuffle.partitions": "4",
    "spark.executor.heartbeatInterval": "2s",  # with which the peak of memory comes; a run may take less than 10 s
}
# For a JVM that mostly starts, plans and moves rows: half of its CPU seconds, and 200 MB less (see docs/scale.md). Code that
# is compiled once takes 48 MB soon, and is thrown away and compiled again without more room.
JVM_OPTIONS = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:ReservedCodeCacheSize=240m"
JVM_VARIABLES = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "SPARK_SUBMIT_OPTS")


def start(conf: Config, description: str = "raft-spark") -> SparkSession:
    """Return the running Spark session, or start one.

    The [spark] section overrides what spark-submit was given. A session that is already running keeps its settings, except
    those of DEFAULTS and [spark] that Spark can change at run time.

    `description` labels the jobs that follow in Spark's UI and event log: a stage, or a stage and its step as in "base: draw".

    Raises ConfigError when Java is not found, or when the lake's catalog does not answer, and InputError when an executor
    does not see the lake.
    """
    logs.configure(conf.log.format)
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ
    is_first = SparkSession.getActiveSession() is None
    settings = (
        DEFAULTS
        | (LOCAL | _jvm_options() if is_first and not submitted else {})
        | _s3a(conf)
        | conf.spark
        | spark_catalog.settings(conf, submitted=submitted)
    )
    if not submitted:
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        os.environ["JAVA_HOME"] = java_home()
        spark_output.start_java(settings)
    logging.getLogger("py4j").setLevel(logging.CRITICAL)  # it logs every error that it also raises
    builder = SparkSession.builder.appName(_submitted_name() if submitted else "raft-spark")
    for key, value in settings.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    spark.sparkContext.setJobDescription(description)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # pyspark's handler turns Ctrl-C into a Py4JError
    shared_disk.check_lake(spark, conf.lake)
    spark_catalog.check(spark, conf)
    return spark


def _jvm_options() -> dict[str, str]:
    """Return the options of a local JVM; none where the environment chooses a garbage collector, since Java takes only one."""
    is_chosen = any("GC" in os.environ.get(name, "") for name in JVM_VARIABLES)
    return {} if is_chosen else {"spark.driver.extraJavaOptions": JVM_OPTIONS}


def _submitted_name() -> str:
    """Return the `--name` given to spark-submit. Without one Spark uses the script's name, base.py: return raft-spark-base."""
    SparkContext._ensure_initialized()  # noqa: SLF001 - as pyspark's builder does; SparkConf is empty before
    script = Path(sys.argv[0])
    name = SparkConf().get("spark.app.name", "") or script.name
    return f"raft-spark-{script.stem}" if name == script.name else name


def stop() -> None:
    """Cancel all jobs and stop the session, if one is running."""
    spark = SparkSession.getActiveSession()
    if spark is not None:
        spark.sparkContext.setLogLevel("OFF")  # cancelled jobs log errors
        spark.sparkContext.cancelAllJobs()
        spark.stop()


def task_slots(spark: SparkSession) -> int:
    """Return how many tasks can run at once when all requested executors have started."""
    context = spark.sparkContext
    executors = max(
        _number(context, f"spark.{name}") for name in ("executor.instances", "dynamicAllocation.maxExecutors")
    )
    return max(context.defaultParallelism, executors * max(1, _number(context, "spark.executor.cores")))


def _number(context: SparkContext, key: str) -> int:
    value = context.getConf().get(key, "") or ""
    return int(value) if value.isdecimal() else 0


def driver_addresses(spark: SparkSession) -> tuple[str, str]:
    """Return the address that the driver binds to, and the address at which executors reach it."""
    get = spark.sparkContext.getConf().get
    host = get("spark.driver.host", "127.0.0.1") or "127.0.0.1"
    return get("spark.driver.bindAddress", host) or host, host


@contextmanager
def stop_on_signals(spark: SparkSession, stop: Callable[[str], None]) -> Iterator[None]:
    """Call `stop` with the signal's name on the first SIGTERM or Ctrl-C in the block; a second one ends the process at once.

    Under spark-submit the JVM gets SIGTERM, and would by default exit and end all tasks. It calls `stop` instead.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = (signal.SIGTERM, signal.SIGINT)

    def handle(number: int, _: object) -> None:
        for name in names:
            signal.signal(name, signal.default_int_handler)
        LOG.warning("stopping: waiting for open calls to end and storing their answers; a second signal stops at once")
        stop(signal.Signals(number).name)

    before = [(name, signal.signal(name, handle)) for name in names]
    java = _JavaSignal(spark, stop)
    try:
        yield
    finally:
        java.undo()
        for name, handler in before:
            signal.signal(name, handler)


class _JavaSignal:
    """Forward the JVM's first SIGTERM to `stop`; py4j calls `handle` in another thread."""

    class Java:
        """Name the Java interface that this class implements for py4j."""

        implements: ClassVar = ["sun.misc.SignalHandler"]

    def __init__(self, spark: SparkSession, stop: Callable[[str], None]) -> None:
        gateway: Any = spark.sparkContext._gateway  # noqa: SLF001 - as pyspark's foreachBatch does
        ensure_callback_server_started(gateway)  # type: ignore[no-untyped-call]
        self._misc, self._stop = gateway.jvm.sun.misc, stop
        self._before = self._misc.Signal.handle(self._misc.Signal("TERM"), self)

    def handle(self, _: object) -> None:
        """Handle the first signal; the JVM handles the next one."""
        self.undo()
        self._stop("SIGTERM")

    def undo(self) -> None:
        """Restore the JVM's handler."""
        self._misc.Signal.handle(self._misc.Signal("TERM"), self._before)


def _s3a(conf: Config) -> dict[str, str]:
    """Return Spark's settings for a lake on S3: s3:// paths use S3A, and lake.s3_endpoint is addressed with path-style URLs.

    Parquet's vectored reads are off, because S3A does not repeat one whose connection breaks, as it does any other read.
    """
    if "://" not in conf.lake.root:
        return {}
    endpoint = conf.lake.s3_endpoint
    settings = {
        "spark.hadoop.fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem",
        "spark.hadoop.parquet.hadoop.vectored.io.enabled": "false",
    }
    if endpoint:
        settings["spark.hadoop.fs.s3a.endpoint"] = endpoint
        settings["spark.hadoop.fs.s3a.path.style.access"] = "true"
        settings["spark.hadoop.fs.s3a.connection.ssl.enabled"] = str(endpoint.startswith("https")).lower()
    if conf.lake.s3_region:
        settings["spark.hadoop.fs.s3a.endpoint.region"] = conf.lake.s3_region
    return settings
