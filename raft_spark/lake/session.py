"""Settings -> a Spark session, started when the first stage needs one: a run with nothing to do starts no JVM."""

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
from raft_spark.lake import spark_catalog, spark_output

LOG = logging.getLogger(__name__)
DEFAULTS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.sql.parquet.enableVectorizedReader": "true",
    "spark.sql.inMemoryColumnarStorage.batchSize": "1000",  # rows of texts that a task gathers before they are spilled
    "spark.speculation": "false",
    "spark.task.maxFailures": "10",  # a task that asks lasts as long as the run, and a lost machine may count against it
}
LOCAL = {
    "spark.master": "local[*]",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.sql.shuffle.partitions": "4",
}


def start(conf: Config, doing: str = "raft-spark") -> SparkSession:
    """Return the running session, else start one: what spark-submit set stands, conf's [spark] section goes over it.

    A session that runs already keeps its settings, except those of DEFAULTS and [spark] that Spark can still change.

    Spark's page and event log describe the jobs that follow by `doing`: a stage, or a stage and what it does, as "base: draw".

    Raises ConfigError when no Java is found, or the lake's catalog does not answer.
    """
    logs.configure(conf.log.format)
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ
    is_first = SparkSession.getActiveSession() is None
    settings = (
        DEFAULTS
        | (LOCAL if is_first and not submitted else {})
        | _s3a(conf)
        | conf.spark
        | spark_catalog.settings(conf, submitted=submitted)
    )
    if not submitted:
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        os.environ["JAVA_HOME"] = java_home()
        spark_output.start_java(settings)
    logging.getLogger("py4j").setLevel(logging.CRITICAL)  # it logs what it raises
    builder = SparkSession.builder.appName(_submitted_name() if submitted else "raft-spark")
    for key, value in settings.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    spark.sparkContext.setJobDescription(doing)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # pyspark's own turns Ctrl-C into a Py4JError
    spark_catalog.check(spark, conf)
    return spark


def _submitted_name() -> str:
    """Return the name that a person gave to spark-submit; raft-spark-base in place of the script's, which Spark takes without."""
    SparkContext._ensure_initialized()  # noqa: SLF001 - as pyspark's own builder does, so that SparkConf knows what was submitted
    script = Path(sys.argv[0])
    name = SparkConf().get("spark.app.name", "") or script.name
    return f"raft-spark-{script.stem}" if name == script.name else name


def stop() -> None:
    """Stop the session, if one runs, and with it its jobs."""
    spark = SparkSession.getActiveSession()
    if spark is not None:
        spark.sparkContext.setLogLevel("OFF")  # what is cancelled complains
        spark.sparkContext.cancelAllJobs()
        spark.stop()


def task_slots(spark: SparkSession) -> int:
    """Return how many tasks can run at once when every executor that was asked for is there."""
    context = spark.sparkContext
    executors = max(
        _number(context, f"spark.{name}") for name in ("executor.instances", "dynamicAllocation.maxExecutors")
    )
    return max(context.defaultParallelism, executors * max(1, _number(context, "spark.executor.cores")))


def _number(context: SparkContext, key: str) -> int:
    found = context.getConf().get(key, "") or ""
    return int(found) if found.isdecimal() else 0


def driver_addresses(spark: SparkSession) -> tuple[str, str]:
    """Return the address the driver binds to, and the one that executors reach it by."""
    get = spark.sparkContext.getConf().get
    host = get("spark.driver.host", "127.0.0.1") or "127.0.0.1"
    return get("spark.driver.bindAddress", host) or host, host


@contextmanager
def stop_on_signals(spark: SparkSession, stop: Callable[[str], None]) -> Iterator[None]:
    """Call `stop` on the first SIGTERM or Ctrl-C while the block runs; a second one ends the run at once, as ever.

    Under spark-submit the JVM is the process that gets SIGTERM, and would end with all tasks; so it hands it on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = (signal.SIGTERM, signal.SIGINT)

    def asked(number: int, _: object) -> None:
        for name in names:
            signal.signal(name, signal.default_int_handler)
        LOG.warning("stopping: open calls are waited for and stored; once more stops at once")
        stop(signal.Signals(number).name)

    before = [(name, signal.signal(name, asked)) for name in names]
    java = _JavaSignal(spark, stop)
    try:
        yield
    finally:
        java.undo()
        for name, handler in before:
            signal.signal(name, handler)


class _JavaSignal:
    """The JVM's own SIGTERM, handed to `stop` once; py4j calls `handle` from a thread of its own."""

    class Java:
        """The interface that py4j implements in the JVM by this class."""

        implements: ClassVar = ["sun.misc.SignalHandler"]

    def __init__(self, spark: SparkSession, stop: Callable[[str], None]) -> None:
        gateway: Any = spark.sparkContext._gateway  # noqa: SLF001 - as pyspark's own callbacks (foreachBatch) do
        ensure_callback_server_started(gateway)  # type: ignore[no-untyped-call]
        self._misc, self._stop = gateway.jvm.sun.misc, stop
        self._before = self._misc.Signal.handle(self._misc.Signal("TERM"), self)

    def handle(self, _: object) -> None:
        """Take the signal; the next one is the JVM's again."""
        self.undo()
        self._stop("SIGTERM")

    def undo(self) -> None:
        """Give the signal back to the JVM."""
        self._misc.Signal.handle(self._misc.Signal("TERM"), self._before)


def _s3a(conf: Config) -> dict[str, str]:
    """Reach an S3 lake the way the workers do: s3:// is S3A, and another server is addressed by path."""
    if "://" not in conf.lake.root:
        return {}
    endpoint = conf.lake.s3_endpoint
    settings = {"spark.hadoop.fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem"}
    if endpoint:
        settings["spark.hadoop.fs.s3a.endpoint"] = endpoint
        settings["spark.hadoop.fs.s3a.path.style.access"] = "true"
        settings["spark.hadoop.fs.s3a.connection.ssl.enabled"] = str(endpoint.startswith("https")).lower()
    if conf.lake.s3_region:
        settings["spark.hadoop.fs.s3a.endpoint.region"] = conf.lake.s3_region
    return settings
